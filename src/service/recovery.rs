//! Finishing or undoing what commands that were cut short have left.

use crate::config::SandboxName;
use crate::error::Result;
use crate::guest::kernel;
use crate::hypervisor::libvirt::Libvirt;
use crate::service::sandboxes::Sandboxes;

impl Sandboxes {
    /// Finishes or undoes what commands that were cut short have left.
    ///
    /// # Errors
    /// Where libvirt does not answer, and only if there is something to take away.
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
            // One that cannot be removed must not be in the way of every other command.
            let removed = Libvirt::open(&removal.connection)
                .and_then(|hypervisor| self.carry_out_removal(&removal, &hypervisor));
            if let Err(error) = removed {
                log::warn!("removing what is left of '{}': {error}", removal.name);
            }
            drop(lock);
        }
        self.recover_upgrades()
    }

    /// Empties what killed commands have left of what virtual machines boot from.
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
