//! Completion or undo of interrupted commands.

use crate::config::SandboxName;
use crate::error::Result;
use crate::guest::kernel;
use crate::service::sandboxes::Sandboxes;

impl Sandboxes {
    /// Finishes or undoes interrupted commands.
    ///
    /// # Errors
    /// libvirt does not answer, which only matters if there is something to remove.
    pub fn recover(&self) -> Result<()> {
        self.thaw_abandoned()?;
        self.empty_boot_files()?;
        self.finish_renames()?;
        self.resolve_snapshots()?;
        for (removal, lock) in self.store.interrupted()? {
            log::info!(
                "removing what is left of '{}', whose create or delete was interrupted",
                removal.name
            );
            // A removal that fails must not block every other command.
            let removed = self
                .connector
                .open(&removal.connection)
                .and_then(|hypervisor| self.carry_out_removal(&removal, &*hypervisor));
            if let Err(error) = removed {
                log::warn!("removing what is left of '{}': {error}", removal.name);
            }
            drop(lock);
        }
        self.recover_upgrades()
    }

    /// Empties the boot files that killed commands have left.
    fn empty_boot_files(&self) -> Result<()> {
        let files = |name: &SandboxName| self.store.stage(name).join(kernel::BOOT_FILES);
        let has_content = |name: &SandboxName| kernel::Boot::has_content(&files(name));
        for (name, lock) in self.store.abandoned_where(has_content)? {
            if let Err(error) = kernel::Boot::empty(&files(&name)) {
                log::warn!("{error}");
            }
            drop(lock);
        }
        Ok(())
    }
}
