//! A tree behind overlays shares no inode with the host.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use guest_init::config::Access;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NONBLOCK;
use nix::mount::{MsFlags, mount};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::stage::{Stage, bind, has_overlay, in_stage, tmpfs};
use crate::{host, is_read_only};

fn isolated(
    prepare: impl FnOnce(&Stage) + Send + 'static,
    test: impl FnOnce(&Path) + Send + 'static,
) {
    in_stage(|mut stage| {
        host(&stage);
        prepare(&stage);
        let outside = stage.outside("/host");
        stage.root(Access::Isolated, &[]);
        stage.enter();
        test(&outside);
    });
}

#[test]
fn it_is_read_only_and_has_the_hosts_content() {
    isolated(
        |_| (),
        |outside| {
            for path in ["/", "/home", "/home/me", "/etc"] {
                assert!(is_read_only(path), "{path}");
            }
            assert!(has_overlay());
            assert_eq!(fs::read_to_string("/home/me/file").unwrap(), "mine");
            let mut file = File::open("/home/me/file").unwrap();
            fs::write(outside.join("home/me/file"), "changed").unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "changed");
            // One device, which `find -xdev` and `tar --one-file-system` need.
            let device = |path: &str| fs::symlink_metadata(path).unwrap().dev();
            assert_eq!(device("/etc/passwd"), device("/etc"));
            assert_ne!(device("/home/me"), device("/etc"));
        },
    );
}

#[test]
fn sockets_are_out_of_reach_whenever_they_were_bound() {
    isolated(
        |stage| {
            // A listener that outlives the setup of the test.
            let before = UnixListener::bind(stage.path("/host/srv/before")).unwrap();
            fs::hard_link(
                stage.path("/host/srv/before"),
                stage.path("/host/etc/linked"),
            )
            .unwrap();
            std::mem::forget(before);
        },
        |outside| {
            let place = outside.join("srv");
            let _later = UnixListener::bind(place.join("later")).unwrap();
            fs::rename(place.join("before"), place.join("renamed")).unwrap();
            let _before = UnixListener::bind(place.join("before")).unwrap();
            for name in ["/srv/before", "/srv/later", "/srv/renamed", "/etc/linked"] {
                assert!(
                    UnixStream::connect(outside.join(&name[1..])).is_ok(),
                    "{name}"
                );
                let error = UnixStream::connect(name).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{name}");
            }
        },
    );
}

#[test]
fn pipes_locks_and_watches_are_its_own() {
    isolated(
        |stage| mkfifo(&stage.path("/host/srv/pipe"), Mode::S_IRWXU).unwrap(),
        |outside| {
            let options = |read| {
                let mut options = OpenOptions::new();
                options.read(read).write(!read).custom_flags(O_NONBLOCK);
                options
            };
            let reader = options(true).open(outside.join("srv/pipe")).unwrap();
            let error = options(false).open("/srv/pipe").unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(Errno::ENXIO as i32),
                "nobody reads"
            );
            drop(reader);

            let lock = |path: &Path| {
                let file = File::open(path).unwrap();
                Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
            };
            let inside = lock(Path::new("/etc/passwd")).unwrap();
            assert!(lock(Path::new("/etc/passwd")).is_err(), "it is a lock");
            lock(&outside.join("etc/passwd")).unwrap();
            drop(inside);

            let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
            for path in ["/etc", "/etc/passwd", "/srv"] {
                watch.add_watch(path, AddWatchFlags::IN_ALL_EVENTS).unwrap();
            }
            fs::write(outside.join("etc/passwd"), "new").unwrap();
            fs::write(outside.join("srv/new"), "new").unwrap();
            fs::read_dir(outside.join("etc")).unwrap().count();
            assert_eq!(watch.read_events().unwrap_err(), Errno::EAGAIN);
            fs::read("/etc/passwd").unwrap();
            assert!(!watch.read_events().unwrap().is_empty(), "it is a watch");
        },
    );
}

#[test]
fn a_file_that_is_a_mount_becomes_a_copy_and_no_socket_stays() {
    isolated(
        |stage| {
            let file = stage.path("/host/etc/own");
            fs::write(&file, "").unwrap();
            fs::write(stage.path("/given"), "given").unwrap();
            chown(stage.path("/given"), Some(7), Some(8)).unwrap();
            fs::set_permissions(stage.path("/given"), Permissions::from_mode(0o640)).unwrap();
            bind(&stage.path("/given"), &file);
            let listener = UnixListener::bind(stage.path("/socket")).unwrap();
            std::mem::forget(listener);
            fs::write(stage.path("/host/srv/socket"), "").unwrap();
            bind(&stage.path("/socket"), &stage.path("/host/srv/socket"));
            let large = File::create(stage.path("/large")).unwrap();
            large.set_len(1 << 30).unwrap();
            fs::write(stage.path("/host/srv/large"), "").unwrap();
            bind(&stage.path("/large"), &stage.path("/host/srv/large"));
        },
        |outside| {
            let own = fs::metadata("/etc/own").unwrap();
            assert_eq!((own.uid(), own.gid(), own.mode() & 0o7777), (7, 8, 0o640));
            assert_eq!(fs::read_to_string("/etc/own").unwrap(), "given");
            assert!(UnixStream::connect(outside.join("srv/socket")).is_ok());
            for place in ["/srv/socket", "/srv/large"] {
                assert_eq!(fs::metadata(place).unwrap().len(), 0, "{place}");
            }
            assert!(UnixStream::connect("/srv/socket").is_err());
        },
    );
}

#[test]
fn what_cannot_be_kept_apart_is_left_out() {
    isolated(
        |stage| {
            for place in ["srv/root/proc", "srv/root/dev", "srv/root/sys"] {
                fs::create_dir_all(stage.path(&format!("/host/{place}"))).unwrap();
            }
            for kernels in ["proc", "dev", "sys"] {
                bind(
                    &Path::new("/").join(kernels),
                    &stage.path(&format!("/host/srv/root/{kernels}")),
                );
            }
            // The kernel stacks at most two overlays.
            let deep = stage.path("/host/srv/deep");
            fs::create_dir(&deep).unwrap();
            for name in ["one", "two", "three"] {
                fs::create_dir_all(stage.path(&format!("/layers/{name}"))).unwrap();
            }
            let layer = |name: &str| stage.path(&format!("/layers/{name}")).display().to_string();
            let once = format!("lowerdir={}:{}", layer("one"), layer("two"));
            let twice = format!("lowerdir={}:{}", deep.display(), layer("three"));
            fs::write(stage.path("/layers/one/file"), "").unwrap();
            for options in [once, twice] {
                let kind = Some("overlay");
                let none = MsFlags::empty();
                mount(kind, &deep, kind, none, Some(options.as_str())).unwrap();
            }
            tmpfs(&stage.path("/host/srv/a"));
        },
        |outside| {
            assert!(outside.join("srv/deep/file").exists());
            for place in ["srv/root/proc", "srv/root/dev", "srv/root/sys", "srv/deep"] {
                let is_empty = fs::read_dir(Path::new("/").join(place)).unwrap().next();
                assert!(is_empty.is_none(), "{place}");
            }
            assert!(is_read_only("/srv/a"));
        },
    );
}

#[test]
fn a_volatile_tree_is_kept_apart_as_well() {
    in_stage(|mut stage| {
        host(&stage);
        let _listener = UnixListener::bind(stage.path("/host/srv/socket")).unwrap();
        stage.root(Access::Volatile, &[]);
        stage.enter();
        assert!(UnixStream::connect("/srv/socket").is_err());
        let mut file = File::create("/srv/new").unwrap();
        file.write_all(b"new").unwrap();
    });
}
