"""Tries to write in directories that are to be read-only, in each place where they can be mounted.

Prints a line for each attempt: "stopped" or "ESCAPED", the place, what was tried, and the error's number.
Arguments: the directories, each as a path below a mount.
"""

import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
MS_REMOUNT = 32
SHARES = 12


def mount(source, target, kind, flags=0, data=""):
    texts = [text.encode() for text in (source, target, kind)]
    return libc.mount(*texts, flags, data.encode()) == 0


def tops():
    """The root, and every share mounted once more, writable."""
    mount("none", "/", "none", MS_REMOUNT)
    yield ""
    for kind, data in [("9p", "trans=virtio,version=9p2000.L"), ("virtiofs", "")]:
        for number in range(SHARES):
            top = f"/run/t/{kind}/{number}"
            os.makedirs(top, exist_ok=True)
            if mount(f"share{number}", top, kind, 0, data):
                mount("none", top, "none", MS_REMOUNT)
                yield top


def opens(flags):
    return lambda: os.close(os.open("file", flags))


ATTEMPTS = {
    "open to write": opens(os.O_WRONLY),
    "open to read and write": opens(os.O_RDWR),
    "open to append": opens(os.O_WRONLY | os.O_APPEND),
    "open to truncate": opens(os.O_RDONLY | os.O_TRUNC),
    "make a file": lambda: os.close(os.open("new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    "make a file without a name": lambda: os.close(os.open(".", os.O_TMPFILE | os.O_RDWR)),
    "truncate": lambda: os.truncate("file", 0),
    "make it root's for all": lambda: os.chmod("file", 0o4755),
    "open the directory to all": lambda: os.chmod(".", 0o777),
    "give it away": lambda: os.chown("file", 1, 1),
    "set its times": lambda: os.utime("file", (1, 1)),
    "set an attribute": lambda: os.setxattr("file", "trusted.t", b"x"),
    "make a directory": lambda: os.mkdir("new"),
    "make a pipe": lambda: os.mkfifo("new"),
    "make a disk": lambda: os.mknod("new", 0o60666, os.makedev(8, 0)),
    "make a link": lambda: os.symlink("file", "new"),
    "make a second name": lambda: os.link("file", "new"),
    "rename": lambda: os.rename("file", "moved"),
    "replace": lambda: os.rename("dir/file", "file"),
    "remove": lambda: os.unlink("file"),
    "remove a directory": lambda: os.rmdir("dir"),
}

for top in tops():
    for place in sys.argv[1:]:
        try:
            os.chdir(top + place)
            os.stat("file")
        except OSError:
            continue
        for name, attempt in ATTEMPTS.items():
            try:
                attempt()
                print("ESCAPED", top + place, name, 0, sep="\t")
            except OSError as error:
                print("stopped", top + place, name, error.errno, sep="\t")
