//! Features of virtual machines only: kernels, disks, QEMU's network, and the guest's shutdown.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use test_harness::host;

use crate::support::{Test, eventually, open};

cases! {
    every: ;
    containers: ;
    machines: the_kernel_can_be_chosen, a_single_file_is_mounted_in_a_machine, files_are_shared_in_both_directions,
        a_volatile_root_loses_its_changes, images_are_mounted, disks_have_tags, a_directory_is_the_root,
        the_user_network_of_qemu_works, a_port_is_published, a_kernel_panic_is_reported, a_hanging_guest_is_reported,
        a_killed_client_leaves_nothing, an_interrupted_start_leaves_nothing, debug_shows_each_message_once;
}

chosen! {
    system System: files_are_shared_in_both_directions, images_are_mounted, a_network_with_dhcp_works, a_kernel_panic_is_reported,
        the_kernel_can_be_chosen;
    session Session: a_single_file_is_mounted_in_a_machine, files_are_shared_in_both_directions, a_port_is_published,
        disks_have_tags, a_directory_is_the_root, a_killed_client_leaves_nothing;
    embedded Embedded: two_machines_run_at_once, an_embedded_driver_can_have_its_own_directory, a_killed_client_leaves_nothing,
        a_qemu_without_its_file_is_ended;
    user_embedded UserEmbedded: an_unreadable_kernel_is_refused, files_are_shared_in_both_directions, a_hanging_guest_is_reported;
}

/// Returns the releases of this host's kernels; the smallest one has no 9p.
fn releases() -> Vec<String> {
    let entries = fs::read_dir("/lib/modules").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names
        .filter(|name| fs::exists(format!("/boot/vmlinuz-{name}")).unwrap())
        .collect()
}

fn the_kernel_can_be_chosen(test: &Test) {
    for release in releases() {
        let is_small = release.contains("-cloud-");
        let done = test.run(&["--kernver", &release], "uname -r");
        if is_small && test.driver.is_users() {
            assert!(done.stderr.contains("has no 9p"), "{done:?}");
        } else {
            assert_eq!(done.stdout.trim_end(), release, "{done:?}");
        }
    }
    let message = test.refusal(&["--kernver", "0.0.1", "--", "true"]);
    assert!(message.contains("0.0.1"), "{message}");
}

fn an_unreadable_kernel_is_refused(test: &Test) {
    let kernel = test.file("kernel", endless_kernel());
    open(&kernel, 0o600);
    let message = test.refusal(&["--kernpath", &kernel, "--", "true"]);
    let way_out = "Permission denied (os error 13); have root make it readable";
    assert!(message.contains(way_out), "{message}");
}

fn a_single_file_is_mounted_in_a_machine(test: &Test) {
    let file = test.file("alone/app.conf", "of the host");
    let script = "cat /opt/app.conf; (echo changed >/opt/app.conf) 2>/dev/null || echo refused";
    let said = test.says(
        &["-p", "-m", &format!("host-bind:/opt/app.conf={file},ro")],
        script,
    );
    assert_eq!(said, "of the hostrefused");
    assert_eq!(fs::read_to_string(&file).unwrap(), "of the host");
    let mount = format!("host-bind:/opt/app.conf={file}");
    if test.driver.is_users() {
        let message = test.refusal(&["-m", &mount, "--", "true"]);
        assert!(
            message.contains("without having its directory"),
            "{message}"
        );
    } else {
        assert_eq!(test.says(&["-p", "-m", &mount], script), "of the host");
        assert_eq!(fs::read_to_string(&file).unwrap(), "changed\n");
    }
    let message = test.refusal(&["-m", "host-bind:/opt/x=/dev/null", "--", "true"]);
    assert!(message.contains("nor a regular file"), "{message}");
}

fn files_are_shared_in_both_directions(test: &Test) {
    let shared = test.dir("shared");
    if test.driver.is_users() {
        own(&shared);
    }
    test.file("shared/in", "from the host");
    test.file("ro/in", "read-only");
    let mounts = [
        format!("host-bind:/mnt={shared}"),
        format!("host-bind:/srv={},ro", test.text("ro")),
        "host-bind:/media=".to_owned(),
        "ram:/opt=1MiB".to_owned(),
    ];
    let mut options: Vec<&str> = mounts.iter().flat_map(|mount| ["-m", mount]).collect();
    let include = format!("/opt/included={}", test.text("ro/in"));
    options.extend(["-i", &include]);
    let said = test.says(
        &options,
        "cat /mnt/in /opt/included; echo from the guest > /mnt/out; touch /media/x && ls /media; touch /srv/x 2>/dev/null || echo refused; \
         test -w /usr || echo refused too",
    );
    assert_eq!(said, "from the hostread-onlyx\nrefused\nrefused too");
    assert_eq!(
        fs::read_to_string(test.path("shared/out")).unwrap(),
        "from the guest\n"
    );
    let owner = fs::metadata(test.path("shared/out")).unwrap().uid();
    assert_eq!(owner, fs::metadata(&shared).unwrap().uid());
}

/// Changes the owner of a file to the ordinary user.
fn own(path: &str) {
    let user = nix::unistd::User::from_name(test_harness::user::NAME)
        .unwrap()
        .unwrap();
    nix::unistd::chown(path, Some(user.uid), Some(user.gid)).unwrap();
}

fn a_volatile_root_loses_its_changes(test: &Test) {
    let name = format!("/usr/{}", test.name());
    let said = test.says(&["--volatile", "-p"], &format!("touch {name} && ls {name}"));
    assert_eq!(said, name);
    assert!(!fs::exists(name).unwrap());
}

/// Makes an ext4 image with a file, and returns its path.
fn image(test: &Test, format: &str) -> String {
    test.file("tree/file", "in the image");
    let raw = test.text("raw.img");
    fs::File::create(&raw).unwrap().set_len(16 << 20).unwrap();
    host::output(
        "mke2fs",
        &["-q", "-t", "ext4", "-d", &test.text("tree"), &raw],
    )
    .unwrap();
    let path = test.text(&format!("image.{format}"));
    host::output("qemu-img", &["convert", "-O", format, &raw, &path]).unwrap();
    if test.driver.is_users() {
        own(&path);
    }
    path
}

fn images_are_mounted(test: &Test) {
    for format in ["raw", "qcow2"] {
        let path = image(test, format);
        let before = fs::metadata(&path).unwrap();
        let mount = format!("host-image:/mnt={path},format={format}");
        let said = test.says(
            &["-p", "-m", &mount],
            "cat /mnt/file; echo more > /mnt/more",
        );
        assert_eq!(said, "in the image");
        // libvirt changes the owner to QEMU's user meanwhile.
        eventually("the image has its owner again", || {
            fs::metadata(&path).unwrap().uid() == before.uid()
        });
        let said = test.says(&["-m", &format!("{mount},ro")], "cat /mnt/more");
        assert_eq!(said, "more");
    }
}

fn disks_have_tags(test: &Test) {
    let path = test.file("disk", vec![b'x'; 1 << 20]);
    if test.driver.is_users() {
        own(&path);
    }
    let disk = format!("file:data={path},format=raw");
    let said = test.says(
        &["--disk", &disk],
        "head -c 3 /dev/disk/by-tag/data; printf abc | dd of=/dev/disk/by-tag/data conv=notrunc status=none",
    );
    assert_eq!(said, "xxx");
    let mut begin = [0; 4];
    fs::File::open(path)
        .unwrap()
        .read_exact(&mut begin)
        .unwrap();
    assert_eq!(&begin, b"abcx");
}

fn a_directory_is_the_root(test: &Test) {
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let libraries = host::output("ldd", &[shell.to_str().unwrap()]).unwrap();
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries {
        test.file(&format!("root/{file}"), fs::read(file).unwrap());
        open(test.path(&format!("root/{file}")), 0o755);
    }
    test.file("root/bin/sh", fs::read(shell).unwrap());
    open(test.path("root/bin/sh"), 0o755);
    test.file("root/here", "");
    let said = test.says(
        &["--root", &test.text("root"), "-m", "ram:/not/there=1MiB"],
        "echo /*; cd /not/there && echo mounted",
    );
    assert!(
        said.contains(" /here ") && said.ends_with("\nmounted"),
        "{said}"
    );
}

fn the_user_network_of_qemu_works(test: &Test) {
    let said = test.says(
        &["-N", "dhcp,user"],
        "ip -4 -o addr show eth0; cat /etc/resolv.conf",
    );
    assert!(
        said.contains("10.0.2.15/24") && said.contains("nameserver"),
        "{said}"
    );
}

fn a_network_with_dhcp_works(test: &Test) {
    let listener = TcpListener::bind((format!("{}.1", host::subnet().unwrap()), 0)).unwrap();
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; cat <&3",
        listener.local_addr().unwrap().ip(),
        listener.local_addr().unwrap().port()
    );
    let host = std::thread::spawn(move || {
        let (mut client, address) = listener.accept().unwrap();
        client.write_all(b"from the host").unwrap();
        address.ip().to_string()
    });
    let said = test.says(
        &["-N", "dhcp,source=default"],
        &format!("ip -4 -o addr show eth0; bash -c '{script}'"),
    );
    let address = host.join().unwrap();
    assert!(said.contains(&format!("{address}/24")), "{said} {address}");
    assert!(said.ends_with("from the host"), "{said}");
}

fn a_port_is_published(test: &Test) {
    // The port was free a moment ago.
    let port = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let publish = format!("127.0.0.1:{port}:8080");
    let answer = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 1) or die; $| = 1; \
                  print \"listens\\n\"; my $c = $s->accept; print $c \"from the guest\\n\"; close $c";
    let mut command = test.command();
    command.args([
        "-N",
        "dhcp,user",
        "--publish",
        &publish,
        "--",
        "perl",
        "-e",
        answer,
    ]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "listens");
    let mut answer = String::new();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "from the guest\n");
    assert!(child.wait().unwrap().success());
}

fn a_kernel_panic_is_reported(test: &Test) {
    let done = test.run(&["-p"], "echo c > /proc/sysrq-trigger; sleep 1000");
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.contains("the last it said was:"), "{done:?}");
    assert!(done.stderr.contains("sysrq triggered crash"), "{done:?}");
}

/// Returns a kernel image, as Documentation/x86/boot.rst describes it, whose code is an endless loop.
fn endless_kernel() -> Vec<u8> {
    let mut image = vec![0; 16 << 10];
    image[0x1f1] = 4;
    image[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\xfeHdrS");
    image[0x206..0x208].copy_from_slice(&[0x0c, 0x02]);
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x37ff_ffff_u32.to_le_bytes());
    image
}

fn a_hanging_guest_is_reported(test: &Test) {
    let kernel = test.file("kernel", endless_kernel());
    let release = releases()
        .into_iter()
        .find(|release| !release.contains("-cloud-"));
    let release = release.unwrap();
    let options = [
        "--kernpath",
        &kernel,
        "--kernver",
        &release,
        "--start-timeout",
        "1",
    ];
    let done = test.run(&options, "true");
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.contains("did not report in time"), "{done:?}");
    assert!(done.stderr.contains("try --debug"), "{done:?}");
}

/// Starts the program, and waits until its command runs.
fn running(mut command: Command) -> std::process::Child {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "runs");
    child
}

/// Checks that a QEMU whose pid file is gone, but which is still in its cgroups, is killed.
fn a_qemu_without_its_file_is_ended(test: &Test) {
    let root = test.dir("d");
    let name = test.name();
    let mut command = test.bare();
    command.args(["-c", &format!("qemu:///embed?root={root}")]);
    command.args(["--name", &name, "--", "sh", "-c", "echo runs; sleep 1000"]);
    let mut child = running(command);
    let file = format!("{root}/run/qemu/{name}.pid");
    let qemu = fs::read_to_string(&file).unwrap();
    host::output("kill", &["-STOP", qemu.trim()]).unwrap();
    kill(&child, "KILL");
    child.wait().unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(test.says(&[], "echo next"), "next");
}

fn a_killed_client_leaves_nothing(test: &Test) {
    let mut child = running(test.shell(&[], "echo runs; sleep 1000"));
    kill(&child, "KILL");
    child.wait().unwrap();
    // The domain has ended by itself, and the next command removes the directory.
    assert_eq!(test.says(&[], "echo next"), "next");
}

/// Sends a signal to the program: `setpriv` executes it, so it has the child's pid.
fn kill(child: &std::process::Child, signal: &str) {
    host::output("kill", &[&format!("-{signal}"), &child.id().to_string()]).unwrap();
}

fn an_interrupted_start_leaves_nothing(test: &Test) {
    let kernel = test.file("kernel", endless_kernel());
    let release = releases()
        .into_iter()
        .find(|release| !release.contains("-cloud-"));
    let name = test.name();
    let mut command = test.unnamed();
    command.args([
        "--name",
        &name,
        "--kernpath",
        &kernel,
        "--kernver",
        &release.unwrap(),
        "--",
        "true",
    ]);
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("QEMU runs", || {
        let list = Command::new("pgrep")
            .args(["-f", &format!("guest={name},")])
            .output();
        list.unwrap().status.success()
    });
    kill(&child, "INT");
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), said.as_str()),
        (Some(130), "")
    );
}

fn debug_shows_each_message_once(test: &Test) {
    let done = test.run(&["--debug"], "echo out");
    assert_eq!((done.code, done.stdout.as_str()), (0, "out\n"), "{done:?}");
    for line in ["Linux version", "guest-init: ", "Pivot(Machine)"] {
        let is_there = done.stderr.contains(line);
        assert!(is_there, "no '{line}' in {done:?}");
    }
    assert_eq!(done.stderr.matches("Pivot(Machine)").count(), 1, "{done:?}");
    assert_eq!(done.stderr.matches("Linux version").count(), 1, "{done:?}");
}

fn an_embedded_driver_can_have_its_own_directory(test: &Test) {
    let root = test.dir("d");
    let mut command = test.bare();
    command.args([
        "-n",
        &test.name(),
        "-c",
        &format!("qemu:///embed?root={root}"),
    ]);
    command.args(["--", "echo", "runs"]);
    let done = host::finish(command, b"").unwrap();
    let said = (done.code, done.stdout.as_str(), done.stderr.as_str());
    assert_eq!(said, (0, "runs\n", ""));
    assert!(fs::exists(format!("{root}/cache/qemu")).unwrap());
}

fn two_machines_run_at_once(test: &Test) {
    let start = || {
        let mut command = test.shell(&[], "echo runs; read line");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut both = [start(), start()];
    for child in &mut both {
        let mut line = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        assert_eq!(&line, b"runs\n");
    }
    for mut child in both {
        writeln!(child.stdin.take().unwrap(), "go").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}
