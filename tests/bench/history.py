"""The job about histories: what a writer pays for being watched, and what is kept of it.

Two worktrees of one commit are mounted; of one there is a history. Programs write to both in turns, each time into a
new directory: what was deleted before decides how fast an ext4 makes files. Before each run the watcher has nothing
left to do from the one before.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.history import wire
from stratum.store import Store
from stratum.tree.model import Directory, File, Inode
from stratum.tree.oplog import Record, entry_of
from tests.bench import works
from tests.bench.measure import Entrant, Figure, Job
from tests.bench.peers import Stratum
from tests.support import watching

if TYPE_CHECKING:
    from tests.bench.jobs import Bench

WATCHED, UNWATCHED = "on", "off"
SAVES = 20
LOGS = {"short": 1, "long": 100_000}
"""Worktrees whose logs are written here, and how many operations are in them."""
BATCH = 500
_MIB = 1 << 20
_BEGAN = 1_767_225_600

WAL = """
import sqlite3, sys
for place in range(10):
    with sqlite3.connect(f"{sys.argv[1]}/{place}.db") as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        for number in range(1000):
            db.execute("INSERT INTO t VALUES (?, ?)", (number, "some text " * 20))
            db.commit()
    db.close()
"""


class Field:
    """A store of its own with the bench's tree and two worktrees of it, mounted; one of them is watched."""

    def __init__(self, bench: Bench, opened: ExitStack) -> None:
        directory = bench.directory / "history"
        directory.mkdir()
        self.ours = Stratum(directory)
        self.ours.repository.mkdir()
        self.ours.run("import", "--bare", bench.tree, "app")
        self.runtime_dir = Path(self.ours.environment["STRATUM_RUNTIME_DIR"])
        self.views = {name: directory / f"view-{name}" for name in (WATCHED, UNWATCHED)}
        for name, view in self.views.items():
            view.mkdir()
            self.ours.run("worktree", "add", f"app+{name}", "app:latest")
        opened.callback(watching.stop, self.runtime_dir)
        self.ours.run("history", "on", f"app+{WATCHED}")
        for name, view in self.views.items():
            self.ours.run("mount", f"app+{name}", view)
            opened.callback(self.ours.run, "unmount", view)
        self.store = Store.open(self.ours.repository / "store")
        self._rounds = 0

    def flush(self) -> int:
        """Have everything in the log."""
        last = wire.flush(self.runtime_dir, self.store.root, "app", WATCHED)
        assert last is not None, "nobody watches"
        return last

    def job(self, name: str, line: str) -> Job:
        """The shell ``line`` with a new directory ``$D``, watched and not."""
        entrants = []
        for kind, words in ((WATCHED, "watched"), (UNWATCHED, "not watched")):
            entrants.append(self._entrant(words, self.views[kind], line))
        return Job(name, entrants)

    def _entrant(self, name: str, view: Path, line: str) -> Entrant:
        made = Entrant(name, ["sh", "-ec", line])

        def prepare() -> None:
            self._rounds += 1
            directory = view / f"round-{self._rounds}"
            directory.mkdir()
            self.flush()
            made.environment = {"D": str(directory)}

        made.prepare = prepare
        return made


@contextmanager
def _field(bench: Bench) -> Iterator[Field]:
    with ExitStack() as opened:
        yield Field(bench, opened)


def histories(bench: Bench) -> Iterator[Job | Figure]:
    """Writers beside a watcher, and its figures."""
    with _field(bench) as field:
        material = bench.directory / "history-material"
        works.small_files(material / "many", 10_000, seed=7)
        archive = material / "many.tar"
        subprocess.run(["tar", "-C", material / "many", "-cf", archive, "."], check=True)
        subprocess.run(["tar", "-C", field.views[WATCHED], "-xf", archive], check=True)
        field.flush()
        yield Figure("memory, watching, after 10,000 files", watching.memory(field.runtime_dir) / _MIB, "MiB", 60)
        yield field.job("tar of 10,000 files, watched", f"tar -C $D -xf '{archive}'")
        works.small_files(material / "source", 3000, seed=8)
        yield field.job("git checkout of 3,000 files, watched", _checkout(material / "source"))
        script = material / "wal.py"
        script.write_text(WAL)
        yield field.job("sqlite, 10 x 1,000 commits, watched", f"'{sys.executable}' -I -S '{script}' $D")
        field.flush()
        yield Figure("from a close to the list, at most", _delay(field) * 1000, "ms", 1500)
        yield from _log(field)


def _checkout(source: Path) -> str:
    """A shell line that checks the files in ``source`` out from a repository of git's."""
    repository = source.with_name("repository.git")
    environment = {"GIT_DIR": str(repository), "GIT_CONFIG_GLOBAL": "/dev/null"}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "bench", f"GIT_{who}_EMAIL": "bench@example.com"}
    commands = "git init --quiet && git config core.bare false && git add --all && git commit --quiet -m x"
    subprocess.run(["sh", "-ec", commands], cwd=source, env=os.environ | environment, check=True)
    return f"git --git-dir='{repository}' --work-tree=$D -c core.checkStat=minimal checkout --quiet --force HEAD -- ."


def _delay(field: Field) -> float:
    """Seconds from a file's close until its record is in the log, at most, of ``SAVES`` saves as editors do them."""
    path = field.views[WATCHED] / "saved"
    longest = 0.0
    for number in range(SAVES):
        before = field.store.histories.last("app", WATCHED)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(f"a text, saved for the time {number}\n" * 50)
        os.rename(temporary, path)
        closed = time.monotonic()
        while not any(record.path == b"/saved" for record in _newer(field.store, before)):
            assert time.monotonic() - closed < 60, "it is never listed"
            time.sleep(0.005)
        longest = max(longest, time.monotonic() - closed)
        time.sleep(random.uniform(0.0, 1.0))
    return longest


def _newer(store: Store, last: int) -> Iterator[Record]:
    for record in store.histories.newest("app", WATCHED):
        if record.n <= last:
            return
        yield record


def _log(field: Field) -> Iterator[Figure]:
    """A log of 100,000 operations: what a record takes once it is sealed, and how long the history of a path takes."""
    watching.stop(field.runtime_dir)  # one writer at a time
    histories = field.store.histories
    for name, count in LOGS.items():
        field.ours.run("worktree", "add", f"app+{name}", "app:latest")
        with histories.writing(timeout=10):
            writer = histories.writer("app", name)
            records = _project(field.store.worktrees.get("app", name).base_commit, count)
            while batch := list(itertools.islice(records, BATCH)):
                writer.append(batch)
            writer.close()
    (raw,) = field.store.root.glob("refs/app/history/long/*.jsonl")  # named by the first record in it
    usage = histories.usage("app", "long")
    yield Figure("bytes a sealed record", usage.sealed / (int(raw.stem) - 1), "bytes", 100)
    taken = [_time(partial(field.ours.run, "history", f"app+{name}", os.fsdecode(_path(37)))) for name in LOGS]
    yield Figure("history of a path of 100,000 operations", (taken[1] - taken[0]) * 1000, "ms past an empty one", 100)


def _path(number: int) -> bytes:
    return b"/src/module-%d/part-%d/file-%d.py" % (number % 20, number % 7, number)


def _project(commit: str, count: int) -> Iterator[Record]:
    """Records as those of a project that is worked on: of files that are made, and written again and again."""
    rng = random.Random(9)
    numbers = itertools.count(1)
    made: set[bytes] = set()

    def record(op: str, path: bytes, inode: Inode) -> Record:
        made.add(path)
        n = next(numbers)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(_BEGAN + n // 3))
        by = rng.choice(["vim", "python3", "git", "cc1"])
        return Record(n, f"{when}.{rng.randrange(1000):03d}Z", op, path, entry_of(inode), by=by)

    yield Record(next(numbers), "2026-01-01T00:00:00.000Z", "base", commit=commit, why="the history begins")
    for number in range(count):
        path = _path(rng.randrange(5000) if number else 37)
        parts = path.split(b"/")
        for above in (b"/".join(parts[:depth]) for depth in range(2, len(parts))):
            if above not in made:
                yield record("mkdir", above, Directory(0o40755, 1000, 1000, _BEGAN * 10**9))
        mtime = (_BEGAN + len(made)) * 10**9 + rng.randrange(10**9)
        file = File(0o100644, 1000, 1000, mtime, size=rng.randrange(65, 20_000), digest=rng.randbytes(32))
        yield record("write" if path in made else "create", path, file)


def _time(function: Callable[[], object]) -> float:
    taken = []
    for _ in range(7):
        started = time.monotonic()
        function()
        taken.append(time.monotonic() - started)
    return statistics.median(taken)
