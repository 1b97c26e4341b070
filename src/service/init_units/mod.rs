//! Units that a sandbox is given beside those of its service.

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

/// Asks systemd itself, as `poweroff` does where there is no logind. That one asks logind first, which D-Bus would have to start
/// for it: some seconds, and a minute where it cannot run.
pub(super) const POWER_OFF: [&str; 5] = [
    "systemctl",
    "--no-block",
    "--job-mode=replace-irreversibly",
    "start",
    "poweroff.target",
];

/// The boot target inside.
const BOOT_TARGET: &str = "virt-sandbox.target";

/// Of the mounts below a sandbox's root: systemd inside cannot unmount them, and says so of each when it stops.
const LASTING: &str = "[Unit]\nDefaultDependencies=no\n";

/// As [`LASTING`]; `basic.target` looks for this unit before there are mounts, and then no drop-in of it is read any more.
const TMP: (&str, &str) = (
    "tmp.mount",
    "[Unit]\nDefaultDependencies=no\n[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n",
);

/// Returns the units that a sandbox needs beside its own: the boot target, the unit of its command, what its packages
/// have initialised.
///
/// # Errors
/// Where a template or a file of `services.d` is wrong.
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

/// Units and drop-ins for the mounts that are there before systemd, and after it.
fn lasting(config: &SandboxConfig) -> impl Iterator<Item = (String, &'static str)> {
    let own = guest::PRIVATE_DIRS.map(Path::new).into_iter();
    let mounts = config.mounts.iter().map(|mount| mount.target().as_path());
    let drop_in = |target| format!("{}.mount.d/virt-sandbox.conf", escape_path(target));
    own.chain(mounts)
        .map(move |target| (drop_in(target), LASTING))
        .chain([(TMP.0.to_owned(), TMP.1)])
}
