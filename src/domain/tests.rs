use super::*;
use crate::host::HostFacts;
use crate::sys::arch::Arch;

/// libvirt's own schema, asked through its test driver: no daemon is needed. Every connection to it in this process sees
/// the same domains, so there is one at a time.
pub(super) fn assert_valid(xml: &str) {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    virt::error::clear_error_callback();
    let connection = virt::connect::Connect::open(Some("test:///default")).unwrap();
    let flags = virt::sys::VIR_DOMAIN_DEFINE_VALIDATE;
    connection.define_domain_xml_flags(xml, flags).unwrap();
}

pub(super) fn facts() -> HostFacts {
    HostFacts {
        root: "/".into(),
        arch: Arch::X86_64,
        system_dirs: vec![],
        mount_points: vec![],
    }
}

/// Returns the smallest domain of a one-shot sandbox.
pub(super) fn smallest() -> Domain {
    Domain {
        name: "sandbox".parse().unwrap(),
        uuid: Uuid::from_u128(7),
        description: "virt-sandbox".to_owned(),
        resources: Resources::default(),
        networks: vec![],
        publish: vec![],
        security: None,
        disks: vec![],
        devices: vec![],
        consoles: 0,
        on_reboot: OnReboot::Destroy,
    }
}

/// A limit of every kind.
pub(super) fn every_limit() -> Resources {
    Resources {
        memory: Some("1G".parse().unwrap()),
        cpus: Some(2),
        cpu_shares: Some(512),
        cpu_quota: Some(150),
        cpu_pinning: Some("0-1".parse().unwrap()),
        numa_nodes: Some("0".parse().unwrap()),
        pids: Some(100),
        io_weight: Some(200),
        io_read: vec!["/dev/sda=10M".parse().unwrap()],
        io_write: vec!["/dev/sdb=5M".parse().unwrap()],
        io_read_ops: vec!["/dev/sda=100".parse().unwrap()],
        io_write_ops: vec!["/dev/sda=50".parse().unwrap()],
        net_receive: Some("10M".parse().unwrap()),
        net_send: Some("1".parse().unwrap()),
    }
}

pub(super) fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(super) fn security(model: SecModel, base: Option<&str>, label: Option<&str>) -> SecLabel {
    let kind = match label {
        Some(label) => LabelKind::Static {
            label: label.parse().unwrap(),
        },
        None => LabelKind::Dynamic {
            base: base.map(|base| base.parse().unwrap()),
        },
    };
    SecLabel { model, kind }
}

pub(super) fn block_device(source: &str, kind: BlockKind) -> BlockDevice {
    BlockDevice {
        source: source.into(),
        kind,
        format: ImageFormat::Raw,
        backing: false,
        read_only: false,
        serial: "disk0".to_owned(),
    }
}

/// Generates paths with every character that XML can carry, among them those that have to be escaped.
pub(super) fn hostile_path() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::strategy::Strategy;
    let character = proptest::prop_oneof![
        proptest::char::any().prop_filter("XML has none of these", |c| {
            !c.is_control() && !['\u{fffe}', '\u{ffff}'].contains(c)
        }),
        proptest::sample::select(vec![
            '<', '>', '&', '\'', '"', ']', '{', '}', '%', ' ', ',', '/'
        ]),
    ];
    proptest::collection::vec(character, 0..40)
        .prop_map(|characters| characters.into_iter().collect::<String>())
        .prop_map(|text| format!("/{text}"))
}

/// Returns an attribute of the first element of that name in a document.
pub(super) fn attribute(xml: &str, element: &str, attribute: &str) -> String {
    let document = roxmltree::Document::parse(xml).unwrap();
    document
        .descendants()
        .filter(|node| node.has_tag_name(element))
        .find_map(|node| node.attribute(attribute))
        .unwrap()
        .to_owned()
}

/// Returns the text of the first element of that name.
pub(super) fn text(xml: &str, element: &str) -> String {
    let document = roxmltree::Document::parse(xml).unwrap();
    document
        .descendants()
        .find(|node| node.has_tag_name(element))
        .and_then(|node| node.text())
        .unwrap()
        .to_owned()
}

#[test]
fn disks_are_named_as_libvirt_counts() {
    for (index, name) in [
        (0, "sda"),
        (25, "sdz"),
        (26, "sdaa"),
        (51, "sdaz"),
        (52, "sdba"),
        (701, "sdzz"),
        (702, "sdaaa"),
    ] {
        assert_eq!(disk_name("sd", index), name);
    }
}
