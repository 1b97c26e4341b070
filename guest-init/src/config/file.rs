//! Files that a guest finds when it starts.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A file to write before the payload starts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// Absolute path in the sandbox; parents are created.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Complete content.
    pub content: String,
}

/// Hides content that only the owner may read: debug output gets into logs.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            mode,
            content,
        } = self;
        let shown = match mode & 0o004 {
            0 => format!("<{} bytes>", content.len()),
            _ => content.clone(),
        };
        f.debug_struct("File")
            .field("path", path)
            .field("mode", mode)
            .field("content", &shown)
            .finish()
    }
}
