//! Also what the daemon can do where an image names other files and nobody has looked: next to nothing.

use std::fs;
use std::process::Command;

use super::*;

const MARKER: &str = "export-marker";

/// A directory with an image of `format`, made with `options`, and a file `victim`.
fn make(format: &str, options: &[&str]) -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let mut content = MARKER.as_bytes().to_vec();
    content.resize(1 << 20, b'.');
    fs::write(dir.path().join("victim"), content).unwrap();
    let image = dir.path().join("a:b,c.image");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-u", "-f", format])
        .args(options)
        .arg(&image)
        .arg("1M")
        .status();
    made.is_ok_and(|status| status.success())
        .then_some((dir, image))
}

fn image<'a>(path: &'a Path, format: &'a str) -> Image<'a> {
    Image {
        path,
        format,
        read_only: false,
        backing: false,
    }
}

/// The view of an image; `None` where such a thing cannot be here.
fn shown(test: &str, image: Image<'_>) -> Option<Export> {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: {test}: not root, or no FUSE");
        return None;
    }
    Some(Export::new(image).unwrap())
}

#[test]
fn an_image_is_read_and_written_as_a_raw_one() {
    let test = "an_image_is_read_and_written_as_a_raw_one";
    for format in ["qcow2", "vmdk", "vdi"] {
        let Some((_dir, path)) = make(format, &[]) else {
            eprintln!("skipped: {test}: no qemu-img");
            return;
        };
        let Some(export) = shown(test, image(&path, format)) else {
            return;
        };
        let view = export.path();
        assert_eq!(fs::metadata(&view).unwrap().len(), 1 << 20);
        let mut content = vec![b'x'; 1 << 20];
        content[..4].copy_from_slice(b"kept");
        let file = OpenOptions::new().write(true).open(&view).unwrap();
        io::Write::write_all(&mut &file, &content).unwrap();
        drop(file);
        let second = Export::new(image(&path, format)).unwrap_err();
        assert!(second.to_string().contains("lock"), "{second}");
        drop(export);
        let reading = Image {
            read_only: true,
            ..image(&path, format)
        };
        let export = Export::new(reading).unwrap();
        assert!(fs::read(export.path()).unwrap() == content);
        let writing = OpenOptions::new().write(true).open(export.path());
        let refused = writing.and_then(|mut file| io::Write::write_all(&mut file, b"no"));
        assert!(refused.is_err());
    }
}

#[test]
fn what_an_image_names_is_out_of_the_daemons_reach() {
    let test = "what_an_image_names_is_out_of_the_daemons_reach";
    let Some((dir, path)) = make("qcow2", &["-b", "victim", "-F", "raw"]) else {
        eprintln!("skipped: {test}: no qemu-img");
        return;
    };
    let error = Export::new(image(&path, "qcow2")).unwrap_err();
    assert!(error.to_string().contains("'victim'"), "{error}");
    let file = || reference::open(&path, false).unwrap();
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: {test}: not root, or no FUSE");
        return;
    }
    let export = Export::show(image(&path, "qcow2"), file()).unwrap();
    assert!(
        fs::read(export.path())
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    drop(export);
    let victim = dir.path().join("victim");
    let text = |extent: &str| {
        format!(
            "version=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{extent}\n"
        )
    };
    for extent in [
        format!("RW 2048 FLAT \"{}\" 0", victim.display()),
        "RW 2048 FLAT \"victim\" 0".to_owned(),
        // Even what is in its root is not its to write.
        "RW 8 FLAT \"/qemu-storage-daemon\" 0".to_owned(),
    ] {
        fs::write(&path, text(&extent)).unwrap();
        let error = Export::show(image(&path, "vmdk"), file()).unwrap_err();
        assert!(error.to_string().contains("Could not open"), "{error}");
    }
    assert!(fs::read(&victim).unwrap().starts_with(MARKER.as_bytes()));
    let backing = Image {
        backing: true,
        ..image(&path, "vmdk")
    };
    fs::write(&path, text("RW 2048 FLAT \"victim\" 0")).unwrap();
    let export = Export::new(backing).unwrap();
    let view = fs::read(export.path()).unwrap();
    assert!(view.starts_with(MARKER.as_bytes()));
}

#[test]
fn what_is_no_image_of_the_format_is_an_error() {
    let test = "what_is_no_image_of_the_format_is_an_error";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    fs::write(&path, "no image").unwrap();
    for wrong in [dir.path(), Path::new("/dev/null"), &dir.path().join("none")] {
        assert!(Export::new(image(wrong, "qcow2")).is_err(), "{wrong:?}");
    }
    if make("qcow2", &[]).is_some() && Path::new("/dev/fuse").exists() {
        let error = Export::new(image(&path, "qcow2")).unwrap_err();
        assert!(!error.to_string().is_empty(), "{test}");
    }
}
