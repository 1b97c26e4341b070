use super::*;

fn index(dep: &str, builtin: &str, modinfo: &str, softdep: &str, alias: &str) -> Index {
    Index::parse(&Texts {
        dep: dep.into(),
        builtin: builtin.into(),
        builtin_modinfo: modinfo.into(),
        softdep: softdep.into(),
        alias: alias.into(),
    })
}

fn debian() -> Index {
    index(
        "kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\n\
         kernel/drivers/virtio/virtio_ring.ko:\n\
         kernel/drivers/net/net-failover.ko.xz: kernel/net/core/failover.ko.xz\n\
         kernel/net/core/failover.ko.xz:\n\
         kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net-failover.ko.xz kernel/net/core/failover.ko.xz \
         kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n\
         kernel/fs/btrfs/btrfs.ko: kernel/lib/libcrc32c.ko\n\
         kernel/lib/libcrc32c.ko:\n\
         kernel/crypto/crc32c_generic.ko:\n\
         kernel/crypto/xxhash_generic.ko:\n\
         kernel/arch/x86/crypto/crc32c-intel.ko:\n",
        "kernel/net/packet/af_packet.ko\nkernel/crypto/sha256_generic.ko\n",
        "sha256_generic.license=GPL\0sha256_generic.alias=crypto-sha256\0sha256_generic.alias=sha256\0",
        "# comment\nsoftdep libcrc32c pre: crc32c\nsoftdep btrfs pre: sha256\nsoftdep btrfs pre: xxhash64 nowhere post: virtio_net\n\
         softdep btrfs post: virtio\n",
        "alias crypto-crc32c crc32c_intel\nalias crc32c crc32c_intel\nalias crc32[a-c] crc32c_generic\n\
         alias xxhash?4 xxhash_generic\nalias crypto-sha256 sha256_ssse3\n",
    )
}

fn names(index: &Index, modules: &[&str]) -> Vec<String> {
    let closure = index.closure(modules.iter().copied()).unwrap();
    closure.into_iter().map(|module| module.name).collect()
}

#[test]
fn dependencies_come_first_and_once() {
    assert_eq!(
        names(&debian(), &["virtio-net", "virtio", "net_failover"]),
        [
            "virtio_ring",
            "virtio",
            "failover",
            "net_failover",
            "virtio_net"
        ]
    );
}

#[test]
fn built_in_modules_are_not_loaded() {
    assert_eq!(names(&debian(), &["af_packet", "af-packet"]), [""; 0]);
    assert!(
        debian().has("af-packet") && debian().has("net_failover") && debian().has("crc32c_intel")
    );
    assert!(!debian().has("9p") && !debian().has("crc32c"));
}

#[test]
fn soft_dependencies_are_resolved_through_aliases() {
    // The post: ones, the built-in and the unknown are left out; of two the generic is taken.
    assert_eq!(
        names(&debian(), &["btrfs"]),
        ["xxhash_generic", "crc32c_generic", "libcrc32c", "btrfs"]
    );
}

#[test]
fn the_name_of_a_file_is_kept() {
    let closure = debian().closure(["net_failover"]).unwrap();
    assert_eq!(
        closure[1].file,
        Path::new("kernel/drivers/net/net-failover.ko.xz")
    );
}

#[test]
fn a_missing_module_is_named() {
    assert_eq!(
        debian().closure(["virtio", "9p"]),
        Err(MissingModule("9p".into()))
    );
}

#[test]
fn circular_dependencies_end() {
    let index = index(
        "a.ko: b.ko\nb.ko: a.ko\n",
        "",
        "",
        "softdep a pre: a b\n",
        "",
    );
    assert_eq!(names(&index, &["a"]), ["b", "a"]);
}

#[test]
fn patterns_are_those_of_fnmatch() {
    for (pattern, text) in [
        ("a*c", "abbc"),
        ("a*", "a"),
        ("*", ""),
        ("a?c", "abc"),
        ("v[0-9]*", "v7x"),
        ("v[0_9]*", "v7x"),
        ("v[!0-9]", "vx"),
        ("v[]]", "v]"),
        ("v[a", "v[a"),
        ("a**b*c", "axxbyyc"),
    ] {
        assert!(matches(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in [
        ("a*c", "abb"),
        ("a?c", "ac"),
        ("v[0-9]", "vx"),
        ("v[!0-9]", "v1"),
        ("", "a"),
        ("a", ""),
        ("v[a", "va"),
    ] {
        assert!(!matches(pattern, text), "{pattern} {text}");
    }
}

#[test]
fn a_directory_without_modules_dep_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = Index::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("modules.dep"), "{error}");
    fs::write(dir.path().join("modules.dep"), "a.ko:\n").unwrap();
    assert!(Index::read(dir.path()).unwrap().has("a"));
}
