//! The libvirt network `default` of the private daemon.
//!
//! Sandboxes ask for this name. Its bridge and subnet are free ones of this host, so that
//! it can exist beside the system's own network `default`.

use std::process::Command;

use anyhow::{Context, Result};

/// Third octets to try, in order; libvirt's own network is 192.168.122.0/24.
const OCTETS: std::ops::Range<u8> = 150..250;

/// Returns the XML for `virsh net-define` of networks that could be started, best first.
///
/// # Errors
///
/// The host's routes cannot be read.
pub fn candidates() -> Result<impl Iterator<Item = String>> {
    let routes = Command::new("ip")
        .args(["-4", "route", "show", "table", "all"])
        .output()
        .context("running 'ip'")?;
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    Ok(free(routes).map(xml))
}

fn free(routes: String) -> impl Iterator<Item = u8> {
    OCTETS.filter(move |octet| !routes.contains(&format!("192.168.{octet}.")))
}

fn xml(octet: u8) -> String {
    let net = format!("192.168.{octet}");
    format!(
        "<network><name>default</name><forward mode='nat'/>\
         <bridge name='vstest{octet}' stp='off' delay='0'/>\
         <ip address='{net}.1' netmask='255.255.255.0'>\
         <dhcp><range start='{net}.2' end='{net}.254'/></dhcp></ip></network>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_in_use_is_passed_over() {
        let routes = "default via 10.0.0.1 dev eth0\n192.168.150.0/24 dev vstest150 scope link\n";
        assert_eq!(free(routes.into()).next(), Some(151));
        assert!(xml(151).contains("bridge name='vstest151'"));
    }
}
