//! Specifiers such as `%i`, as systemd.unit(5), "Specifiers", defines them for the system manager.
//!
//! Values that depend on the machine are handed in: they are the sandbox's, not
//! the host's.

use std::collections::BTreeSet;
use std::path::Path;

use crate::facts::unit::name::UnitName;
use crate::facts::unit::name::escape::{unescape, unescape_path};

/// Values of the specifiers that depend on the machine; a specifier whose value is `None` is kept as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Specifiers {
    /// `%H`, and up to its first dot `%l`.
    pub hostname: Option<String>,
    /// `%q`; without one the short host name.
    pub pretty_hostname: Option<String>,
    /// `%m`: 32 hex digits.
    pub machine_id: Option<String>,
    /// `%b`: 32 hex digits.
    pub boot_id: Option<String>,
    /// `%v`: what `uname -r` says.
    pub kernel_release: Option<String>,
    /// The fields of os-release(5), of which an unset one is an empty text.
    pub os: Option<OsRelease>,
}

/// The fields of os-release(5) that have a specifier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID=`: `%o`.
    pub id: String,
    /// `VERSION_ID=`: `%w`.
    pub version_id: String,
    /// `VARIANT_ID=`: `%W`.
    pub variant_id: String,
    /// `BUILD_ID=`: `%B`.
    pub build_id: String,
    /// `IMAGE_ID=`: `%M`.
    pub image_id: String,
    /// `IMAGE_VERSION=`: `%A`.
    pub image_version: String,
}

/// Unit whose file contains the value.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// Name.
    pub name: &'a UnitName,
    /// Main file (`%y`), or `None` for an init script.
    pub fragment: Option<&'a Path>,
}

impl Specifiers {
    /// Expands the specifiers in `text`; unknown ones stay as written and are added to `unresolved`.
    pub fn expand(&self, owner: Owner<'_>, text: &str, unresolved: &mut BTreeSet<char>) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            // systemd keeps a lone % at the end.
            let Some(letter) = rest.next() else {
                out.push('%');
                break;
            };
            if let Some(value) = self.value(owner, letter) {
                out.push_str(&value);
            } else {
                out.extend(['%', letter]);
                unresolved.insert(letter);
            }
        }
        out
    }

    fn value(&self, owner: Owner<'_>, letter: char) -> Option<String> {
        let name = owner.name;
        let last_part = || name.prefix().rsplit('-').next().unwrap_or_default();
        let fixed = match letter {
            '%' => "%",
            'n' => name.as_str(),
            'N' => name.stem(),
            'p' => name.prefix(),
            'P' => return unescape(name.prefix()),
            'i' => name.instance().unwrap_or_default(),
            'I' => return unescape(name.instance().unwrap_or_default()),
            'j' => last_part(),
            'J' => return unescape(last_part()),
            'f' => return file_name(name),
            'y' => return Some(owner.fragment?.to_str()?.to_owned()),
            'Y' => return Some(owner.fragment?.parent()?.to_str()?.to_owned()),
            'C' => "/var/cache",
            'E' => "/etc",
            'L' => "/var/log",
            'S' => "/var/lib",
            'T' => "/tmp",
            'V' => "/var/tmp",
            't' => "/run",
            'D' => "/usr/share",
            'd' => return Some(format!("/run/credentials/{name}")),
            'u' | 'g' => "root",
            'U' | 'G' => "0",
            'h' => "/root",
            's' => "/bin/sh",
            'a' => architecture(),
            'H' => return self.hostname.clone(),
            'l' => return self.short_hostname(),
            'q' => {
                return self
                    .pretty_hostname
                    .clone()
                    .or_else(|| self.short_hostname());
            }
            'm' => return self.machine_id.clone(),
            'b' => return self.boot_id.clone(),
            'v' => return self.kernel_release.clone(),
            'o' => &self.os.as_ref()?.id,
            'w' => &self.os.as_ref()?.version_id,
            'W' => &self.os.as_ref()?.variant_id,
            'B' => &self.os.as_ref()?.build_id,
            'M' => &self.os.as_ref()?.image_id,
            'A' => &self.os.as_ref()?.image_version,
            _ => return None,
        };
        Some(fixed.to_owned())
    }

    fn short_hostname(&self) -> Option<String> {
        Some(self.hostname.as_ref()?.split('.').next()?.to_owned())
    }
}

/// Returns `%f`: the instance, or else the prefix, as a path.
fn file_name(name: &UnitName) -> Option<String> {
    match name.instance() {
        // systemd treats an instance that is not an escaped path as plain escaped text.
        Some(instance) => unescape_path(instance).or_else(|| {
            unescape(instance).map(|text| format!("/{}", text.trim_start_matches('/')))
        }),
        None => unescape_path(name.prefix()),
    }
}

/// Returns the host's architecture by its name in `ConditionArchitecture=`; a sandbox has the same.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64-le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loongarch64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::unit::fixture::name;

    #[test]
    fn specifiers_are_expanded() {
        let machine = Specifiers {
            hostname: Some("web.example.org".into()),
            ..Specifiers::default()
        };
        let cases = [
            (
                "a-b@x\\x2dy-z.service",
                "%n %N",
                r"a-b@x\x2dy-z.service a-b@x\x2dy-z",
            ),
            ("a-b@x\\x2dy-z.service", "%p %P %j", "a-b a/b b"),
            (
                "a-b@x\\x2dy-z.service",
                "%i %I %f",
                r"x\x2dy-z x-y/z /x-y/z",
            ),
            ("plain.service", "[%i][%I] %f %p", "[][] /plain plain"),
            (
                "plain.service",
                "%S %C %L %E %t %T %V",
                "/var/lib /var/cache /var/log /etc /run /tmp /var/tmp",
            ),
            (
                "plain.service",
                "%u %U %g %G %h %s",
                "root 0 root 0 /root /bin/sh",
            ),
            (
                "plain.service",
                "%H %l %q 100%% %",
                "web.example.org web web 100% %",
            ),
            (
                "plain.service",
                "%y %Y %d",
                "/x/plain.service /x /run/credentials/plain.service",
            ),
        ];
        for (unit, text, expected) in cases {
            let name = name(unit);
            let owner = Owner {
                name: &name,
                fragment: Some(Path::new("/x/plain.service")),
            };
            let mut unresolved = BTreeSet::new();
            assert_eq!(machine.expand(owner, text, &mut unresolved), expected);
            assert!(unresolved.is_empty(), "{text}");
        }
    }

    #[test]
    fn unknown_specifiers_stay_as_written() {
        let name = name("a.service");
        let mut unresolved = BTreeSet::new();
        let owner = Owner {
            name: &name,
            fragment: None,
        };
        assert_eq!(
            Specifiers::default().expand(owner, "%m %Z %ü", &mut unresolved),
            "%m %Z %ü"
        );
        assert_eq!(unresolved, ['Z', 'm', 'ü'].into());
    }
}
