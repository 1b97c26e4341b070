//! Checks that the pages name every key of `sandbox.toml`, and that their links are valid.

use std::collections::BTreeSet;
use std::path::Path;

use serde::de::DeserializeOwned;
use virt_sandbox::config::{
    Capabilities, Command, Idmap, KernelRequest, Resources, SandboxConfig, Seccomp, TreeImage,
    Workload,
};

use crate::{documents, read, root};

const PAGE: &str = "docs/sandbox.toml.md";

/// Returns a configuration with every key. A new key must be added here, or this does not compile.
fn with_every_key() -> SandboxConfig {
    SandboxConfig {
        version: 1,
        name: "web1".parse().unwrap(),
        uuid: "0c1e5b0a-6d3f-4d7e-9a51-0d5a0f5e7f11".parse().unwrap(),
        connection: "lxc:///".to_owned(),
        workload: Workload::Units(vec!["apache2.service".to_owned()]),
        packages: vec!["php-common".to_owned()],
        service_packages: vec!["apache2".to_owned()],
        path: "/var/lib/libvirt/filesystems/web1".into(),
        hostname: "web1".to_owned(),
        keep_units: vec!["dbus.socket".to_owned()],
        timeout: 90,
        networks: vec!["dhcp,source=default".parse().unwrap()],
        mounts: vec!["ram:/tmp=100M".parse().unwrap()],
        devices: vec!["/dev/ttyS0".parse().unwrap()],
        credentials: vec!["token:/etc/token".parse().unwrap()],
        security: Some("inherit".parse().unwrap()),
        file_type: Some("container_file_t".parse().unwrap()),
        publish: vec!["8080:80".parse().unwrap()],
        on_demand: true,
        idle_stop: Some(600),
        idmap: Idmap::No,
        seccomp: Seccomp::Off,
        capabilities: Capabilities {
            add: vec!["net_raw".parse().unwrap()],
            drop: vec![],
        },
        kernel: KernelRequest {
            version: Some("6.1.0-1-amd64".to_owned()),
            path: None,
            modules: None,
        },
        image: Some(toml::from_str("size = '1G'").unwrap()),
        resources: Resources::default(),
    }
}

/// Returns the keys of a table, as serde lists them in its error about an unknown one.
fn keys_of<T: DeserializeOwned>(table: &str) -> BTreeSet<String> {
    let Err(error) = toml::from_str::<T>("no-such-key = 1") else {
        panic!("[{table}] takes any key");
    };
    let said = error.to_string();
    let (_, list) = said
        .split_once("expected")
        .unwrap_or_else(|| panic!("{said}"));
    let names = list.split('`').skip(1).step_by(2);
    names.map(|name| format!("{table}.{name}")).collect()
}

/// Returns every key of the file; those of tables as `table.key`.
fn keys() -> BTreeSet<String> {
    let text = with_every_key().to_toml().unwrap();
    let tables = ["capabilities", "kernel", "image", "resources"];
    let file: toml::Table = text.parse().unwrap();
    let mut keys: BTreeSet<String> = file.keys().cloned().collect();
    for table in tables {
        assert!(keys.remove(table), "{table} is not in {text}");
    }
    keys.extend(keys_of::<Command>("command"));
    keys.extend(keys_of::<Capabilities>("capabilities"));
    keys.extend(keys_of::<KernelRequest>("kernel"));
    keys.extend(keys_of::<TreeImage>("image"));
    keys.extend(keys_of::<Resources>("resources"));
    keys
}

#[test]
fn every_key_of_sandbox_toml_is_documented() {
    let mut documented = BTreeSet::new();
    let mut table = String::new();
    for line in read(PAGE).lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let name = heading
                .strip_prefix("`[")
                .and_then(|rest| rest.split_once("]`"));
            table = name.map(|(name, _)| format!("{name}.")).unwrap_or_default();
        } else if let Some(heading) = line.strip_prefix("### ") {
            let key = heading.split('`').nth(1).unwrap_or(heading);
            documented.insert(format!("{table}{key}"));
        }
    }
    let keys = keys();
    let missing: Vec<_> = keys.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&keys).collect();
    assert!(missing.is_empty(), "{PAGE} does not document {missing:?}");
    assert!(
        unknown.is_empty(),
        "{PAGE} documents {unknown:?}, which are no keys"
    );
}

/// Each example is a whole file or a part of one.
#[test]
fn examples_of_sandbox_toml_are_read() {
    let units = SandboxConfig {
        image: None,
        kernel: KernelRequest::default(),
        on_demand: false,
        idle_stop: None,
        ..with_every_key()
    };
    let base: toml::Table = units.to_toml().unwrap().parse().unwrap();
    let mut count = 0;
    for page in documents() {
        for example in read(&page).split("```toml\n").skip(1) {
            let example = example.split("```").next().unwrap();
            let keys: toml::Table = example
                .parse()
                .unwrap_or_else(|error| panic!("{page}: {example}\n{error}"));
            let mut file = base.clone();
            if keys.contains_key("version") {
                file.clear();
            }
            if keys.contains_key("command") {
                file.remove("units");
            }
            file.extend(keys);
            let read = SandboxConfig::parse(&file.to_string(), Path::new(&page));
            assert!(read.is_ok(), "{example}\n{read:?}");
            count += 1;
        }
    }
    assert!(count > 3, "only {count} examples");
}

/// Links to files and sections of this repository are valid.
#[test]
fn links_are_valid() {
    let mut pages = documents();
    pages.extend(
        [
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "REVIEW.md",
            "SECURITY.md",
            "NEWS.md",
        ]
        .map(str::to_owned),
    );
    for page in pages {
        let text = read(&page);
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => root().join(&page),
                file => root().join(&page).parent().unwrap().join(file),
            };
            assert!(
                path.exists(),
                "{page}: the link '{target}' leads to nothing"
            );
            if !section.is_empty() {
                let linked = std::fs::read_to_string(&path).unwrap();
                let found = linked
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line) == section);
                assert!(found, "{page}: the link '{target}' leads to no section");
            }
        }
    }
}

/// Returns the anchor of a heading: lower case, dashes for blanks, no punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|&c| c.is_alphanumeric() || c == ' ' || c == '-' || c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
