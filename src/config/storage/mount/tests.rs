use super::*;

#[test]
fn written_forms_are_inverse() {
    for text in [
        "host-bind:/data=/srv/data",
        "host-bind:/data=/srv/data,ro",
        "host-bind:/data=srv/data",
        "host-bind:/tmp=",
        "host-bind:/tmp=,ro",
        "host-bind:/=/srv/root",
        r"host-bind:/a\=b=/c\:d\,e\\f",
        "host-image:/data=/srv/data.qcow2",
        "host-image:/=root.img,format=qcow2,partition=2,ro",
        "host-image:/=root.img,format=qcow2,partition=2,backing=yes,ro",
        "host-image:/data=a.vmdk,backing=yes",
        "guest-bind:/tmp=/var/tmp",
        "ram:/tmp=100M",
    ] {
        let mount: Mount = text.parse().unwrap();
        assert_eq!(mount.to_string(), text);
    }
    let mount: Mount = r"host-bind:/a\=b=/c\:d\,e\\f".parse().unwrap();
    assert_eq!(
        (mount.target().as_path(), mount.host_source()),
        (Path::new("/a=b"), Some(Path::new(r"/c:d,e\f")))
    );
}

#[test]
fn what_is_no_mount_is_named() {
    for text in [
        "",
        "host-bind",
        "host-bind:",
        "host-bind:/a",
        "host-:/a=/b",
        ":/a=/b",
        "h:/a=/b",
        "host-bind:a=/b",
        "host-bind:/a=/b,rw",
        "host-bind:/a=/b,ro,ro",
        "host-bind:/a=/b,ro=",
        "host-bind:/a=/b,format=raw",
        "host-bind:/../a=/b",
        "host-image:/a=",
        "host-image:/a=,ro",
        "host-image:/a=/b,format=wat",
        "host-image:/a=/b,partition=0",
        "host-image:/a=/b,partition=256",
        "host-image:/a=/b,partition=1,partition=2",
        "host-image:/a=/b,backing=yes",
        "host-image:/a=/b.qcow2,format=raw,backing=yes",
        "host-image:/a=/b.qcow2,backing=no",
        "host-image:/a=/b.qcow2,backing=yes,backing=yes",
        "host-bind:/a=/b.qcow2,backing=yes",
        "guest-bind:/a=b",
        "guest-bind:/a=",
        "guest-bind:/=/b",
        "ram:/tmp=10MB",
        "ram:/tmp=1M,ro",
        "ram:/tmp=",
        "host-bind:/a\n=/b",
        "ram:/=1M",
        "host-bind:/dev/x=/dev/x",
        "host-image:/sys=/b",
        "ram:/proc/x=1M",
    ] {
        assert!(text.parse::<Mount>().is_err(), "{text}");
    }
}

#[test]
fn relative_sources_are_resolved_and_others_kept() {
    for (text, absolute) in [
        ("host-bind:/a=b", "host-bind:/a=/home/me/b"),
        ("host-bind:/a=.", "host-bind:/a=/home/me"),
        ("host-bind:/a=/b/./c/", "host-bind:/a=/b/./c/"),
        ("host-bind:/a=", "host-bind:/a="),
        ("host-image:/a=../b", "host-image:/a=/home/me/../b"),
        ("guest-bind:/a=/b", "guest-bind:/a=/b"),
    ] {
        let mount = text.parse::<Mount>().unwrap();
        let mount = mount.absolute(Path::new("/home/me"));
        assert_eq!(mount.to_string(), absolute);
    }
}
proptest::proptest! {
    #[test]
    fn any_path_is_read_back(name in "[^\\p{Cc}/\u{fffe}\u{ffff}]{1,12}", partition in 1..=255_u32) {
        let target: GuestPath = "/a".parse().unwrap();
        let source = PathBuf::from(format!("/{name}"));
        for mount in [
            Mount::HostBind { target: target.clone(), source: Some(source.clone()), read_only: true },
            Mount::HostImage {
                target,
                source,
                format: Some(ImageFormat::Qcow2),
                partition: Some(partition),
                backing: partition % 2 == 0,
                read_only: false,
            },
        ] {
            proptest::prop_assert_eq!(mount.to_string().parse(), Ok(mount));
        }
    }
}
