//! Images, on loop devices. Needs losetup(8) and mkfs.ext4(8); skipped without.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use guest_init::config::{BlockDevice, Staged};
use guest_init::machine::block;

use crate::stage::in_stage;

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        }
        Ok(_) | Err(_) => {
            println!("SKIP: {program} {arguments:?} does not work");
            None
        }
    }
}

/// Loop device, which is released after its last unmount.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Option<Self> {
        let image = image.to_str().unwrap();
        run("losetup", &["--read-only", "--find", "--show", image]).map(Self)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn an_image_is_mounted_also_if_it_was_not_unmounted_cleanly() {
    in_stage(|stage| {
        let image = stage.path("/image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let path = image.to_str().unwrap();
        if run("mkfs.ext4", &["-q", "-F", path]).is_none() {
            return;
        }
        for dirty in [false, true] {
            let at = stage.path(if dirty { "/dirty" } else { "/clean" });
            let feature = ["-w", "-R", "feature needs_recovery", path];
            if dirty && run("debugfs", &feature).is_none() {
                return;
            }
            let Some(device) = Loop::new(&image) else {
                return;
            };
            let staged = Staged::Image {
                device: BlockDevice::Node((&device.0).into()),
                partition: None,
                path: at.clone(),
                read_only: true,
            };
            block::stage(&staged).unwrap();
            assert!(at.join("lost+found").is_dir(), "dirty: {dirty}");
        }
    });
}

#[test]
fn what_is_no_image_is_refused() {
    in_stage(|stage| {
        let image = stage.path("/image");
        fs::write(&image, [0; 4096]).unwrap();
        let staged = Staged::Image {
            device: BlockDevice::Node(image.clone()),
            partition: None,
            path: stage.path("/at"),
            read_only: true,
        };
        assert_eq!(
            format!("{:#}", block::stage(&staged).unwrap_err()),
            format!(
                "mounting the image '{}': no filesystem that is known, and no partitions",
                image.display()
            )
        );
    });
}
