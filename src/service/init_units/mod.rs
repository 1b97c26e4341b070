//! Units for systemd inside, in addition to those of the service.

pub(super) mod command;
pub(super) mod services_d;

use std::path::Path;

use guest_init::config::File;
use serde::Serialize;

use crate::config::{SandboxConfig, SandboxName};
use crate::domain::template::Template;
use crate::driver::InitUnits;
use crate::error::Result;
use crate::facts::unit::name::escape::escape_path;
use crate::guest;
use crate::tree::etc::KEPT_UNITS;

/// Command that powers off through systemd itself. `poweroff` asks logind first, which D-Bus would have to start:
/// some seconds, and a minute if it cannot run.
pub(super) const POWER_OFF: [&str; 5] = [
    "systemctl",
    "--no-block",
    "--job-mode=replace-irreversibly",
    "start",
    "poweroff.target",
];

/// Boot target inside.
const BOOT_TARGET: &str = "virt-sandbox.target";

/// Drop-in for mounts of the sandbox's root: systemd inside cannot unmount them, and would log an error for each when it stops.
const LASTING: &str = "[Unit]\nDefaultDependencies=no\n";

/// Unit for `/tmp`, as [`LASTING`]: `basic.target` loads it before there are mounts, so a drop-in would not be read.
const TMP: (&str, &str) = (
    "tmp.mount",
    "[Unit]\nDefaultDependencies=no\n[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n",
);

/// Returns the additional units: the boot target, the unit of its command, and those that initialise its
/// packages.
///
/// # Errors
/// A template or a file in `services.d` is invalid.
pub(super) fn init_units(config: &SandboxConfig, templates: &Path) -> Result<InitUnits> {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a SandboxName,
        units: Vec<&'a str>,
    }
    let init_units = services_d::init_units(config, templates)?;
    let view = View {
        name: &config.name,
        units: config
            .units()
            .iter()
            .map(String::as_str)
            .chain(init_units.iter().map(|unit| unit.name.as_str()))
            .collect(),
    };
    let target = Template::BootTarget.render(&view, Some(templates))?;
    let unit_file = |name: &str, content: String| File {
        path: Path::new(command::DIRECTORY).join(name),
        mode: 0o644,
        content,
    };
    let mut files = vec![unit_file(BOOT_TARGET, target)];
    if let Some(command) = config.workload.command() {
        let (credentials, seconds) = (&config.credentials, config.timeout);
        files.extend(command::files(command, credentials, seconds, templates)?);
        files.push(unit_file(command::END, command::end(templates)?));
    }
    files.extend(
        init_units
            .into_iter()
            .map(|unit| unit_file(&unit.name, unit.content)),
    );
    files.extend(lasting(config).map(|(name, text)| unit_file(&name, text.to_owned())));
    let keep = KEPT_UNITS.iter().map(ToString::to_string);
    Ok(InitUnits {
        files,
        credentials: vec![],
        keep_units: keep.chain(config.keep_units.iter().cloned()).collect(),
        target: BOOT_TARGET.to_owned(),
    })
}

/// Returns units and drop-ins for mounts that exist before systemd starts and after it ends.
fn lasting(config: &SandboxConfig) -> impl Iterator<Item = (String, &'static str)> {
    let own = guest::PRIVATE_DIRS.map(Path::new).into_iter();
    let mounts = config.mounts.iter().map(|mount| mount.target().as_path());
    let drop_in = |target| format!("{}.mount.d/virt-sandbox.conf", escape_path(target));
    own.chain(mounts)
        .map(move |target| (drop_in(target), LASTING))
        .chain([(TMP.0.to_owned(), TMP.1)])
}
