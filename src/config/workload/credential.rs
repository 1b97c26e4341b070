//! Credentials of a sandbox: `ID:FILE`, a file of the host that is available inside as
//! `$CREDENTIALS_DIRECTORY/ID`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::as_text;
use crate::config::values::escape::{absolute, is_unwritable};

/// Maximum length of a credential's name (`NAME_MAX`).
const LONGEST: usize = 255;

/// Credential with its source on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Name of the file inside, valid for `LoadCredential=` of `systemd.exec(5)`.
    pub id: String,
    /// File of the host. It is read at every start; its content is stored nowhere.
    pub source: PathBuf,
}

/// Error of parsing a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCredentialError {
    /// The text is not `ID:FILE`.
    #[error("'{0}' is not a credential: write ID:FILE")]
    Syntax(String),
    /// The name is invalid.
    #[error(
        "'{0}' is not a name of a credential: use up to {LONGEST} letters, digits and '._-@+', and more than dots"
    )]
    Id(String),
}

impl Credential {
    /// Returns the credential with its file made absolute relative to `cwd`.
    #[must_use]
    pub fn absolute(self, cwd: &Path) -> Self {
        Self {
            source: absolute(&self.source, cwd),
            ..self
        }
    }
}

impl FromStr for Credential {
    type Err = ParseCredentialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParseCredentialError::Syntax(text.escape_debug().to_string());
        let (id, source) = text.split_once(':').ok_or_else(syntax)?;
        let is_known = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
        let is_id = !id.is_empty() && id.len() <= LONGEST && id.chars().all(is_known);
        if !is_id || id.chars().all(|c| c == '.') {
            return Err(ParseCredentialError::Id(id.escape_debug().to_string()));
        }
        if source.is_empty() || source.chars().any(is_unwritable) {
            return Err(syntax());
        }
        Ok(Self {
            id: id.to_owned(),
            source: source.into(),
        })
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.source.display())
    }
}

as_text!(Credential);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_name_and_a_file() {
        let credential: Credential = "db.password:/etc/app/a:b".parse().unwrap();
        assert_eq!(credential.id, "db.password");
        assert_eq!(credential.source, Path::new("/etc/app/a:b"));
        assert_eq!(credential.to_string(), "db.password:/etc/app/a:b");
        let relative: Credential = "x:pw".parse().unwrap();
        assert_eq!(
            relative.absolute(Path::new("/srv")).source,
            Path::new("/srv/pw")
        );
        let long = format!("{}:/x", "a".repeat(256));
        for bad in [
            "", "x", "x:", ":/x", ".:/x", "..:/x", "a/b:/x", "a b:/x", "a%n:/x", "a\n:/x",
            "x:/a\nb", "ä:/x", &long,
        ] {
            assert!(bad.parse::<Credential>().is_err(), "{bad:?}");
        }
    }
}
