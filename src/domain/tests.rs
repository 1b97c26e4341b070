use super::*;

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
