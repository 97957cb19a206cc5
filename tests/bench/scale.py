"""The works about scale: many commits, many refs, a million files, and single things that are very large.

What is asked is what grows with what: so the same verb is run in a store that has much and in one that has little, or
is measured at the beginning and at the end. Of the verbs that have to read much, the memory of their largest process
is a figure, too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.bench import filling, works
from tests.bench.jobs import Bench, void
from tests.bench.measure import Entrant, Figure, Job, size_of
from tests.bench.peers import Stratum
from tests.e2e.registry_server import RegistryServer, registry_server

MEMORY = 600
"""MiB that no process may need, whatever there is."""
KEPT = 10
"""MiB that a thousand commits of one changed file each may keep."""
LONG = 10
"""How many times as many commits the job ``long`` makes."""
_MIB = 1 << 20
Found = Iterator[Job | Figure]
Run = Callable[[Bench, argparse.Namespace], Found]


def weighed(job: Job) -> Found:
    """A job, and then the memory of its largest process."""
    yield job
    yield Figure(f"memory, {job.name}", job.entrants[0].median("peak") / _MIB, "MiB", MEMORY)


def single(bench: Bench, name: str, *words: str | Path, wanted: float | None = None) -> Job:
    """A job of one verb."""
    return Job(name, [bench.ours.verb(*words)], wanted=wanted)


# Commits


def _edit(root: Path, number: int, tree: Path, files: list[str], *, same: bool) -> None:
    """Write one of ``files`` anew below ``root``: a mount, or an upperdir, where its directories are made as those of
    ``tree``."""
    path = Path(files[0 if same else number * 7919 % len(files)])
    above = [place for place in reversed(path.parents) if not (root / place).is_dir()]
    for place in above:
        (root / place).mkdir()
    (root / path).write_bytes(b"%d: %s\n" % (number, os.urandom(16).hex().encode()) * 8)
    shutil.copystat(tree / path, root / path)
    for place in reversed([*above, Path()] if above else above):
        shutil.copystat(tree / place, root / place)


def _files(tree: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(place, name), tree) for place, _, names in os.walk(tree) for name in names
    )


def commits_of(bench: Bench, count: int, name: str, *, same: bool, unmounting: bool) -> Found:
    """``count`` commits of one changed file each, and what is then asked of such a store."""
    ours, files = bench.ours, _files(bench.tree)
    ours.fresh()
    ours.run("import", "--bare", bench.tree, "app")
    ours.run("worktree", "add", "app+dev", "app:latest")
    bench.mountpoint.mkdir(exist_ok=True)
    store = ours.repository / "store"
    contents = 4096 * count  # of the changed files, each of which is a block of its own
    caches = store / "cache"
    before, said = size_of(store) - size_of(caches), f"{count} commits, {name}"
    change = partial(_edit, tree=bench.tree, files=files, same=same)
    if unmounting:
        took = filling.unmounted_commits(ours, "app+dev", count, change)
    else:
        took = filling.commits(ours, "app+dev", bench.mountpoint, count, change)
    kept = size_of(store) - size_of(caches) - before - contents
    yield Figure(f"{said}: kept beside the contents", kept / _MIB, "MiB", KEPT * count / 1000)
    yield Figure(f"{said}: caches", size_of(caches) / _MIB, "MiB")
    few = min(100, max(1, count // 10))
    first, last = statistics.median(took[:few]) * 1000, statistics.median(took[-few:]) * 1000
    yield Figure(f"{said}: one of the first", first, "ms")
    yield Figure(f"{said}: one of the last", last, "ms", 2 * first)
    line = filling.line(ours, "app", "dev")
    ratio = filling.reading(ours, line[0]) / filling.reading(ours, line[-1])
    yield Figure(f"{said}: reading the last", ratio, "of the first", 2)
    with bench.mounted() as mountpoint:
        again = ours.verb("commit", "app+dev")
        number = iter(range(count, 1 << 30))
        yield Job(f"{said}: commit of 1", [again], lambda: change(mountpoint, next(number)))
    yield single(bench, f"{said}: log", "log", "app+dev", wanted=0.2 if count <= 1000 else None)
    yield single(bench, f"{said}: log of a path", "log", "app+dev", "--", files[0])
    yield from weighed(single(bench, f"{said}: gc", "gc", wanted=2.0 if count <= 1000 else None))
    yield single(bench, f"{said}: du", "du")
    yield single(bench, f"{said}: status", "status")
    yield from weighed(single(bench, f"{said}: fsck", "fsck", "--quick"))
    thin = ours.verb("gc", "--keep-last", "10")
    thin.prepare = lambda: void(ours.run("gc"))
    yield Job(f"{said}: gc of all but ten", [thin])


def same_file(bench: Bench, options: argparse.Namespace) -> Found:
    """Each commit changes the same file, in a worktree that stays mounted."""
    yield from commits_of(bench, options.commits, "the same file", same=True, unmounting=False)


def other_files(bench: Bench, options: argparse.Namespace) -> Found:
    """Each commit changes another file, in a worktree that stays mounted."""
    yield from commits_of(bench, options.commits, "another file each", same=False, unmounting=False)


def unmounted(bench: Bench, options: argparse.Namespace) -> Found:
    """Each commit changes another file, in a worktree that is unmounted for it, as at the end of a container."""
    yield from commits_of(bench, options.commits, "another file each, unmounted", same=False, unmounting=True)


def long(bench: Bench, options: argparse.Namespace) -> Found:
    """Ten times as many."""
    yield from commits_of(bench, LONG * options.commits, "another file each, unmounted", same=False, unmounting=True)


# Refs


def refs(bench: Bench, options: argparse.Namespace) -> Found:
    """Verbs in a store with many tags and worktrees, and in one with a tag and a worktree."""
    many, few = Stratum(bench.directory / "many"), Stratum(bench.directory / "few")
    point = bench.mountpoint
    point.mkdir(exist_ok=True)
    for ours in (many, few):
        ours.fresh()
        ours.run("import", "--bare", bench.tree, "app")
        ours.run("worktree", "add", "app+dev", "app:latest")
    made = _some_commits(many, point, max(1, options.tags // 100))
    filling.tags(many, "app", made, options.tags)
    filling.many_worktrees(many, "app", options.worktrees)
    for name, wanted, words in (
        ("list", None, ("list",)),
        ("list of one", 1.0, ("list", "app")),
        ("status", 1.0, ("status",)),
        ("status of one", None, ("status", "app+dev")),
        ("worktree list", 1.0, ("worktree", "list")),
        ("log", 1.0, ("log", "app:latest")),
        ("show", 1.0, ("show", "app:latest")),
        ("gc", 2.0, ("gc",)),
        ("fsck", None, ("fsck", "--quick")),
    ):
        yield _both(many, few, name, *words, wanted=wanted)
    yield _completion(many, few)
    for name, words, undone in (
        ("tag", ("tag", "app:latest", "app:new"), ("remove", "--yes", "app:new")),
        ("worktree add", ("worktree", "add", "app+new", "app:latest"), ("worktree", "remove", "app+new")),
        ("mount", ("mount", "app+dev", point), ("unmount", point)),
    ):
        there, back = _both(many, few, name, *words), _both(many, few, f"{name}, undone", *undone)
        for does, undoes, ours in zip(there.entrants, back.entrants, (many, few), strict=True):
            does.cleanup, undoes.prepare = partial(_run, ours, undone), partial(_run, ours, words)
        yield from (there, back)
    yield _prompt(many, few, point)
    if "podman" in bench.peers:
        yield _start(bench, many, few)


def _run(ours: Stratum, words: tuple[str | Path, ...]) -> None:
    ours.run(*words)


def _some_commits(ours: Stratum, point: Path, count: int) -> list[str]:
    filling.commits(ours, "app+dev", point, count, _note)
    return filling.line(ours, "app", "dev")


def _note(root: Path, number: int) -> None:
    (root / "note").write_text(f"{number}\n")


def _both(many: Stratum, few: Stratum, name: str, *words: str | Path, wanted: float | None = None) -> Job:
    much, little = many.verb(*words), few.verb(*words)
    much.name, little.name = "many refs", "few"
    much.keeps = little.keeps = None
    return Job(name, [much, little], wanted=wanted)


def _completion(many: Stratum, few: Stratum) -> Job:
    """What a shell offers after ``stratum show app:v1.``."""
    job = _both(many, few, "completion")
    for entrant in job.entrants:
        entrant.environment = entrant.environment | {
            "_STRATUM_COMPLETE": "bash_complete",
            "COMP_WORDS": "stratum show app:v1.",
            "COMP_CWORD": "2",
        }
        entrant.command = entrant.command[:1]
    return job


def _prompt(many: Stratum, few: Stratum, point: Path) -> Job:
    """The line for a shell's prompt, in a mount."""
    job = _both(many, few, "prompt", "status", "--short")
    for entrant, ours in zip(job.entrants, (many, few), strict=True):

        def prepare(entrant: Entrant = entrant, ours: Stratum = ours) -> None:
            ours.run("mount", "app+dev", point)
            entrant.cwd = point

        def cleanup(entrant: Entrant = entrant, ours: Stratum = ours) -> None:
            entrant.cwd = None
            ours.run("unmount", point)

        entrant.prepare, entrant.cleanup = prepare, cleanup
    return job


def _start(bench: Bench, many: Stratum, few: Stratum) -> Job:
    """A container with a worktree as its volume, from its start to its end."""
    entrants = []
    for name, ours in (("many refs", many), ("few", few)):
        hooks = bench.directory / f"hooks-{ours.repository.parent.name}"
        ours.run("hook", "install", "--force", hooks)
        podman = bench.podman
        podman.hooks_dir = hooks
        command = [*podman.prefix, "run", "--rm", "--annotation", "stratum.dev/volume.d=app+dev:/data", podman.image]
        entrants.append(Entrant(name, [*command, "true"], podman.environment | ours.environment))
    return Job("container", entrants)


# A million files


def million(bench: Bench, options: argparse.Namespace) -> Found:
    """A million files: into the store, through a commit, to a registry and back."""
    ours, point = bench.ours, bench.mountpoint
    first = ours.entrant(ours.keep(bench.tree))
    first.prepare = ours.fresh
    yield from weighed(Job("first import", [first]))
    yield from weighed(Job("unchanged import", [ours.entrant(ours.keep(bench.tree))]))
    with bench.mounted() as mountpoint:
        yield from weighed(
            Job(
                "commit of 10",
                [ours.verb("commit", "app+dev")],
                lambda: works.add_files(mountpoint, 10, bench.tag()),
                0.7,
            )
        )
        works.add_files(mountpoint, 10, bench.tag())
        yield from weighed(single(bench, "status", "status", "app+dev"))
        yield from weighed(single(bench, "diff", "diff", "app+dev~1", "app+dev"))
        yield from weighed(single(bench, "log of a path", "log", "app+dev", "--", "new-r1-0"))
    mount = ours.verb("mount", "app:latest", point)
    mount.cleanup = lambda: void(ours.run("unmount", point))
    yield from weighed(Job("mount", [mount]))
    yield from weighed(single(bench, "gc", "gc"))
    yield from weighed(single(bench, "du", "du"))
    yield from weighed(single(bench, "fsck", "fsck", "--quick"))
    with registry_server(bench.directory / "registry") as server:
        target = f"{server.host}/bench/app"
        yield from weighed(Job("first push", [_pusher(bench, server)]))
        bench.ours.run("push", "app:latest", f"{target}:latest")
        yield from weighed(single(bench, "push of 10", "push", "app+dev", f"{target}:next"))
        other = Stratum(bench.directory / "other")
        for name, words in (("lazy pull", ("--lazy",)), ("pull", ())):
            pull = other.entrant([other.script, "--quiet", "pull", *words, f"{target}:latest", "app"])
            pull.prepare = other.fresh
            yield from weighed(Job(name, [pull]))
        shutil.rmtree(other.repository)


def _pusher(bench: Bench, server: RegistryServer) -> Entrant:
    """A push to a registry that has nothing, each time by another name."""
    push = bench.ours.verb("push", "app:latest", "")

    def prepare() -> None:
        shutil.rmtree(server.directory / "data", ignore_errors=True)
        push.command = [*push.command[:-1], f"{server.host}/bench/{bench.tag()}:latest"]

    push.prepare = prepare
    return push


# Single things that are large


def directory(bench: Bench, options: argparse.Namespace) -> Found:
    """One directory with very many files."""
    ours, tree = bench.ours, bench.directory / "wide"
    works.tiny_files(tree, 1, options.wide)
    first = ours.entrant(ours.keep(tree))
    first.prepare = ours.fresh
    said = f"{options.wide} files in a directory"
    yield from weighed(Job(f"{said}: first import", [first]))
    yield from weighed(Job(f"{said}: unchanged import", [ours.entrant(ours.keep(tree))]))
    with bench.mounted() as mountpoint:

        def change() -> None:
            works.add_files(mountpoint / "0000", 1, bench.tag())

        yield from weighed(Job(f"{said}: commit of 1", [ours.verb("commit", "app+dev")], change))
        change()
        yield from weighed(single(bench, f"{said}: status", "status", "app+dev"))
        listing = ["sh", "-c", "ls -f 0000 >/dev/null"]
        yield Job(f"{said}: ls", [Entrant("stratum", listing, cwd=mountpoint), Entrant("plain", listing, cwd=tree)])
    shutil.rmtree(tree)


def large_file(bench: Bench, options: argparse.Namespace) -> Found:
    """One very large file."""
    ours, tree = bench.ours, bench.directory / "large"
    works.repeated_file(tree / "large.bin", options.large << 20)
    said = f"a file of {options.large} MiB"
    first = ours.entrant(ours.keep(tree))
    first.prepare = ours.fresh
    copy = bench.directory / "copy"
    plain = Entrant("cp", ["cp", "--archive", tree, copy], cleanup=lambda: shutil.rmtree(copy))
    yield from weighed(Job(f"{said}: first import", [first, plain]))
    yield from weighed(Job(f"{said}: unchanged import", [ours.entrant(ours.keep(tree))]))
    yield from weighed(single(bench, f"{said}: fsck", "fsck"))
    shutil.rmtree(tree)
    with registry_server(bench.directory / "registry") as server:
        target = f"{server.host}/bench/large:latest"
        yield from weighed(Job(f"{said}: push", [_pusher(bench, server)]))
        ours.run("push", "app:latest", target)
        other = Stratum(bench.directory / "other")
        pull = other.entrant([other.script, "--quiet", "pull", target, "app"])
        pull.prepare = other.fresh
        yield from weighed(Job(f"{said}: pull", [pull]))
        shutil.rmtree(other.repository)


def mounts(bench: Bench, options: argparse.Namespace) -> Found:
    """Very many mounts, all there at once."""
    ours, count = bench.ours, options.mounts
    tree, place = bench.directory / "small", bench.directory / "mounts"
    works.small_files(tree, 1000)
    ours.fresh()
    ours.run("import", "--bare", tree, "app")
    filling.many_worktrees(ours, "app", count)
    bench.mountpoint.mkdir(exist_ok=True)

    def mount(name: str) -> Job:
        one = ours.verb("mount", "app:latest", bench.mountpoint)
        one.cleanup = lambda: void(ours.run("unmount", bench.mountpoint))
        return Job(name, [one, Entrant("python start", [sys.executable, "-c", "import click"])])

    yield mount("a mount, alone")
    took = filling.mounts(ours, "app", place, count)
    few = min(10, count)
    yield Figure(f"{count} mounts: one of the first", statistics.median(took[:few]) * 1000, "ms")
    yield Figure(f"{count} mounts: one of the last", statistics.median(took[-few:]) * 1000, "ms", 100)
    yield mount(f"a mount, beside {count}")
    yield single(bench, f"status, {count} mounts", "status", wanted=1.0)
    yield single(bench, f"gc, {count} mounts", "gc", wanted=2.0)
    took = filling.unmount(ours, place, count)
    yield Figure(f"{count} mounts: an unmount of the first", statistics.median(took[:few]) * 1000, "ms", 100)


WORKS: dict[str, dict[str, Run]] = {
    "commits": {"same": same_file, "others": other_files, "unmounted": unmounted, "long": long},
    "refs": {"refs": refs},
    "many": {"million": million},
    "extremes": {"directory": directory, "file": large_file, "mounts": mounts},
}
NAMES = sorted({name for jobs in WORKS.values() for name in jobs})
_ONLY_NAMED = frozenset(("long",))


def jobs(bench: Bench, work: str, options: argparse.Namespace) -> Found:
    """The jobs of a work that are asked for, or all but those that take very long."""
    for name, run in WORKS[work].items():
        if name in options.jobs if options.jobs else name not in _ONLY_NAMED:
            yield from run(bench, options)
