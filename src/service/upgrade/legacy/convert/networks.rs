//! Conversion of NICs.

use super::{Foreign, Result};
use crate::config::Network;
use crate::service::upgrade::legacy::keyfile::{KeyfileError, wrong};

impl Foreign {
    pub(super) fn networks(&self, filters: &[Option<String>]) -> Result<Vec<Network>> {
        let mut networks = Vec::new();
        for (index, group) in self.file.numbered("network")?.into_iter().enumerate() {
            let mut fields = Vec::new();
            let is_dhcp = self.file.flag(&group, "dhcp", true)?;
            if is_dhcp {
                fields.push("dhcp".to_owned());
            }
            for key in ["source", "mac"] {
                if let Some(value) = self.file.get(&group, key) {
                    fields.push(plain(&group, (key, value))?);
                }
            }
            for address in self.numbered_of(&group, "address", "addresses")? {
                let need = |key| self.file.need(&address, key);
                let prefix = self.file.get(&address, "prefix").unwrap_or("24");
                let mut text = format!("{}/{prefix}", need("primary")?);
                if let Some(broadcast) = self.file.get(&address, "broadcast") {
                    text = format!("{text}%{broadcast}");
                }
                if !is_dhcp {
                    fields.push(plain(&address, ("address", &text))?);
                }
            }
            for route in self.numbered_of(&group, "route", "routes")? {
                let need = |key| self.file.need(&route, key);
                let text = format!(
                    "{}/{}%{}",
                    need("target")?,
                    self.file.get(&route, "prefix").unwrap_or("24"),
                    need("gateway")?
                );
                if !is_dhcp {
                    fields.push(plain(&route, ("route", &text))?);
                }
            }
            fields.extend(filters.get(index).cloned().flatten());
            let text = fields.join(",");
            let network = match text.is_empty() {
                true => "source=default".parse(),
                false => text.parse::<Network>(),
            };
            networks.push(network.map_err(|error| wrong(&group, "*", &text, &error.to_string()))?);
        }
        Ok(networks)
    }

    /// Returns the groups `GROUP.KIND.N`; the key `count` of the group is their number.
    fn numbered_of(&self, group: &str, kind: &str, count: &str) -> Result<Vec<String>> {
        let prefix = format!("{group}.{kind}");
        let groups = self.file.numbered(&prefix)?;
        let most: usize = self.file.read(group, count)?.unwrap_or(0);
        if most > 100 {
            return Err(KeyfileError::Index {
                group: group.to_owned(),
                index: most,
                most: 100,
            }
            .into());
        }
        let is_counted = |name: &String| {
            let number = name
                .rsplit('.')
                .next()
                .and_then(|n| n.parse::<usize>().ok());
            number.is_some_and(|number| number < most)
        };
        Ok(groups.into_iter().filter(is_counted).collect())
    }
}

/// Formats a field of a NIC. A comma would begin another field.
fn plain(group: &str, (key, value): (&str, &str)) -> std::result::Result<String, KeyfileError> {
    match value.contains(',') {
        true => Err(wrong(group, key, value, "which has a comma in it")),
        false => Ok(format!("{key}={value}")),
    }
}

/// Returns the filters of a domain's NICs, formatted as fields of a NIC.
#[must_use]
pub fn filters(document: &str) -> Vec<Option<String>> {
    let Ok(document) = roxmltree::Document::parse(document) else {
        return vec![];
    };
    let interfaces = document
        .descendants()
        .filter(|node| node.has_tag_name("interface"));
    interfaces
        .map(|interface| {
            let filter = interface
                .children()
                .find(|node| node.has_tag_name("filterref"))?;
            let mut text = format!("filter={}", filter.attribute("filter")?);
            for parameter in filter
                .children()
                .filter(|node| node.has_tag_name("parameter"))
            {
                let name = parameter.attribute("name")?.to_lowercase();
                text.push_str(&format!(",filter.{name}={}", parameter.attribute("value")?));
            }
            Some(text)
        })
        .collect()
}
