//! Makes a sandbox around a unit of this host, starts it, says where it answers, and removes it again.
//!
//! Run it as root: `cargo run --example create_and_start -- apache2.service demo`

use virt_sandbox::config::sandbox::DEFAULT_TIMEOUT;
use virt_sandbox::config::{Confinement, KernelRequest, Network, Resources, State, Workload};
use virt_sandbox::service::{Request, Sandboxes};
use virt_sandbox::{Error, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(unit), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err(Error::refused("usage: create_and_start UNIT NAME"));
    };
    let connection = std::env::var("LIBVIRT_DEFAULT_URI").unwrap_or_else(|_| "lxc:///".to_owned());
    let sandboxes = Sandboxes::new(&connection);
    let request = Request {
        name: name.parse().map_err(Error::step("reading the name"))?,
        workload: Workload::Units(vec![unit]),
        packages: vec![],
        base: None,
        state: State::Auto,
        networks: vec![Network::dhcp("default")],
        mounts: vec![],
        devices: vec![],
        credentials: vec![],
        kernel: KernelRequest::default(),
        security: None,
        file_type: None,
        publish: vec![],
        on_demand: false,
        idle_stop: None,
        image: None,
        resources: Resources::default(),
        confinement: Confinement::default(),
        hostname: None,
        timeout: DEFAULT_TIMEOUT,
    };
    let sandbox = sandboxes.create(&request)?;
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
