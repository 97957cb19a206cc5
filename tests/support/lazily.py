"""Lazy mounts under test: a tree in a registry far away, stores that pull it lazily, readers that check all they read.

What a reader got is compared with what the tree has, whatever was asked of it: a wrong byte fails every test.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support import hydrating
from tests.support.command import Command
from tests.support.leftovers import unmount_below
from tests.support.slowregistry import Manner, SlowRegistry, slow_registry

GROUPS = 8
"""Directories of small files, each of several frames of a pack."""
EACH = 60
LARGE, SPARSE = "large.bin", "sparse.bin"
LARGE_SIZE = 20 << 20
SPARSE_SIZE = 20 << 20

READER = """
import hashlib, json, os, sys, threading
threads, mark = int(sys.argv[1]), sys.argv[2]
threading.stack_size(1 << 16)
paths, done = json.load(sys.stdin), []
def read(path):
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            sum = hashlib.sha256()
            while piece := os.read(file, 1 << 20):
                sum.update(piece)
        finally:
            os.close(file)
        done.append((path, sum.hexdigest(), 0))
    except OSError as exc:
        done.append((path, None, exc.errno))
def work():
    while True:
        try:
            path = paths.pop(0)
        except IndexError:
            return
        read(path)
running = [threading.Thread(target=work) for _ in range(threads)]
for thread in running: thread.start()
for thread in running: thread.join()
json.dump(done, sys.stdout)
"""


@dataclass
class Far:
    """A registry with the stratum ``team/app``, tag ``v1``. ``sums`` has the SHA-256 of each file of it."""

    server: RegistryServer
    slow: SlowRegistry
    tree: Path
    sums: dict[str, str]
    commit: str

    @property
    def reference(self) -> str:
        """Where it is pulled from."""
        return f"{self.slow.host}/team/app:v1"

    def group(self, number: int) -> list[str]:
        """The small files of a directory, in the order of the tree."""
        return sorted(path for path in self.sums if path.startswith(f"d{number}/"))

    def well(self) -> None:
        """Be there, at once, without faults, and count from here."""
        self.slow.live()
        self.slow.tell(**vars(Manner()))
        self.slow.forget()


@contextlib.contextmanager
def far_registry(directory: Path) -> Iterator[Far]:
    """Make the tree and have it in a registry until the block ends."""
    tree, maker = directory / "tree", Command(directory / "maker", directory / "maker-run")
    sums = make_tree(tree)
    with (
        registry_server(directory / "registry") as server,
        slow_registry(server.directory / "data", directory / "slow.log") as slow,
    ):
        commit = maker.ok("import", "--bare", tree, "app:v1")
        maker.ok("push", "app:v1", f"{server.host}/team/app:v1")
        yield Far(server, slow, tree, sums, commit)


def make_tree(tree: Path, seed: int = 7) -> dict[str, str]:
    """Small files in ``GROUPS`` directories, a large one, a sparse one, hard links, extended attributes, an empty file,
    one of 10 bytes, a program; the SHA-256 of each by its path."""
    rng = random.Random(seed)
    for group in range(GROUPS):
        (tree / f"d{group}").mkdir(parents=True)
        for number in range(EACH):
            data = rng.randbytes(rng.randrange(20_000, 80_000)) + b"text " * rng.randrange(2000)
            (tree / f"d{group}/f{number:02d}").write_bytes(data)
    (tree / LARGE).write_bytes(rng.randbytes(LARGE_SIZE - 123))
    with (tree / SPARSE).open("wb") as file:
        file.truncate(SPARSE_SIZE)
        for position in (5000, SPARSE_SIZE // 2 + 77, SPARSE_SIZE - 9000):
            file.seek(position)
            file.write(rng.randbytes(7000))
    (tree / "links").mkdir()
    for name in ("a", "b"):
        os.link(tree / "d1/f03", tree / "links" / name)
    (tree / "d2/copy-of-f00").write_bytes((tree / "d0/f00").read_bytes())
    os.setxattr(tree / "d3/f01", "user.note", rng.randbytes(1500))
    os.setxattr(tree / "d3/f01", "user.other", b"x" * 1500)
    (tree / "empty").touch()
    (tree / "tiny").write_bytes(b"ten bytes!")
    program = tree / "program"
    program.write_bytes(Path("/usr/bin/busybox").read_bytes())
    program.chmod(0o755)
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    }


class Reading:
    """A process that reads files of ``place``, ``threads`` at a time, and will have them checked."""

    def __init__(self, place: Path, sums: dict[str, str], paths: Iterable[str], threads: int = 1) -> None:
        self._sums, self._place = sums, place
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", READER, str(threads), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=place,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(paths)).encode())
        self.process.stdin.close()
        self.process.stdin = None

    def finish(self, timeout: float = 60) -> dict[str, int]:
        """The errno of each file that could not be read; all others were as they should be."""
        try:
            out, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"readers of {self._place} still wait after {timeout} s") from None
        assert self.process.returncode == 0
        failed = {}
        for path, found, number in json.loads(out):
            if number:
                failed[path] = number
            else:
                assert found == self._sums[path], f"{path} was read, and is wrong"
        return failed

    def kill(self) -> float:
        """Kill it; the seconds until it is gone."""
        started = time.monotonic()
        self.process.kill()
        self.process.communicate(timeout=30)
        return time.monotonic() - started


class Lazily:
    """A store that has pulled the tree lazily, mounted at ``mnt``, in a directory of its own or at ``store``."""

    def __init__(
        self,
        directory: Path,
        far: Far,
        reference: str | None = None,
        *,
        store: Path | None = None,
        worktree: bool = False,
    ) -> None:
        self.far = far
        self.cli = Command(store or directory / "store", directory / "run")
        self.mnt = directory / "mnt"
        self.mnt.mkdir(parents=True)
        (directory / "run").mkdir(mode=0o700)
        self._reference = reference or far.reference
        self._worktree = worktree
        self._readings: list[Reading] = []

    def __enter__(self) -> Lazily:
        self.cli.ok("pull", "--lazy", self._reference, "app:v1")
        if self._worktree:
            self.cli.ok("worktree", "add", "app+dev", "app:v1")
        self.mount()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the mount down, what serves it, and who reads there still."""
        hydrating.stop(self.run)
        for reading in self._readings:
            if reading.process.returncode is None:
                reading.kill()
        unmount_below(self.mnt)

    @property
    def run(self) -> Path:
        """The runtime directory."""
        return self.cli.runtime_dir

    @property
    def ref(self) -> str:
        """What is mounted."""
        return "app+dev" if self._worktree else "app:v1"

    def mount(self) -> None:
        """Mount it."""
        self.cli.ok("mount", self.ref, self.mnt)

    def start(self, paths: Iterable[str], threads: int = 1) -> Reading:
        """Begin to read."""
        self._readings.append(Reading(self.mnt, self.far.sums, paths, threads))
        return self._readings[-1]

    def read(self, paths: Iterable[str], threads: int = 1, timeout: float = 60) -> dict[str, int]:
        """Read now; what failed, with its errno."""
        return self.start(paths, threads).finish(timeout)

    def everything_is_right(self) -> None:
        """All files are there, can be read, and are as they should be."""
        there = {str(path.relative_to(self.mnt)) for path in self.mnt.rglob("*") if path.is_file()}
        assert there == set(self.far.sums)
        failed = self.read(self.far.sums, threads=8, timeout=120)
        assert not failed, {path: errno.errorcode[number] for path, number in failed.items()}

    def right_again(self, paths: Iterable[str], patience: float = 30) -> None:
        """These can be read, within ``patience`` seconds; until then they may fail."""
        wanted = list(paths)
        told = f"{len(wanted)} files cannot be read again"
        until(lambda: not self.read(wanted, threads=8), patience, told, pause=0.3)

    def landed(self) -> list[Path]:
        """What was fetched and has no name yet."""
        places = (self.cli.store / "landing", self.cli.store / "ahead")
        return [path for place in places for path in place.rglob("*") if path.is_file() and len(path.name) >= 60]


def until(
    what: Callable[[], object], patience: float = 60, otherwise: str = "it does not come", *, pause: float = 0.05
) -> None:
    """Wait until ``what`` gives something true, which is asked after each ``pause``."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, otherwise
        time.sleep(pause)
