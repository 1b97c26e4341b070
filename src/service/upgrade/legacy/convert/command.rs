//! Conversion of a command.

use super::{Foreign, Result};
use crate::config::Command;

impl Foreign {
    /// Returns the command and its account.
    pub(super) fn command(&self) -> Result<Command> {
        let file = &self.file;
        let id = |key| file.read::<u32>("identity", key);
        let uid = id("uid")?.filter(|uid| *uid != 0);
        let argv = file.values("command", "argv")?;
        let mut command = Command {
            argv: argv.into_iter().map(str::to_owned).collect(),
            uid,
            gid: id("gid")?.filter(|gid| *gid != 0),
            ..Command::default()
        };
        if uid.is_some() {
            let text = |key| file.get("identity", key).map(str::to_owned);
            command.user = text("username");
            command.home = text("homedir").map(Into::into);
        }
        for group in file.numbered("env")? {
            let (key, value) = (file.need(&group, "key")?, file.need(&group, "value")?);
            command.environment.insert(key.to_owned(), value.to_owned());
        }
        Ok(command)
    }
}
