//! Credentials of the payload: files in memory that only its owner can read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};

use crate::CREDENTIALS;
use crate::config::Credential;
use crate::root::make_dir;

/// Writes the credentials for the user and group `owner`.
pub fn write(credentials: &[Credential], (uid, gid): (u32, u32)) -> Result<()> {
    let dir = Path::new(CREDENTIALS);
    if let Some(parent) = dir.parent() {
        make_dir(parent, 0o755)?;
    }
    make_dir(dir, 0o700)?;
    for Credential { id, content } in credentials {
        let path = dir.join(id);
        let doing = || format!("writing '{}'", path.display());
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)
            .and_then(|mut file| file.write_all(&content.0))
            .and_then(|()| chown(&path, Some(uid), Some(gid)))
            .with_context(doing)?;
    }
    chown(dir, Some(uid), Some(gid))
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o500)))
        .with_context(|| format!("writing '{}'", dir.display()))
}
