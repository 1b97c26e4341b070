//! Trees with every attribute that a copy could lose, and descriptions of trees to compare.

use std::path::Path;

use crate::support::output;

/// Unit that does nothing and has a state directory.
pub const UNIT: &str = "[Service]\nExecStart=/bin/sleep infinity\nStateDirectory=t-state\n";

/// Puts owners, modes, times, links, holes, attributes, an ACL and a capability below a directory.
pub fn furnish(dir: &Path) {
    let script = r#"
import os, struct, sys
os.makedirs(sys.argv[1] + '/d/empty')
os.chdir(sys.argv[1])
open('d/plain', 'w').write('content\n')
os.link('d/plain', 'd/again')
with open('d/hole', 'wb') as f:
    f.seek(5 << 20); f.write(b'end'); f.truncate(9 << 20)
os.symlink('../../../../etc/passwd', 'd/link')
os.mkfifo('d/fifo', 0o640)
open('d/' + 'n' * 200, 'w').write('long')
open(b'd/\xff\xfe', 'w').write('no text')
os.setxattr('d/plain', 'user.note', b'line\n9 a=b\n\0')
os.setxattr('d/hole', 'security.capability', struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0))
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in
    [(1, 6, 0xffffffff), (2, 4, 33), (4, 4, 0xffffffff), (16, 6, 0xffffffff), (32, 0, 0xffffffff)])
os.setxattr('d/again', 'system.posix_acl_access', acl)
os.setxattr('d/empty', 'system.posix_acl_default', acl)
os.chown('d/' + 'n' * 200, 33, 4000000)
os.lchown('d/link', 12, 34)
os.chmod('d/' + 'n' * 200, 0o6711)
os.chmod('d/empty', 0o1770)
os.utime('d/plain', ns=(1, 1234567890123456789))
os.utime('d/link', ns=(1, 987654321987654321), follow_symlinks=False)
os.utime('d', ns=(1, 1111111111111111111))
"#;
    output("python3", &["-c", script, dir.to_str().unwrap()]);
}

/// Describes every object below a directory with all its attributes, one line each.
pub fn described(dir: &Path) -> String {
    let script = r#"
import hashlib, os, stat, sys
top = os.fsencode(sys.argv[1])
names = {}
for path, dirs, files in os.walk(top):
    dirs.sort()
    for name in sorted(dirs + files):
        p = os.path.join(path, name)
        s = os.lstat(p)
        first = names.setdefault((s.st_dev, s.st_ino), os.path.relpath(p, top))
        attributes = {n: os.getxattr(p, n, follow_symlinks=False) for n in sorted(os.listxattr(p, follow_symlinks=False))}
        content = b''
        if stat.S_ISREG(s.st_mode):
            content = hashlib.sha256(open(p, 'rb').read()).hexdigest(), s.st_blocks * 512 < s.st_size // 2
        if stat.S_ISLNK(s.st_mode):
            content = os.readlink(p)
        size = 0 if stat.S_ISDIR(s.st_mode) else s.st_size
        print(os.path.relpath(p, top), oct(s.st_mode), s.st_uid, s.st_gid, size, s.st_mtime_ns, first, attributes, content)
"#;
    output("python3", &["-c", script, dir.to_str().unwrap()])
}
