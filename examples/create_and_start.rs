//! Makes a sandbox around a unit of this host, starts it, says where it answers, and removes it again.
//!
//! Run it as root: `cargo run --example create_and_start -- apache2.service demo`

use virt_sandbox::config::{Network, SandboxConfig, State, Workload};
use virt_sandbox::service::Sandboxes;
use virt_sandbox::{Error, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(unit), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err(Error::refused("usage: create_and_start UNIT NAME"));
    };
    let connection = std::env::var("LIBVIRT_DEFAULT_URI").unwrap_or_else(|_| "lxc:///".to_owned());
    let sandboxes = Sandboxes::new(&connection);
    let name = name.parse().map_err(Error::step("reading the name"))?;
    let draft = SandboxConfig {
        networks: vec![Network::dhcp("default")],
        ..sandboxes.draft(name, Workload::Units(vec![unit]), None)
    };
    let sandbox = sandboxes.create(draft, State::Auto)?;
    let path = sandbox.config().path.display();
    println!("created {} in {path}", sandbox.name());
    sandbox.lock()?.start(None)?;
    let summary = sandbox.summary()?;
    println!(
        "{} is {} at {}",
        summary.name,
        summary.state,
        summary.addresses.join(", ")
    );
    sandbox.stop()?;
    sandbox.delete(false)
}
