"""Which way somebody who is not root makes mounts: tried, as no version number tells what a kernel was given later.

A trial mounts one file and reads it. What works is noted in the runtime directory until the machine is started again,
but for ``Lower.DIRECTORY``: that stands in where ``/dev/fuse`` cannot be opened, which is seen at once.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from stratum.errors import StratumError, UnsupportedError, os_error_text
from stratum.mount.build import NO_MOUNTS, build_detached
from stratum.mount.plan import Lower, Method, MountPlan, user_method
from stratum.sys import fuse, proc, userns
from stratum.sys.atomic import write_atomic
from stratum.sys.smallfile import read_regular
from stratum.tree.model import Directory, File
from stratum.tree.overlay import Dialect

AUTO = "auto"
CHOICES = {"metadata": Lower.METADATA, "data": Lower.DATA, "directory": Lower.DIRECTORY}
"""What the setting ``user_mounts`` forces, besides ``AUTO``."""

NOTE = "user-mounts"
"""In the runtime directory: the boot that a way was found in, and the way."""
_NOTE_MAX = 256
_CONTENT = b"what a mount shows has to be what is in the store: a line longer than those that are inline\n"
_MODE = 0o40755


def users_method(setting: str, runtime_dir: Path) -> Method | None:
    """The way to make mounts by the setting ``user_mounts``; None for root, who needs no other than the kernel's.

    Raises ``UnsupportedError`` that says what does not work, and what there is instead.
    """
    if userns.is_privileged():
        return None
    if userns.in_initial_namespace():
        raise UnsupportedError(
            "mounting takes root or a user namespace of one's own, and none could be made here", hint=NO_MOUNTS
        )
    if setting != AUTO:
        return _method(CHOICES[setting])
    noted = _noted(runtime_dir) if _fuse_problem() is None else None
    if noted is not None:
        return _method(noted)
    found = _first_that_works(runtime_dir)
    if found is not Lower.DIRECTORY:
        _note(runtime_dir, found)
    return _method(found)


def _method(lower: Lower) -> Method:
    return user_method(os.uname().release, lower)


def _first_that_works(runtime_dir: Path) -> Lower:
    closed = _fuse_problem()
    problems = [] if closed is None else [closed]
    for lower in (Lower.METADATA, Lower.DATA) if closed is None else (Lower.DIRECTORY,):
        problem = _problem(lower, runtime_dir)
        if problem is None:
            return lower
        problems.append(problem)
    raise UnsupportedError("; ".join(problems), hint=NO_MOUNTS)


def _problem(lower: Lower, runtime_dir: Path) -> str | None:
    """Why mounts cannot be made by ``lower``, if they cannot."""
    try:
        _try(lower, runtime_dir)
    except StratumError as exc:
        return exc.message
    return None


def _fuse_problem() -> str | None:
    """Why FUSE cannot be used, if it cannot."""
    try:
        os.close(os.open(fuse.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return f"cannot open {fuse.DEVICE}: {os_error_text(exc)}"
    return None


def _try(lower: Lower, runtime_dir: Path) -> None:
    """Mount a commit of one file by ``lower`` and read the file. ``StratumError`` where that fails."""
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="trial-", dir=runtime_dir))
    try:
        mount = build_detached(_trial(lower, place), _method(lower))
        try:
            with open(os.open("file", os.O_RDONLY | os.O_CLOEXEC, dir_fd=mount), "rb") as file:
                read = file.read()
        except OSError as exc:
            raise StratumError(f"a mounted file cannot be read: {os_error_text(exc)}") from None
        finally:
            os.close(mount)
    finally:
        shutil.rmtree(place)
    if read != _CONTENT:
        raise StratumError("a mounted file has another content than it should")


def _trial(lower: Lower, place: Path) -> MountPlan:
    """A plan of a commit with one file, all of it made in ``place``."""
    from stratum.composefs.erofs.survey import backing_xattrs
    from stratum.composefs.erofs.writer import image_pieces
    from stratum.composefs.verity import verity_digest
    from stratum.tree.model import object_path

    digest = verity_digest(_CONTENT)
    stored, image, tree = place / "objects" / os.fsdecode(object_path(digest)), place / "image", place / "tree"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(_CONTENT)
    if lower is Lower.DIRECTORY:
        tree.mkdir()
        with open(tree / "file", "xb") as file:
            file.truncate(len(_CONTENT))
            for name, value in backing_xattrs(digest, Dialect.USER):
                os.setxattr(file.fileno(), name, value)
    else:
        inode = File(0o100644, 0, 0, 0, size=len(_CONTENT), digest=digest)
        image.write_bytes(b"".join(image_pieces(Directory(_MODE, 0, 0, 0, children={b"file": inode}))))
    return MountPlan(image, (place / "objects",), dialect=Dialect.USER, tree=tree)


def _noted(runtime_dir: Path) -> Lower | None:
    """The way that worked before, since the machine was started."""
    try:
        boot, _, way = read_regular(runtime_dir / NOTE, _NOTE_MAX, follow=False)[1].decode("ascii").partition(" ")
    except (OSError, ValueError):
        return None
    return CHOICES.get(way.strip()) if boot == proc.boot_id() else None


def _note(runtime_dir: Path, found: Lower) -> None:
    way = next(name for name, lower in CHOICES.items() if lower is found)
    with contextlib.suppress(OSError):  # then it is tried again the next time
        write_atomic(runtime_dir / NOTE, f"{proc.boot_id()} {way}\n".encode(), 0o600, durable=False)
