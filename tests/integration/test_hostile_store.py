"""A store that is damaged or was tampered with: every file of it, changed in many ways, under every verb.

No verb may end in a traceback or hang, none may follow a link or believe what does not fit, and fsck must tell.
By default a few changes are taken of each file, other ones in every run; ``STRATUM_TEST_HOSTILE=all`` takes all.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratum.cli.start import run
from stratum.store.holders import Container, Lease, Promise
from stratum.store.sources import PARTIAL, SOURCES
from tests.support.grounds import Stack
from tests.support.reading import READING
from tests.support.stores import catalog, source
from tests.support.verbs import Scene

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ALL = os.environ.get("STRATUM_TEST_HOSTILE") == "all"
EXIT_CODES = range(7)
Change = Callable[[Path], None]


def rewritten(change: Callable[[bytes], bytes]) -> Change:
    def apply(path: Path) -> None:
        data = change(path.read_bytes())
        path.unlink()
        path.write_bytes(data)

    return apply


def replaced(make: Callable[[Path], object]) -> Change:
    def apply(path: Path) -> None:
        path.unlink()
        make(path)

    return apply


def flip(data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def bind(path: Path) -> None:
    """A socket. Its path may be longer than a socket's address, so it is made elsewhere."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"\0{os.urandom(8).hex()}")
    os.mknod(path, 0o140644)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


CHANGES: dict[str, Change] = {
    **{f"flip-{number}": rewritten(flip) for number in range(4)},
    "cut": rewritten(lambda data: data[: len(data) // 2]),
    "longer": rewritten(lambda data: data + b"\0more"),
    "empty": rewritten(lambda data: b""),
    "random": rewritten(lambda data: os.urandom(300)),
    "deep-toml": rewritten(lambda data: b"a = " + b"[" * 20000),
    "deep-json": rewritten(lambda data: b'{"format":1,"mounts":' + b"[" * 100000),
    "escapes": rewritten(lambda data: b'[worktree]\nbase_commit = "\\u001b[31m"\n'),
    "gone": Path.unlink,
    "huge": replaced(sparse),
    "link": replaced(lambda path: path.symlink_to("/etc/passwd")),
    "loop": replaced(lambda path: path.symlink_to(path.name)),
    "fifo": replaced(os.mkfifo),
    "socket": replaced(bind),
    "device": replaced(lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))),  # /dev/zero
    "directory": replaced(Path.mkdir),
}

READS: tuple[tuple[str, ...], ...] = (
    *READING,
    ("verify", "app:v2", "/dir", "--proof"),
    ("restore", "app:v1", "/", "--to", "TARGET", "--force"),
    ("push", "app:v1", "oci:LAYOUT:x"),
    ("fsck", "--quick"),
)
READS_STACKED: tuple[tuple[str, ...], ...] = (
    ("diff", "stack:whole", "stack:third"),
    ("verify", "stack:orphan"),
    ("log", "stack:third", "d03"),
    ("du",),
)
WRITING: tuple[tuple[str, ...], ...] = (
    ("mount", "app+dev", "MNT"),
    ("unmount", "MNT"),
    ("commit", "app+dev"),
    ("tag", "--force", "app:v1", "v9"),
    ("rebase", "app+dev", "app:v2"),
    ("import", "--bare", "--force", "SOURCE", "app:v1"),
    ("reconcile",),
    ("gc", "--reflog-age", "0"),
    ("fsck", "--repair"),
    ("remove", "--yes", "app"),
)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.clean()


def stacked(scene: Scene) -> dict[str, Path]:
    """Files that others are stored on."""
    stack = Stack(scene.store)
    trees = stack.store.trees
    return {
        "stored-on": stack.store.layout.commit(stack.commits["first"]),
        "ground": stack.store.layout.grounds / stack.gone,
        "frame": trees.frame_path(trees.chain(stack.commits["whole"])[0][1].frames[0].sha256),
    }


def kinds(scene: Scene) -> dict[str, Path]:
    """One file of every other kind."""
    store, root = scene.store, scene.store_dir
    store.worktrees.set_lease("app", "dev", Lease(Container("c" * 64), "2026-01-01T00:00:00Z", Promise()))
    commit, told = root / "commits" / store.tags.get("app", "v1"), store.tags.get("app", "v2")
    files = {b"new in v2": b"new" * 900}
    place = source(files, f"oci:{scene.directory}/nowhere")
    with store.begin("a test") as tx:
        store.sources.record(tx, told, place, catalog(files))
        store.sources.set_partial(tx, told)
    return {
        "sources": root / f"commits/{told}.{SOURCES}",
        "marker": root / f"commits/{told}.{PARTIAL}",
        "catalog": store.sources.catalog_path(place.manifest),
        "format": root / "stratum.toml",
        "commit": commit,
        "image": store.images.ensure(commit.name),
        "object": store.objects.path(next(iter(store.objects.names()))),
        "tag": root / "refs/app/tags/v1",
        "reflog": root / "refs/app/log.jsonl",
        "meta": root / "refs/app/worktrees/dev/meta.toml",
        "lease": root / "refs/app/worktrees/dev/lease.toml",
        "cache": next(path for path in (root / "cache/ingest").iterdir() if not path.suffix),
        "state": scene.runtime_dir / "state",
        "lock": root / "lock",
        "ref-lock": root / "refs/app.lock",
    }


def attempt(scene: Scene, args: tuple[str, ...]) -> tuple[int, str, str]:
    """Run a verb in this process, where a traceback would be an exception; (exit code, stdout, stderr)."""
    places = {"TARGET": "out", "LAYOUT": "pushed", "MNT": "mnt", "SOURCE": "source"}
    words = list(args)
    for word, place in places.items():
        words = [text.replace(word, str(scene.directory / place)) for text in words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["--store", str(scene.store_dir), "--runtime-dir", str(scene.runtime_dir), *words])
    return code, out.getvalue(), err.getvalue()


HARMLESS = ("cache", "state", "lock", "ref-lock", "marker")
"""Kinds that no commit or ref depends on, or whose content nobody reads: fsck need not call every change of them
damage."""
STACKED = ("stored-on", "ground", "frame")
KINDS = (
    *HARMLESS,
    *STACKED,
    "format",
    "sources",
    "catalog",
    "commit",
    "image",
    "object",
    "tag",
    "reflog",
    "meta",
    "lease",
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_change_of_a_file_surprises_a_verb(scene: Scene, kind: str, tmp_path: Path) -> None:
    (scene.directory / "out").mkdir()
    names = list(CHANGES) if ALL else random.sample(list(CHANGES), 2)
    for name in names:
        scene.fresh(mounted=True)
        scene.verb("unmount", scene.mountpoint)
        path = (stacked if kind in STACKED else kinds)(scene)[kind]
        if path.is_symlink() and CHANGES[name].__qualname__.startswith("rewritten"):
            target = os.readlink(path)
            path.unlink()
            path.symlink_to(flip(target.encode()).replace(b"\0", b"x"))
        else:
            CHANGES[name](path)
        print(f"{kind} {name}")
        before = Path("/etc/passwd").read_bytes()
        for args in (*READS, *(READS_STACKED if kind in STACKED else ())):
            code, out, err = attempt(scene, args)
            assert code in EXIT_CODES, (args, code)
            assert "root:x:" not in out + err
            assert "\x1b" not in out + err
            if code:
                assert err.count("error: ") == 1, (args, err)
        code, out, err = attempt(scene, ("fsck",))
        if kind not in HARMLESS and not (kind == "reflog" and name.startswith("flip")):
            assert code != 0 or "note " in out or (kind in ("lease", "sources", "image") and name == "gone"), (
                kind,
                name,
                out,
                err,
            )
        for args in WRITING:
            code, out, err = attempt(scene, args)
            assert code in EXIT_CODES, (args, code)
            assert "Traceback" not in err
        assert Path("/etc/passwd").read_bytes() == before
        subprocess.run(["umount", "-q", scene.mountpoint], check=False)
        shutil.rmtree(scene.directory / "pushed", ignore_errors=True)
