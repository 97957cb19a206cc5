"""Whether a mount shows a store's objects, told by what the kernel says of its layers, in whatever namespace it is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stratum.hydrate.guarding import may_show
from stratum.sys.mountinfo import MountEntry

pytestmark = pytest.mark.root


def showing(objects: Path) -> MountEntry:
    """A mount with ``objects`` as its data layer."""
    options = f"ro,lowerdir+=/proc/self/fd/5,datadir+={objects},redirect_dir=on,metacopy=on"
    return MountEntry(1, 2, "0:30", "/", "/mnt", "ro", "overlay", "stratum-0123456789abcdef:app:v1", options)


@contextmanager
def namespace(script: str) -> Iterator[int]:
    """A process in a mount namespace of its own, in which ``script`` was run."""
    with subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec", script], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()


def test_a_path_is_looked_up_where_the_mount_is(tmp_path: Path) -> None:
    ours, hidden = tmp_path / "ours", tmp_path / "hidden"
    ours.mkdir()
    hidden.mkdir()
    inside = hidden / "objects"
    with namespace(f"mount -t tmpfs none {hidden}; mkdir {inside}; echo ready; exec sleep 100") as pid:
        assert not may_show(showing(inside), ours, pid), "another store's, on a file system that is not mounted here"
        assert may_show(showing(ours), ours, pid)
        assert may_show(showing(hidden / "elsewhere"), ours, pid), "nobody knows"
    with namespace(f"mount --bind {ours} {hidden}; echo ready; exec sleep 100") as pid:
        assert not may_show(showing(tmp_path), ours, pid)


def test_a_path_in_another_root_tells_nothing(tmp_path: Path) -> None:
    """A container may have something else at the path that the store has outside."""
    root, ours = tmp_path / "root", tmp_path / "ours"
    ours.mkdir()
    root.mkdir()
    script = f"mount -t tmpfs none {root}; mkdir -p {root}/usr {root}/lib {root}/lib64 {root}/bin {root}/objects; "
    script += f"for name in usr lib lib64 bin; do mount --rbind /$name {root}/$name; done; "
    script += f"exec chroot {root} /bin/sh -c 'echo ready; exec sleep 100'"
    with namespace(script) as pid:
        assert may_show(showing(Path("/objects")), ours, pid)
