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
    let config = sandboxes.create(&request, &|| false)?;
    println!("created {} in {}", config.name, config.path.display());
    sandboxes.start(&config.name, None, &|| false)?;
    let summary = sandboxes.summary(&config.name)?;
    println!(
        "{} is {} at {}",
        summary.name,
        summary.state,
        summary.addresses.join(", ")
    );
    sandboxes.stop(&config.name)?;
    sandboxes.delete(&config.name, false)
}
