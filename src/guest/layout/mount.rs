//! The one interpreter of `--mount`: how each type of mount becomes a part of a layout.

use super::*;

/// Source of a mount, as the guest finds it.
pub(super) enum MountSource {
    /// A path of the staging root.
    InRoot { path: PathBuf, read_only: bool },
    /// A path of the sandbox.
    Inside { path: PathBuf, read_only: bool },
    /// A fresh tmpfs.
    InMemory { size: u64 },
    /// Nothing: a fresh directory has no place to be made in.
    Nowhere,
}

impl Layout {
    /// Adds the user's mounts, in order. Directories that a mount asks for afresh are made below `temporary`.
    ///
    /// # Errors
    /// Where a source is not there, or is not what the type of mount takes.
    pub fn add_mounts<'a>(
        &mut self,
        mounts: impl Iterator<Item = &'a Mount>,
        temporary: &Path,
    ) -> Result<()> {
        for (index, mount) in mounts.enumerate() {
            let staged = Path::new(STAGED_MOUNTS).join(index.to_string());
            let temporary = temporary.join(index.to_string());
            let target = mount.target().as_path().to_owned();
            let bind = |source, read_only| guest::Mount::Bind {
                source,
                target: target.clone(),
                read_only,
            };
            let source = self.stage(mount, &staged, false, Some(&temporary))?;
            self.user_mounts.push(match source {
                MountSource::InRoot { path, read_only } => {
                    bind(guest::Source::Stage(path), read_only)
                }
                MountSource::Inside { path, read_only } => {
                    bind(guest::Source::Sandbox(path), read_only)
                }
                MountSource::Nowhere => continue,
                MountSource::InMemory { size } => guest::Mount::Tmpfs {
                    target,
                    mode: 0o1777,
                    size: Some(size),
                },
            });
        }
        Ok(())
    }

    /// Stages the source of `mount` at `staged`, read-only if the mount or `read_only` says so. A fresh directory is `temporary`.
    pub(super) fn stage(
        &mut self,
        mount: &Mount,
        staged: &Path,
        read_only: bool,
        temporary: Option<&Path>,
    ) -> Result<MountSource> {
        Ok(match mount {
            Mount::HostBind {
                source,
                read_only: asked,
                ..
            } => {
                let read_only = read_only || *asked;
                let path = match (source, temporary) {
                    (Some(source), _) => self.share(source, staged, read_only)?,
                    (None, Some(temporary)) => {
                        self.temporary.push(temporary.to_owned());
                        self.share_as(ShareKind::Directory, temporary, staged, read_only);
                        staged.to_owned()
                    }
                    (None, None) => return Ok(MountSource::Nowhere),
                };
                MountSource::InRoot { path, read_only }
            }
            Mount::HostImage {
                source,
                format,
                partition,
                backing,
                read_only: asked,
                ..
            } => {
                let format = format.unwrap_or_else(|| ImageFormat::of(source));
                let read_only = read_only || *asked || format.is_read_only();
                if is_dir(source, "the image")? {
                    return Err(Error::refused(format!(
                        "the image '{}' is a directory; mount it with host-bind",
                        source.display()
                    )));
                }
                self.images.push(Image {
                    name: format!("image{}", self.images.len()),
                    source: source.clone(),
                    format,
                    partition: *partition,
                    filesystem: None,
                    backing: *backing,
                    staged: staged.to_owned(),
                    read_only,
                });
                MountSource::InRoot {
                    path: staged.to_owned(),
                    read_only,
                }
            }
            Mount::GuestBind {
                source, read_only, ..
            } => MountSource::Inside {
                path: source.as_path().to_owned(),
                read_only: *read_only,
            },
            Mount::Ram { size, .. } => MountSource::InMemory { size: size.get() },
        })
    }
}
