//! Export of a sandbox to one archive.
//!
//! The members are metadata (`virt-sandbox/metadata.json`), the configuration and the records of origin, the tree
//! below `tree`, and a last member that marks the archive as complete.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::service::base::Base;
use crate::service::provision::clone::walk;
use crate::service::provision::freeze::FrozenTree;
use crate::service::provision::metadata::Metadata;
use crate::service::sandbox::LockedSandbox;
use crate::sys::archive::Writer;
use crate::sys::path::below;
use crate::sys::root::Root;

/// Names of the members before and after the tree.
pub(in crate::service) const METADATA: &str = "virt-sandbox/metadata.json";
pub(in crate::service) const CONFIG: &str = "virt-sandbox/sandbox.toml";
pub(in crate::service) const MANIFEST: &str = "virt-sandbox/manifest";
pub(in crate::service) const BASE: &str = "virt-sandbox/base.json";
pub(in crate::service) const END: &str = "virt-sandbox/end";

/// Prefix of the members of the tree.
pub(in crate::service) const TREE: &str = "tree";

impl LockedSandbox<'_> {
    /// Writes the sandbox to `to` as an archive; a running one is frozen meanwhile.
    ///
    /// # Errors
    /// The sandbox runs and cannot be frozen, or `to` cannot be written.
    pub fn export(&self, to: &mut dyn Write) -> Result<()> {
        self.check_tree()?;
        self.warn_of_snapshots();
        let (name, store) = (self.name(), self.store());
        let cancellation = &self.host().cancellation;
        let cancelled = || cancellation.is_requested();
        let tree = FrozenTree::new(self, "exporting")?;
        let metadata = Metadata::of(&self.host().root, self.config(), tree.path())?;
        let metadata = serde_json::to_vec_pretty(&metadata)
            .map_err(Error::step("writing the metadata of the archive"))?;
        let read = |path: PathBuf| fs::read(&path).map_err(Error::io("reading", &path));
        let root = Root::new(tree.path())?;
        let mut writer = Writer::new(to, &cancelled);
        writer.document(METADATA, &metadata)?;
        writer.document(CONFIG, &read(store.config(name))?)?;
        writer.document(MANIFEST, &read(store.manifest(name))?)?;
        writer.document(BASE, &Base::load(&store.base(name))?.to_json()?)?;
        for found in walk(&root) {
            cancellation.check()?;
            let found = found?;
            let member = below(TREE, &found.path);
            if let Some(left) = writer.object(&root, &found, &member)? {
                log::debug!("not archived: '{}': {left:?}", found.path.display());
            }
        }
        writer.document(END, b"")?;
        writer.finish()?;
        Ok(())
    }
}
