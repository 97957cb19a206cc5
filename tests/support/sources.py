"""Real directories for import tests: made by plain system calls, with every type of file there is."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""security.capability: cap_net_raw=ep."""

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in (
        (1, 6, 0xFFFFFFFF),
        (2, 4, 1234),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    )
)
"""POSIX ACL: user 1234 may read."""

Spec = dict[bytes, "Entry"]
Entry = tuple[str, Any, dict[str, Any]]
"""(kind, content, metadata): kind is dir (a Spec), file (bytes), link (target), fifo (None), char or block (rdev)."""


def make_tree(directory: Path, spec: Spec) -> None:
    """Fill the existing ``directory``."""
    for name, (kind, content, metadata) in spec.items():
        path = os.fsencode(directory) + b"/" + name
        if kind == "dir":
            os.mkdir(path)
            make_tree(Path(os.fsdecode(path)), content)
        elif kind == "file":
            with open(path, "wb") as file:
                file.write(content)
        elif kind == "link":
            os.symlink(content, path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            os.mknod(path, (stat.S_IFCHR if kind == "char" else stat.S_IFBLK) | 0o600, content)
        _set(path, kind, metadata)


def _set(path: bytes, kind: str, metadata: dict[str, Any]) -> None:
    uid, gid = metadata.get("owner", (0, 0))
    os.chown(path, uid, gid, follow_symlinks=False)
    for name, value in metadata.get("xattrs", {}).items():
        os.setxattr(path, name, value, follow_symlinks=False)
    if kind != "link":
        os.chmod(path, metadata.get("mode", 0o755))
    mtime = metadata.get("mtime", 0)
    os.utime(path, ns=(0, mtime), follow_symlinks=False)


def make_socket(path: Path) -> None:
    """A socket file; its path may be as long as any."""
    with socket.socket(socket.AF_UNIX) as server:
        fd = os.open(path.parent, os.O_PATH)
        try:
            server.bind(f"/proc/self/fd/{fd}/{path.name}")
        finally:
            os.close(fd)


_names = st.binary(min_size=1, max_size=12).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 0x2F})
_contents = st.one_of(
    st.binary(max_size=70),
    st.sampled_from([1, 63, 64, 65, 4095, 4096, 4097, 300_000]).map(lambda size: b"%d" % size * (size // 3 + 1)),
)
_xattrs = st.dictionaries(
    st.one_of(
        st.text("abc.\xe4", min_size=1, max_size=8).map(lambda name: f"user.{name}"),
        st.sampled_from(["trusted.a", "trusted.overlay.redirect", "trusted.overlay.overlay.x", "trusted.overlayed"]),
    ),
    st.binary(max_size=40),
    max_size=3,
)
_trusted = st.dictionaries(st.sampled_from(["trusted.a", "trusted.overlay.opaque"]), st.binary(max_size=9), max_size=2)


def _metadata(xattrs: st.SearchStrategy[dict[str, bytes]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "owner": st.tuples(st.sampled_from([0, 1, 1000, 70_000, (1 << 32) - 2]), st.integers(0, 100_000)),
            "mode": st.integers(0, 0o7777),
            "mtime": st.integers(-(2**31) * 10**9, 2**33 * 10**9),
            "xattrs": xattrs,
        },
    )


def _entries(children: st.SearchStrategy[Entry]) -> st.SearchStrategy[Entry]:
    return st.tuples(st.just("dir"), st.dictionaries(_names, children, max_size=6), _metadata(_xattrs))


_leaves: st.SearchStrategy[Entry] = st.one_of(
    st.tuples(st.just("file"), _contents, _metadata(_xattrs)),
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=80).filter(lambda t: 0 not in t), _metadata(_trusted)),
    st.tuples(st.just("fifo"), st.none(), _metadata(_trusted)),
    st.tuples(st.sampled_from(["char", "block"]), st.sampled_from([0, 0x103, 0xFFF12]), _metadata(_trusted)),
)

specs: st.SearchStrategy[Spec] = st.dictionaries(_names, st.recursive(_leaves, _entries, max_leaves=25), max_size=8)
"""Contents of a directory: any names, types and metadata that ext4 takes."""
