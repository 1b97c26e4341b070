//! Hostile archives, and archives for another host.

use std::fs;
use std::path::Path;

use crate::support::{HostFile, Test, in_tree, ok, output, run};
use crate::trees::UNIT;

/// Writes `bad.tar` from `good.tar`; `change` is Python that may change members (name → (header, content)) and add some.
fn spoil(dir: &Path, change: &str) {
    let script = format!(
        r#"
import io, json, os, sys, tarfile
os.chdir(sys.argv[1])
T = tarfile.TarInfo
good = tarfile.open('good.tar')
head, tree = [], []
for m in good:
    content = good.extractfile(m).read() if m.isreg() else b''
    m.pax_headers = {{}}
    if m.name.startswith('virt-sandbox/'):
        head.append((m, content))
text = {{m.name.split('/')[1]: content for m, content in head}}
def member(name, kind=tarfile.REGTYPE, link='', content=b'evil', **more):
    m = T(name); m.type = kind; m.linkname = link; m.mode = 0o755
    for k, v in more.items(): setattr(m, k, v)
    tree.append((m, content if kind == tarfile.REGTYPE else b''))
for d in ['tree/etc', 'tree/var', 'tree/home', 'tree/root', 'tree/srv']:
    member(d, tarfile.DIRTYPE)
{change}
bad = tarfile.open('bad.tar', 'w', format=tarfile.PAX_FORMAT)
for name in ['metadata.json', 'sandbox.toml', 'manifest', 'base.json']:
    if name in text:
        m = T('virt-sandbox/' + name); m.size = len(text[name]); bad.addfile(m, io.BytesIO(text[name]))
for m, content in tree:
    m.size = len(content); bad.addfile(m, io.BytesIO(content))
if 'end' in text:
    bad.addfile(T('virt-sandbox/end'))
bad.close()
"#
    );
    output("python3", &["-c", &script, dir.to_str().unwrap()]);
}

fn assert_nothing_is_left(what: &str) {
    let places = [
        in_tree("t-bad", ""),
        "/etc/libvirt-sandbox/services/t-bad".into(),
        "/var/lib/libvirt-sandbox/t-bad".into(),
    ];
    assert!(
        !places.iter().any(|place| place.exists()),
        "{what}: something is left"
    );
}

#[test]
fn hostile_archives_write_nothing_outside_the_tree() {
    let Some(test) = Test::begin("hostile_archives_write_nothing_outside_the_tree") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    ok(&["create", "-N", "none", "-u", "t-state.service", "t-bad"]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    ok(&["export", "t-bad", "-o", &path("good.tar")]);
    ok(&["delete", "t-bad"]);
    let out = HostFile::new("/var/lib/t-out/here", "mine");
    let cases = [
        ("member('tree/../../../t-out/evil')", "leads out"),
        ("member('/var/lib/t-out/evil')", "leads out"),
        (
            "member('tree/' + 'd/' * 80 + '../' * 90 + 't-out/evil')",
            "leads out",
        ),
        (
            "member('tree/etc/l', tarfile.SYMTYPE, '/var/lib/t-out'); member('tree/etc/l/evil')",
            "etc/l",
        ),
        (
            "member('tree/etc/l', tarfile.SYMTYPE, '../../../../t-out'); member('tree/etc/l/d', tarfile.DIRTYPE)",
            "etc/l",
        ),
        (
            "member('tree/etc/l', tarfile.SYMTYPE, '/var/lib/t-out/evil'); member('tree/etc/l')",
            "etc/l",
        ),
        (
            "member('tree/etc/h', tarfile.LNKTYPE, '/var/lib/t-out/here')",
            "links to what is out",
        ),
        (
            "member('tree/etc/h', tarfile.LNKTYPE, 'tree/../../../t-out/here')",
            "links to what is out",
        ),
        (
            "member('tree/etc/l', tarfile.SYMTYPE, '/var/lib/t-out'); member('tree/etc/h', tarfile.LNKTYPE, 'tree/etc/l/here')",
            "etc/l'",
        ),
        (
            "member('tree/etc/null', tarfile.CHRTYPE, devmajor=1, devminor=3)",
            "is a device",
        ),
        (
            "member('tree/etc/vda', tarfile.BLKTYPE, devmajor=254, devminor=0)",
            "is a device",
        ),
        ("member('tree/.virt-sandbox.json')", "belongs to no sandbox"),
        ("member('other/file')", "belongs to no sandbox"),
        ("del text['end']", "cut off"),
        ("del text['metadata.json']", "not of a sandbox"),
        (
            "text['metadata.json'] = text['metadata.json'].replace(b'\"format\": 1', b'\"format\": 2')",
            "format 2",
        ),
        (
            "text['metadata.json'] = text['metadata.json'].replace(b'x86_64', b's390x').replace(b'aarch64', b's390x')",
            "s390x",
        ),
        (
            "d = json.loads(text['metadata.json']); d['packages'] = {'no-such': '1'}; text['metadata.json'] = json.dumps(d).encode()",
            "no-such",
        ),
        (
            "d = json.loads(text['metadata.json']); d['host-units'] = ['no-such.service']; text['metadata.json'] = json.dumps(d).encode()",
            "no-such.service",
        ),
        (
            "text['sandbox.toml'] = text['sandbox.toml'].replace(b't-state.service', b't-state.service\\\\nExecStart=/x')",
            "in the archive",
        ),
        (
            "text['sandbox.toml'] = text['sandbox.toml'].replace(b'timeout', b\"mounts = ['host-bind:/host=/']\\ntimeout\")",
            "--trust-mounts",
        ),
        (
            "text['sandbox.toml'] = text['sandbox.toml'].replace(b'name = \"t-bad', b'name = \"../t-bad')",
            "../t-bad",
        ),
    ];
    for (change, word) in cases {
        spoil(dir.path(), change);
        let done = run(&["import", &path("bad.tar")]);
        assert_eq!(done.code, 1, "{change}: {done:?}");
        assert!(done.stderr.contains(word), "{change}: {done:?}");
        let left: Vec<_> = fs::read_dir("/var/lib/t-out").unwrap().collect();
        assert_eq!(left.len(), 1, "{change}: {left:?}");
        assert_nothing_is_left(change);
    }
    // Mere differences are reported, and a good archive works.
    spoil(
        dir.path(),
        "d = json.loads(text['metadata.json']); d['os'] = {'id': 'other', 'pretty-name': 'Other 1'}; text['metadata.json'] = json.dumps(d).encode()\n\
         member('tree/var/l', tarfile.SYMTYPE, '/var/lib/t-out')",
    );
    let done = run(&["import", &path("bad.tar")]);
    assert!(
        done.code == 0 && done.stderr.contains("Other 1"),
        "{done:?}"
    );
    ok(&["delete", "t-bad"]);
    assert!(Path::new("/var/lib/t-out/here").exists());

    let good = fs::read(path("good.tar")).unwrap();
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("no archive", &[b'x'; 5000][..]),
        ("half", &good[..good.len() / 2]),
    ] {
        fs::write(path("bad.tar"), bytes).unwrap();
        let done = run(&["import", &path("bad.tar")]);
        assert!(
            done.code == 1 && done.stderr.lines().count() == 1,
            "{what}: {done:?}"
        );
        assert_nothing_is_left(what);
    }
    drop((unit, out));
    test.end();
}
