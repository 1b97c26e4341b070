//! Filesystems in images, and disks.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_harness::host;

use crate::support::{Test, guest_init};

cases! {
    every:
        a_filesystem_in_an_image_is_mounted,
        a_partition_of_an_image_is_mounted,
        an_image_may_be_read_only,
        an_image_may_be_the_root,
        a_disk_has_a_tag,
        a_disk_may_be_read_only,
        files_that_are_no_image_are_refused;
}

/// Runs a program of the host, which must succeed.
fn host_does(program: &str, arguments: &[&str]) {
    host::output(program, arguments).unwrap();
}

fn has(program: &str) -> bool {
    let found = ["/usr/sbin", "/usr/bin", "/sbin"]
        .iter()
        .any(|place| Path::new(place).join(program).exists());
    if !found {
        eprintln!("skipped: a filesystem or format: there is no {program}");
    }
    found
}

/// Makes an image with an ext4 filesystem, and returns its path.
fn ext4(test: &Test, name: &str) -> String {
    let path = test.file(name, "");
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    host_does("mkfs.ext4", &["-q", &path]);
    path
}

fn a_filesystem_in_an_image_is_mounted(test: &Test) {
    let mut images = vec![(ext4(test, "image"), "")];
    for (format, option) in [("qcow2", ""), ("vmdk", ",format=vmdk")] {
        if has("qemu-img") {
            let path = test.text(&format!("image.{format}"));
            host_does("qemu-img", &["convert", "-O", format, &images[0].0, &path]);
            images.push((path, option));
        }
    }
    for (program, arguments) in [("mkfs.xfs", vec!["-q"]), ("mkfs.btrfs", vec!["-q"])] {
        if has(program) {
            let path = test.file(program, "");
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(320 << 20)
                .unwrap();
            host_does(program, &[&arguments[..], &[&path]].concat());
            images.push((path, ",format=raw"));
        }
    }
    for (image, option) in &images {
        let mount = format!("host-image:/mnt={image}{option}");
        assert_eq!(
            test.says(
                &["-p", "-m", &mount],
                "echo text >/mnt/file; stat -c %a /mnt/file"
            ),
            "644",
            "{image}"
        );
        // The file is there in the next run, also for another kind of command.
        assert_eq!(
            test.says(&["-m", &mount], "cat /mnt/file"),
            "text",
            "{image}"
        );
    }
    let both = [
        format!("host-image:/mnt={}", images[0].0),
        format!("host-image:/srv={}", ext4(test, "second.img")),
    ];
    assert_eq!(
        test.says(
            &["-m", &both[0], "-m", &both[1]],
            "cat /mnt/file; ls -A /srv"
        ),
        "text\nlost+found"
    );
    if has("mksquashfs") {
        test.file("tree/file", "packed");
        let path = test.text("tree.squashfs");
        host_does(
            "mksquashfs",
            &[&test.text("tree"), &path, "-quiet", "-no-progress"],
        );
        assert_eq!(
            test.says(&["-m", &format!("host-image:/mnt={path}")], "cat /mnt/file"),
            "packed"
        );
    }
}

fn a_partition_of_an_image_is_mounted(test: &Test) {
    if !has("sfdisk") {
        return;
    }
    let (image, filesystem) = (test.file("disk.img", ""), ext4(test, "part"));
    fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(40 << 20)
        .unwrap();
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.args(["-q", &image]);
    let table = "label: gpt\nstart=2048, size=2048\nstart=4096, size=32768\n";
    assert_eq!(host::finish(sfdisk, table.as_bytes()).unwrap().code, 0);
    let at = ["seek=4096", "bs=512", "conv=notrunc", "status=none"];
    host_does(
        "dd",
        &[
            &[format!("if={filesystem}").as_str(), &format!("of={image}")],
            &at[..],
        ]
        .concat(),
    );
    let mount = format!("host-image:/mnt={image},partition=2");
    assert_eq!(
        test.says(&["-p", "-m", &mount], "echo text >/mnt/file; cat /mnt/file"),
        "text"
    );
    assert_eq!(test.says(&["-m", &mount], "cat /mnt/file"), "text");
    let line = test.refusal(&[
        "-m",
        &format!("host-image:/mnt={image},partition=7"),
        "--",
        "true",
    ]);
    assert!(
        line.contains("partition") && line.contains(&image),
        "{line}"
    );
}

fn an_image_may_be_read_only(test: &Test) {
    let image = ext4(test, "image.raw");
    let before = fs::read(&image).unwrap();
    let mount = format!("host-image:/mnt={image},ro");
    let done = test.run(&["-p", "-m", &mount], "touch /mnt/file");
    assert!(done.stderr.contains("Read-only"), "{done:?}");
    assert!(fs::read(&image).unwrap() == before);
}

fn an_image_may_be_the_root(test: &Test) {
    let image = ext4(test, "root.img");
    let fill = format!("cp {} /mnt/program", guest_init().display());
    test.says(&["-p", "-m", &format!("host-image:/mnt={image}")], &fill);
    for option in ["", ",ro"] {
        let mut command = test.command();
        let root = format!("host-image:/={image}{option}");
        let output = command
            .args(["-m", &root, "--", "/program", "--version"])
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stdout.starts_with(b"guest-init "),
            "{output:?}"
        );
    }
    let twice = [
        "-m",
        &format!("host-image:/={image}"),
        "--root",
        "/usr",
        "--",
        "true",
    ];
    assert!(test.refusal(&twice).contains("more than once"));
}

fn a_disk_has_a_tag(test: &Test) {
    let raw = test.file("raw", vec![0; 1 << 20]);
    let qcow2 = test.text("disk.qcow2");
    let mut disks = vec![("one", raw.clone())];
    if has("qemu-img") {
        host_does("qemu-img", &["create", "-q", "-f", "qcow2", &qcow2, "1M"]);
        disks.push(("t.w-o", qcow2));
    }
    let options: Vec<String> = disks
        .iter()
        .flat_map(|(tag, path)| ["--disk".to_owned(), format!("file:{tag}={path}")])
        .collect();
    let options: Vec<&str> = std::iter::once("-p")
        .chain(options.iter().map(String::as_str))
        .collect();
    for (tag, _) in &disks {
        let device = format!("/dev/disk/by-tag/{tag}");
        assert_eq!(
            test.says(
                &options,
                &format!("echo {tag} >{device}; sync; blockdev --getsize64 {device}")
            ),
            "1048576"
        );
        assert_eq!(test.says(&options, &format!("head -n 1 {device}")), *tag);
    }
    assert!(fs::read(&raw).unwrap().starts_with(b"one\n"));
}

fn a_disk_may_be_read_only(test: &Test) {
    let raw = test.file("raw", vec![b'x'; 1 << 20]);
    let option = format!("file:a={raw},ro");
    let done = test.run(
        &["-p", "--disk", &option],
        "head -c 3 /dev/disk/by-tag/a; echo yyy >/dev/disk/by-tag/a",
    );
    assert!(done.code != 0 && done.stdout == "xxx", "{done:?}");
    assert!(fs::read(&raw).unwrap().iter().all(|byte| *byte == b'x'));
}

fn files_that_are_no_image_are_refused(test: &Test) {
    let text = test.file("text", "no filesystem\n");
    for (mount, what) in [
        (format!("host-image:/mnt={text}"), text.as_str()),
        (format!("host-image:/mnt={text}-not"), "No such file"),
        (
            format!("host-image:/mnt={}", test.directory().display()),
            "is a directory",
        ),
        (
            format!("host-image:/mnt={text},format=qcow2"),
            text.as_str(),
        ),
    ] {
        let line = test.refusal(&["-m", &mount, "--", "true"]);
        assert!(line.contains(what), "{mount}: {line}");
    }
    for (disk, what) in [
        (
            format!("file:a={}", test.directory().display()),
            "not an image file",
        ),
        (format!("block:a={text}"), "not a block device"),
        (format!("file:a={text}-not"), "No such file"),
    ] {
        let line = test.refusal(&["--disk", &disk, "--", "true"]);
        assert!(line.contains(what), "{disk}: {line}");
    }
}
