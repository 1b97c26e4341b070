//! Directories that systemd creates for a unit: `StateDirectory=` and the like, systemd.exec(5).

use std::path::{Path, PathBuf};

/// Purpose of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirectoryKind {
    /// `RuntimeDirectory=`, removed when the unit stops.
    Runtime,
    /// `StateDirectory=`.
    State,
    /// `CacheDirectory=`.
    Cache,
    /// `LogsDirectory=`.
    Logs,
    /// `ConfigurationDirectory=`.
    Configuration,
}

impl DirectoryKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Runtime,
        Self::State,
        Self::Cache,
        Self::Logs,
        Self::Configuration,
    ];

    /// Returns the key in a unit file; with `Mode` appended it is the key of the mode.
    pub fn key(self) -> &'static str {
        match self {
            Self::Runtime => "RuntimeDirectory",
            Self::State => "StateDirectory",
            Self::Cache => "CacheDirectory",
            Self::Logs => "LogsDirectory",
            Self::Configuration => "ConfigurationDirectory",
        }
    }

    /// Returns the parent of such directories.
    pub fn base(self) -> &'static Path {
        Path::new(match self {
            Self::Runtime => "/run",
            Self::State => "/var/lib",
            Self::Cache => "/var/cache",
            Self::Logs => "/var/log",
            Self::Configuration => "/etc",
        })
    }
}

/// Directory that systemd creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedDirectory {
    /// Purpose.
    pub kind: DirectoryKind,
    /// Path as the service sees it.
    pub path: PathBuf,
    /// Real path with `DynamicUser=`; `path` is then a link to it.
    pub private: Option<PathBuf>,
    /// Additional links to the directory.
    pub links: Vec<PathBuf>,
    /// Permission bits.
    pub mode: u32,
}

impl ManagedDirectory {
    /// Parses one word: `NAME`, `NAME:LINK` (systemd 251) or `NAME:LINK:FLAGS` (systemd 257).
    ///
    /// Returns `None` if the name is not a relative path without `..`.
    pub fn parse(kind: DirectoryKind, word: &str, mode: u32, private: bool) -> Option<Self> {
        let mut fields = word.split(':');
        let name = relative(fields.next()?)?;
        let link = fields.next().and_then(relative);
        Some(Self {
            kind,
            path: kind.base().join(name),
            private: private.then(|| kind.base().join("private").join(name)),
            links: link
                .map(|link| kind.base().join(link))
                .into_iter()
                .collect(),
            mode,
        })
    }
}

fn relative(name: &str) -> Option<&str> {
    let ok = !name.is_empty() && !name.starts_with('/') && name.split('/').all(|part| part != "..");
    ok.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_paths() {
        let cases = [
            ("a/b", false, Some(("/var/lib/a/b", None, None))),
            (
                "a",
                true,
                Some(("/var/lib/a", Some("/var/lib/private/a"), None)),
            ),
            (
                "a:old",
                false,
                Some(("/var/lib/a", None, Some("/var/lib/old"))),
            ),
            ("a::ro", false, Some(("/var/lib/a", None, None))),
            ("/a", false, None),
            ("../a", false, None),
        ];
        for (word, private, expected) in cases {
            let dir = ManagedDirectory::parse(DirectoryKind::State, word, 0o755, private);
            let expected = expected.map(|(path, private, link)| ManagedDirectory {
                kind: DirectoryKind::State,
                path: path.into(),
                private: private.map(PathBuf::from),
                links: link.map(PathBuf::from).into_iter().collect(),
                mode: 0o755,
            });
            assert_eq!(dir, expected, "{word}");
        }
    }
}
