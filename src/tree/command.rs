//! Directories that a command needs and the host lacks: working directory and home.

use std::path::Path;

use crate::config::SandboxConfig;
use crate::facts::discover::Service;
use crate::tree::{Class, TreePlan, var};

/// Adds these directories to the plan.
pub fn plan(plan: &mut TreePlan, root: &Path, config: &SandboxConfig, service: &Service) {
    let Some(command) = config.workload.command() else {
        return;
    };
    let user = command.user.as_deref().unwrap_or("root");
    let Some(user) = service.accounts.user(user) else {
        return;
    };
    let home = command.home.as_deref().unwrap_or(Path::new(&user.home));
    let directory = command.directory.as_deref().map(|path| (path, 0o755));
    for (path, mode) in directory.into_iter().chain([(home, 0o700)]) {
        if !var::is_private(path) || plan.entries.contains_key(path) {
            continue;
        }
        let class = Class::Made {
            mode,
            uid: user.uid,
            gid: command.gid.unwrap_or(user.gid),
        };
        let reason = format!("given to {}", command.program());
        plan.set_parents(root, path, &reason);
        plan.set(path, class, reason);
    }
}
