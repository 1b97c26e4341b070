//! Accounts of the sandbox.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Account of the sandbox. A static program has no name service, so it is read from the files.
#[derive(Debug)]
pub struct Account {
    name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All group ids.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
    shell: String,
}

impl Account {
    /// Finds an account by name or number.
    pub fn find(name: &str) -> Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        match Self::parse(name, &passwd, &group) {
            Some(account) => Ok(account),
            // Root can repair a sandbox without a passwd file.
            None if name == "root" => Ok(Self {
                name: name.to_owned(),
                uid: 0,
                gid: 0,
                groups: vec![0],
                home: "/root".to_owned(),
                shell: "/bin/sh".to_owned(),
            }),
            None => bail!("the sandbox has no user '{name}'"),
        }
    }

    fn parse(name: &str, passwd: &str, group: &str) -> Option<Self> {
        let fields: Vec<&str> = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 7 && (fields[0] == name || fields[2] == name))?;
        let gid = fields[3].parse().ok()?;
        let mut groups = vec![gid];
        groups.extend(group.lines().filter_map(|line| {
            let entry: Vec<&str> = line.split(':').collect();
            let is_member =
                entry.len() >= 4 && entry[3].split(',').any(|member| member == fields[0]);
            is_member.then(|| entry[2].parse::<u32>().ok()).flatten()
        }));
        Some(Self {
            name: fields[0].to_owned(),
            uid: fields[2].parse().ok()?,
            gid,
            groups,
            home: fields[5].to_owned(),
            shell: fields[6].to_owned(),
        })
    }

    /// Returns the environment of a login and the variables `more`. `container` is that of systemd's CONTAINER_INTERFACE, or empty.
    pub fn environment(&self, container: &str, more: &[(String, String)]) -> Vec<(String, String)> {
        let usual = [
            ("PATH", PATH),
            ("HOME", &self.home),
            ("USER", &self.name),
            ("LOGNAME", &self.name),
            ("SHELL", &self.shell),
            ("container", container),
        ];
        let mut environment: Vec<(String, String)> = usual
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        for (key, value) in more {
            environment.retain(|(known, _)| known != key);
            environment.push((key.clone(), value.clone()));
        }
        environment
    }

    /// Makes this process run as the account.
    pub fn become_user(&self) -> Result<()> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).context("setting the groups")?;
        setgid(Gid::from_raw(self.gid)).context("setting the group")?;
        setuid(Uid::from_raw(self.uid)).context("setting the user")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34::/var/www:/usr/sbin/nologin\n";
        let group = "web:x:34:\ncerts:x:111:web,other\n";
        for key in ["web", "33"] {
            let account = Account::parse(key, passwd, group).unwrap();
            assert_eq!(
                (account.uid, account.gid, account.groups),
                (33, 34, vec![34, 111])
            );
            assert_eq!(account.home, "/var/www");
        }
        assert!(Account::parse("nobody", passwd, group).is_none());
    }
}
