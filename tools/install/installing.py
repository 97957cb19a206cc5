"""``make install`` and ``make uninstall``.

The new tree is made beside the old one, tried, and takes its place in one step; only then are files outside of it
replaced, each by a rename. What is installed is recorded in the tree (``manifest.json``): a removal takes away just
that. Where an install was interrupted, the old one works as before or the new one does, and the next install or removal
knows what either of them had.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tools.install import running
from tools.install.places import Places
from tools.setup.pip import SetupError

MANIFEST = "manifest.json"
BESIDE = ".stratum."
"""How the names of trees begin that are made or removed beside the one that counts."""
Make = Callable[[Path, str], "tuple[list[str], Path]"]
"""Makes a tree in an empty directory for a place: the names of its programs, and a directory with what goes below
``share/``, in the same file system."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass
class Known:
    """What was installed outside of the tree, by this installation or one that was interrupted: path -> what may be
    there, as ``sha256:...`` of a file or ``link:...``; and directories that were made for that."""

    paths: dict[str, set[str]] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Target:
    """Where to install: ``destdir`` goes before every path ("" for this machine itself)."""

    places: Places
    destdir: str = ""

    def on_disk(self, path: str) -> Path:
        """``path`` of the installed system, as it is reached now."""
        return Path(f"{self.destdir}{path}")

    @property
    def live(self) -> bool:
        """Whether it is installed for this machine, where services run."""
        return not self.destdir


def install(target: Target, make: Make, say: Callable[[str], None]) -> None:
    """Install what ``make`` makes, over an older installation where there is one."""
    places = target.places
    tree = target.on_disk(places.tree)
    made = _missing_directories(target, [places.tree])
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _alone(tree.parent):
        before = _known(tree)
        before.directories |= made
        if tree.exists() and not (tree / MANIFEST).exists():
            raise SetupError(
                f"{tree} is there, and was not installed by 'make install'",
                "remove the package that it belongs to, or choose another PREFIX",
            )
        _check_writable(tree.parent)
        new = Path(tempfile.mkdtemp(prefix=BESIDE, dir=tree.parent))
        try:
            wanted = _prepare(target, new, make, before)
        except BaseException:
            shutil.rmtree(new)
            raise
        if target.live:
            os.sync()  # the tree is whole on the disk before it counts
        upgrade = tree.exists()
        _exchange(new, tree)
        for path, what in wanted.items():
            _put(target, path, what, before, say)
        for path in sorted(set(before.paths) - set(wanted)):
            _take_away(target, path, before.paths[path], say)
        for left in tree.parent.glob(f"{BESIDE}*"):
            shutil.rmtree(left)
    if target.live:
        running.after_install(places, upgrade=upgrade, say=say)


def _prepare(target: Target, new: Path, make: Make, before: Known) -> dict[str, bytes | str]:
    """Make the whole tree in ``new``; what goes outside of it."""
    new.chmod(0o755)
    programs, share = make(new, target.places.tree)
    wanted = _outside(target.places, programs, share)
    shutil.rmtree(share)
    _check_free(target, wanted, before)
    marks = {path: _mark(what) for path, what in wanted.items()}
    directories = before.directories | _missing_directories(target, wanted)
    (new / MANIFEST).write_text(json.dumps({"paths": marks, "directories": sorted(directories)}, indent=1))
    return wanted


def uninstall(target: Target, say: Callable[[str], None], *, force: bool = False) -> None:
    """Remove what ``install`` installed, and nothing else.

    Raises ``SetupError`` where something still needs it: the hook, or mounts that it serves; ``force`` has the hook's
    files removed too, and lets mounts go.
    """
    tree = target.on_disk(target.places.tree)
    if not (tree / MANIFEST).exists():
        raise SetupError(f"nothing was installed in {target.places.prefix} by 'make install'", "PREFIX=... says where")
    with _alone(tree.parent):
        before = _known(tree)
        running.before_removal(target.places, target.destdir, force=force, say=say)
        for path in sorted(before.paths):
            _take_away(target, path, before.paths[path], say)
        gone = Path(tempfile.mkdtemp(prefix=BESIDE, dir=tree.parent))
        tree.rename(gone / "tree")
        for left in tree.parent.glob(f"{BESIDE}*"):
            shutil.rmtree(left)
        for directory in sorted(before.directories, reverse=True):
            with suppress(OSError):  # others use it by now, or removed it
                target.on_disk(directory).rmdir()
    if target.live:
        running.after_removal(target.places, say)


def _outside(places: Places, programs: list[str], share: Path) -> dict[str, bytes | str]:
    """What goes outside of the tree: path -> content of a file, or what a link names."""
    names = sorted(str(path.relative_to(share)) for path in share.rglob("*") if path.is_file())
    found: dict[str, bytes | str] = dict(places.links(programs))
    for path, name in places.files(names).items():
        found[path] = places.placed(name, (share / name).read_bytes())
    return found


def _mark(what: bytes | str) -> str:
    return f"link:{what}" if isinstance(what, str) else f"sha256:{hashlib.sha256(what).hexdigest()}"


def _mark_of(path: Path) -> str | None:
    """The mark of what is at ``path`` now; None where nothing is."""
    if path.is_symlink():
        return f"link:{os.readlink(path)}"
    return _mark(path.read_bytes()) if path.is_file() else None


def _known(tree: Path) -> Known:
    """What this installation, and any that was interrupted, recorded."""
    found = Known()
    for pattern in (f"{BESIDE}*/{MANIFEST}", f"{BESIDE}*/tree/{MANIFEST}", f"{tree.name}/{MANIFEST}"):
        for path in tree.parent.glob(pattern):
            table = json.loads(path.read_text())
            for name, mark in table["paths"].items():
                found.paths.setdefault(name, set()).add(mark)
            found.directories.update(table["directories"])
    return found


def _check_free(target: Target, wanted: dict[str, bytes | str], before: Known) -> None:
    for path in wanted:
        there = target.on_disk(path)
        if os.path.lexists(there) and path not in before.paths:
            raise SetupError(
                f"{there} is there, and was not installed by 'make install'",
                "remove it first: another installation (pip, the Debian package) may have put it there",
            )


def _check_writable(directory: Path) -> None:
    if not os.access(directory, os.W_OK):
        raise SetupError(f"{directory} cannot be written", "install as root, or into PREFIX=$HOME/.local")


def _missing_directories(target: Target, paths: Iterable[str]) -> set[str]:
    """Directories of ``paths`` that are not there yet."""
    above = {str(parent) for path in paths for parent in Path(path).parents}
    return {directory for directory in above if not target.on_disk(directory).is_dir()}


def _put(target: Target, path: str, what: bytes | str, before: Known, say: Callable[[str], None]) -> None:
    there = target.on_disk(path)
    there.parent.mkdir(parents=True, exist_ok=True)
    mark = _mark_of(there)
    if mark == _mark(what):
        return
    if mark is not None and mark not in before.paths.get(path, ()) and not there.is_symlink():
        saved = f"{there}.saved"
        shutil.copy2(there, saved)
        say(f"{there} was changed since it was installed; what was in it is in {saved}")
    fresh = Path(f"{there}.stratum-new")
    fresh.unlink(missing_ok=True)
    if isinstance(what, str):
        fresh.symlink_to(what)
    else:
        fresh.write_bytes(what)
        fresh.chmod(0o644)
    fresh.rename(there)


def _take_away(target: Target, path: str, marks: set[str], say: Callable[[str], None]) -> None:
    there = target.on_disk(path)
    found = _mark_of(there)
    if found is not None and found not in marks:
        say(f"{there} was changed since it was installed, and stays")
    elif found is not None:
        there.unlink()


def _exchange(new: Path, tree: Path) -> None:
    """Have ``new`` be ``tree``, and what was there be ``new``, in one step where the file system can do that."""
    if not tree.exists():
        new.rename(tree)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(tree), _RENAME_EXCHANGE)
    if hasattr(libc, "renameat2") and libc.renameat2(*arguments) == 0:
        return
    aside = Path(tempfile.mkdtemp(prefix=BESIDE, dir=tree.parent)) / "tree"
    tree.rename(aside)
    new.rename(tree)
    aside.rename(new)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Nobody else installs into ``directory`` meanwhile."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SetupError(f"somebody else installs into {directory} now", "try again when that has ended") from None
    finally:
        os.close(fd)
