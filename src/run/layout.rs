//! What of the host a sandbox sees, and where: the same for both drivers.
//!
//! The staging root has the sandbox's root at [`ROOT`] and what else is shared below
//! [`STAGED_MOUNTS`]. A driver says how each share gets there.

use std::fs;
use std::path::{Path, PathBuf};

use guest_init::config::{self as guest, Access, Root, Source};
use guest_init::{STAGED_INCLUDES, STAGED_MOUNTS};

use crate::config::{ImageFormat, Include, Mount};
use crate::error::{Error, Result};
use crate::guest::nested;
use crate::run::Request;

/// Where the root is staged.
pub const ROOT: &str = "/host";

/// What is shared, and what the guest makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Directories and files of the host.
    pub shares: Vec<Share>,
    /// Filesystems in images.
    pub images: Vec<Image>,
    /// What the root begins as.
    pub root: Root,
    /// The user's mounts.
    pub user_mounts: Vec<guest::Mount>,
    /// Copies.
    pub includes: Vec<guest::Include>,
    /// Fresh directories that go away with the sandbox.
    pub temporary: Vec<PathBuf>,
}

/// A directory or file of the host in the staging root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Path in the staging root.
    pub staged: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
    /// Kind of what is shared.
    pub kind: Kind,
}

/// Kind of a [`Share`]: a directory or a single file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory with all in it.
    Directory,
    /// Anything else, by itself.
    File,
}

/// A filesystem in an image, in the staging root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Absolute path of the image on the host.
    pub source: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// The partition it is on, if it is said.
    pub partition: Option<u32>,
    /// Whether files that the image names are opened, too.
    pub backing: bool,
    /// Path in the staging root.
    pub staged: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
}

/// Kinds of files that can be put into the staging root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Files as well as directories.
    Files,
    /// Directories only: a file is in one that has nothing else.
    Directories,
}

impl Layout {
    /// What `request` asks for, with fresh directories below `state`.
    ///
    /// # Errors
    /// Where the root is asked for twice, or a source is not there.
    pub fn new(request: &Request, state: &Path, granularity: Granularity) -> Result<Self> {
        let mut layout = Self {
            shares: Vec::new(),
            images: Vec::new(),
            root: Root::Empty,
            user_mounts: Vec::new(),
            includes: Vec::new(),
            temporary: Vec::new(),
        };
        layout.choose_root(request)?;
        let mounts = nested::resolve(&request.mounts, None)?;
        let mounts = mounts.iter().filter(|mount| !mount.is_root());
        for (index, mount) in mounts.enumerate() {
            layout.add(index, mount, state, granularity)?;
        }
        layout.add_includes(&request.includes, granularity)?;
        Ok(layout)
    }

    /// Keeps a root that may only be read apart from the host, whose kernel is the sandbox's as well.
    pub fn isolate(&mut self) {
        if let Root::Tree { access, .. } = &mut self.root
            && *access == Access::ReadOnly
        {
            *access = Access::Isolated;
        }
    }

    fn choose_root(&mut self, request: &Request) -> Result<()> {
        let mut roots = request.mounts.iter().filter(|mount| mount.is_root());
        let mount = roots.next();
        if roots.next().is_some() || (mount.is_some() && request.root.is_some()) {
            return Err(Error::refused(
                "the root is given more than once; use one of --root and a mount on '/'",
            ));
        }
        let access = |read_only| match (request.volatile, read_only) {
            (true, _) => Access::Volatile,
            (false, true) => Access::ReadOnly,
            (false, false) => Access::Writable,
        };
        let staged = PathBuf::from(ROOT);
        let mut share = |source: &Path, read_only: bool| -> Result<Access> {
            if !is_dir(source, "the root")? {
                return Err(Error::refused(format!(
                    "the root '{}' is not a directory",
                    source.display()
                )));
            }
            let access = access(read_only);
            self.shares.push(Share {
                source: source.to_owned(),
                staged: staged.clone(),
                read_only: access != Access::Writable,
                kind: Kind::Directory,
            });
            Ok(access)
        };
        let access = match mount {
            None => share(request.root.as_deref().unwrap_or(Path::new("/")), true)?,
            Some(Mount::HostBind {
                source: Some(source),
                read_only,
                ..
            }) => share(source, *read_only)?,
            Some(Mount::HostImage {
                source,
                format,
                partition,
                backing,
                read_only,
                ..
            }) => {
                let access = access(*read_only);
                self.images.push(Image {
                    source: existing_file(source)?,
                    format: format.unwrap_or_else(|| ImageFormat::of(source)),
                    partition: *partition,
                    backing: *backing,
                    staged: staged.clone(),
                    read_only: access != Access::Writable,
                });
                access
            }
            Some(mount) => {
                return Err(Error::refused(format!(
                    "'{mount}' cannot be the root; use host-bind:/=DIR or host-image:/=IMAGE"
                )));
            }
        };
        self.root = Root::Tree {
            source: staged,
            access,
        };
        Ok(())
    }

    fn add(
        &mut self,
        index: usize,
        mount: &Mount,
        state: &Path,
        granularity: Granularity,
    ) -> Result<()> {
        let staged = Path::new(STAGED_MOUNTS).join(index.to_string());
        let bind = |source: Source, target: &Path, read_only: bool| guest::Mount::Bind {
            source,
            target: target.to_owned(),
            read_only,
        };
        let target = mount.target().as_path();
        let made = match mount {
            Mount::HostBind {
                source, read_only, ..
            } => {
                let source = match source {
                    Some(source) => source.clone(),
                    None => {
                        let fresh = state.join("temporary").join(index.to_string());
                        self.temporary.push(fresh.clone());
                        fresh
                    }
                };
                let place = if self.temporary.last() == Some(&source) {
                    self.share_dir(source, staged, *read_only)
                } else {
                    self.share(&source, staged, *read_only, granularity)?
                };
                bind(Source::Stage(place), target, *read_only)
            }
            Mount::HostImage {
                source,
                format,
                partition,
                backing,
                read_only,
                ..
            } => {
                let format = format.unwrap_or_else(|| ImageFormat::of(source));
                let read_only = *read_only || format.is_read_only();
                self.images.push(Image {
                    source: existing_file(source)?,
                    format,
                    partition: *partition,
                    backing: *backing,
                    staged: staged.clone(),
                    read_only,
                });
                bind(Source::Stage(staged), target, read_only)
            }
            Mount::GuestBind {
                source, read_only, ..
            } => bind(
                Source::Sandbox(source.as_path().to_owned()),
                target,
                *read_only,
            ),
            Mount::Ram { size, .. } => guest::Mount::Tmpfs {
                target: target.to_owned(),
                mode: 0o1777,
                size: Some(size.get()),
            },
        };
        self.user_mounts.push(made);
        Ok(())
    }

    fn add_includes(&mut self, includes: &[Include], granularity: Granularity) -> Result<()> {
        for (index, include) in includes.iter().enumerate() {
            let path = &include.source;
            fs::symlink_metadata(path).map_err(Error::io("reading what to include,", path))?;
            let source = match (granularity, self.whole_host()) {
                // Each share is a device of a machine.
                (Granularity::Directories, Some(place)) => {
                    place.join(path.strip_prefix("/").unwrap_or(path))
                }
                (Granularity::Files | Granularity::Directories, _) => {
                    let staged = Path::new(STAGED_INCLUDES).join(index.to_string());
                    self.share(path, staged, true, granularity)?
                }
            };
            self.includes.push(guest::Include {
                source,
                target: include.target.as_path().to_owned(),
            });
        }
        Ok(())
    }

    /// Where the host's root is staged, if it is shared.
    fn whole_host(&self) -> Option<PathBuf> {
        let is_whole = |share: &&Share| share.source == Path::new("/") && share.read_only;
        let share = self.shares.iter().find(is_whole)?;
        Some(share.staged.clone())
    }

    /// Shares `source`; gives its place in the staging root.
    fn share(
        &mut self,
        source: &Path,
        staged: PathBuf,
        read_only: bool,
        granularity: Granularity,
    ) -> Result<PathBuf> {
        if is_dir(source, "what is mounted")? {
            return Ok(self.share_dir(source.to_owned(), staged, read_only));
        }
        let place = match (granularity, source.file_name()) {
            (Granularity::Directories, Some(name)) => staged.join(name),
            (Granularity::Files | Granularity::Directories, _) => staged.clone(),
        };
        self.shares.push(Share {
            source: source.to_owned(),
            staged,
            read_only,
            kind: Kind::File,
        });
        Ok(place)
    }

    fn share_dir(&mut self, source: PathBuf, staged: PathBuf, read_only: bool) -> PathBuf {
        self.shares.push(Share {
            source,
            staged: staged.clone(),
            read_only,
            kind: Kind::Directory,
        });
        staged
    }
}

fn is_dir(source: &Path, what: &str) -> Result<bool> {
    let metadata = fs::metadata(source).map_err(|error| {
        Error::step(format!("looking at {what}, '{}'", source.display()))(error)
    })?;
    Ok(metadata.is_dir())
}

fn existing_file(source: &Path) -> Result<PathBuf> {
    match is_dir(source, "the image")? {
        true => Err(Error::refused(format!(
            "the image '{}' is a directory; mount it with host-bind",
            source.display()
        ))),
        false => Ok(source.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Layout = Layout {
        shares: Vec::new(),
        images: Vec::new(),
        root: Root::Empty,
        user_mounts: Vec::new(),
        includes: Vec::new(),
        temporary: Vec::new(),
    };

    fn included(mut layout: Layout, path: &Path) -> Layout {
        let include: Include = format!("/opt/included={}", path.display()).parse().unwrap();
        layout
            .add_includes(&[include], Granularity::Directories)
            .unwrap();
        layout
    }

    #[test]
    fn what_is_copied_into_a_machine_shares_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for (source, kind, place) in [
            (file.as_path(), Kind::File, "/include/0/file"),
            (dir.path(), Kind::Directory, "/include/0"),
        ] {
            let layout = included(EMPTY, source);
            let share = Share {
                source: source.to_owned(),
                staged: "/include/0".into(),
                read_only: true,
                kind,
            };
            assert_eq!(layout.shares, [share]);
            assert_eq!(layout.includes[0].source, Path::new(place));
        }
        // What is shown anyway is not shared once more.
        let mut whole = EMPTY;
        whole.share_dir("/".into(), ROOT.into(), true);
        let layout = included(whole.clone(), &file);
        assert_eq!(layout.shares, whole.shares);
        assert_eq!(
            layout.includes[0].source,
            Path::new(&format!("{ROOT}{}", file.display()))
        );
    }
}
