"""The jobs about lazy strata: what is read of a commit that is not here, from a registry with a delay for each request.

Each run begins with an empty store and without the processes that serve lazy mounts, unless its docstring says
otherwise; the disk cache is the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import works
from tests.bench.jobs import Bench, void
from tests.bench.measure import Entrant, Figure, Job
from tests.bench.peers import Stratum
from tests.e2e.registry_server import registry_server
from tests.support import hydrating
from tests.support.slowregistry import SlowRegistry, slow_registry

DELAYS = (0, 10, 30)
"""Milliseconds that a request takes."""
READ_ALL = "find . -type f -print0 | xargs -0 cat"
ONE_BY_ONE = 1000
"""Files that are read one at a time: 54,000 at 30 ms each would take half an hour."""
BIG = 10 << 30
"""Bytes of the large file; all but a hundredth is a hole."""
PART = 20
"""MiB that a container reads of the stratum of ``SHARE`` MiB."""
SHARE = 2048


class Far:
    """A registry with the bench's tree, and stores that pull from it. Made once for a work."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.server = bench.opened.enter_context(registry_server(bench.directory / "registry"))
        log = bench.directory / "slow.log"
        self.slow: SlowRegistry = bench.opened.enter_context(slow_registry(self.server.directory / "data", log))
        self._rounds = 0
        bench.ours.fresh()

    def push(self, tree: Path, name: str) -> str:
        """Have ``tree`` in the registry; the reference that it is pulled by."""
        ours = self.bench.ours
        ours.run("import", "--bare", tree, name)
        ours.run("push", f"{name}:latest", f"{self.server.host}/bench/{name}:latest")
        return f"{self.slow.host}/bench/{name}:latest"

    def newcomer(self) -> Stratum:
        """A store, a runtime directory and a mountpoint that nobody has used."""
        self._rounds += 1
        directory = self.bench.directory / f"newcomer-{self._rounds}"
        (directory / "mnt").mkdir(parents=True)
        (directory / "stratum").mkdir()
        return Stratum(directory)


def forget(newcomer: Stratum) -> None:
    """Take down what a newcomer has mounted, end what serves it, and remove it."""
    directory = newcomer.repository.parent
    if os.path.ismount(directory / "mnt"):
        newcomer.run("unmount", directory / "mnt")
    hydrating.stop(directory / "run")
    shutil.rmtree(directory)


def entrant(far: Far, name: str, line: str, *before: tuple[str, ...], cwd: bool = False) -> Entrant:
    """A shell line of a newcomer, with ``stratum``, ``$MNT`` and ``$HOST`` in it.

    Each round has a newcomer of its own, for whom the verbs ``before`` are run first (``MNT`` for its mountpoint).
    """
    made = Entrant(name, ["sh", "-ec", line])
    current: list[Stratum] = []

    def prepare() -> None:
        newcomer = far.newcomer()
        current.append(newcomer)
        mountpoint = newcomer.repository.parent / "mnt"
        path = f"{newcomer.script.parent}:{os.environ['PATH']}"
        made.environment = newcomer.environment | {"MNT": str(mountpoint), "PATH": path, "HOST": far.slow.host}
        made.keeps = newcomer.repository
        for verb in before:
            newcomer.run(*(mountpoint if word == "MNT" else word for word in verb))
        if cwd:
            made.cwd = mountpoint

    made.prepare, made.cleanup = prepare, lambda: forget(current.pop())
    return made


def at(far: Far, delay: int) -> Callable[[], None]:
    """Have each request take ``delay`` milliseconds."""
    return lambda: far.slow.tell(delay=delay / 1000)


def beginning(far: Far, reference: str) -> Iterator[Job]:
    """From nothing but the reference to a mount: lazily, and with all of it. Then the mount alone."""
    mount = "stratum --quiet mount app:latest $MNT"
    for delay in DELAYS:
        pull = f"stratum --quiet pull %s {reference} app && {mount}"
        entrants = [entrant(far, "stratum --lazy", pull % "--lazy"), entrant(far, "eager", pull % "")]
        yield Job(f"pull and mount, {delay} ms", entrants, at(far, delay), wanted=0.3 if delay == 0 else None)
    lazy = entrant(far, "stratum --lazy", mount, ("pull", "--lazy", reference, "app"))
    eager = entrant(far, "eager", mount, ("pull", reference, "app"))
    yield Job("mount of what was pulled", [lazy, eager], at(far, 30), wanted=0.3)


def everything(far: Far, reference: str) -> Iterator[Job]:
    """The whole tree read through a fresh lazy mount, against a pull of all of it."""
    for delay in DELAYS:
        before = (("pull", "--lazy", reference, "app"), ("mount", "app:latest", "MNT"))
        lazy = entrant(far, "stratum --lazy", f"{READ_ALL} >/dev/null", *before, cwd=True)
        eager = entrant(far, "eager pull", f"stratum --quiet pull {reference} app")
        yield Job(f"read all, {delay} ms", [lazy, eager], at(far, delay))


def one_by_one(far: Far, reference: str) -> Iterator[Job]:
    """The first thousand files in the order of the tree, against a request for each of them, one after the other."""
    first = f"find . -type f | sort | head -{ONE_BY_ONE} | xargs cat >/dev/null"
    before = (("pull", "--lazy", reference, "app"), ("mount", "app:latest", "MNT"))
    ours = entrant(far, "stratum --lazy", first, *before, cwd=True)
    theirs = Entrant("one at a time", [sys.executable, "-m", "tests.bench.onebyone", reference, str(ONE_BY_ONE)])
    yield Job(f"read {ONE_BY_ONE} files, 30 ms", [ours, theirs], at(far, 30))


def again(far: Far, reference: str) -> Iterator[Job]:
    """The whole tree once more through a lazy mount whose files were all read, against an ordinary mount of it.

    The mounts are made once for all rounds.
    """
    with mounted(far, "pull", "--lazy", reference, "app") as lazy, mounted(far, "pull", reference, "app") as eager:
        for place in (lazy, eager):
            works.read_all(place)
        time.sleep(7)  # until what was fetched has its names in the store
        for name, line in (("cat all", READ_ALL), ("find", "find . -printf '%s %m\\n'")):
            command = ["sh", "-c", f"{line} >/dev/null"]
            yield Job(
                f"{name}, again",
                [Entrant("stratum --lazy", command, cwd=lazy), Entrant("eager", command, cwd=eager)],
            )


@contextmanager
def mounted(far: Far, *pull: str) -> Iterator[Path]:
    """The tree, pulled by the verb ``pull`` and mounted."""
    newcomer = far.newcomer()
    mountpoint = newcomer.repository.parent / "mnt"
    try:
        newcomer.run(*pull)
        newcomer.run("mount", "app:latest", mountpoint)
        yield mountpoint
    finally:
        forget(newcomer)


def weight(far: Far, reference: str, name: str = "files", limit: int = 40) -> Iterator[Figure]:
    """The memory of the processes that serve a mount all of whose files were read through it."""
    far.slow.tell(delay=0)
    with mounted(far, "pull", "--lazy", reference, "app") as mountpoint:
        yield Figure(f"memory, {name}, mounted", hydrating.memory(mountpoint.parent / "run") / (1 << 20), "MiB", limit)
        works.read_all(mountpoint)
        yield Figure(f"memory, {name}, all read", hydrating.memory(mountpoint.parent / "run") / (1 << 20), "MiB", limit)


def middle(far: Far) -> Iterator[Job | Figure]:
    """The first MiB in the middle of a file of 10 GiB that is not here, against a pull of the file."""
    tree = far.bench.directory / "big"
    works.sparse_file(tree / "big.bin", BIG)
    reference = far.push(tree, "big")
    shutil.rmtree(tree)
    read = f"dd if=$MNT/big.bin of=/dev/null bs=1M count=1 skip={BIG // 2 >> 20} status=none"
    before = (("pull", "--lazy", reference, "app"), ("mount", "app:latest", "MNT"))
    lazy = entrant(far, "stratum --lazy", read, *before)
    yield Job(
        "1 MiB of 10 GiB, 30 ms", [lazy, entrant(far, "eager", f"stratum --quiet pull {reference} app")], at(far, 30)
    )
    with mounted(far, "pull", "--lazy", reference, "app") as mountpoint:
        far.slow.forget()
        subprocess.run(["sh", "-ec", read], env=os.environ | {"MNT": str(mountpoint)}, check=True)
        yield Figure("requests for 1 MiB of 10 GiB", len(far.slow.asked()), "requests", 3)


def million(far: Far) -> Iterator[Job | Figure]:
    """A million tiny files in a thousand directories: from the reference to a mount, and the memory behind it."""
    tree = far.bench.directory / "million"
    works.tiny_files(tree, 1000, 1000)
    reference = far.push(tree, "million")
    shutil.rmtree(tree)
    line = f"stratum --quiet pull %s {reference} app && stratum --quiet mount app:latest $MNT"
    entrants = [entrant(far, "stratum --lazy", line % "--lazy"), entrant(far, "eager", line % "")]
    yield Job("a million: pull and mount, 0 ms", entrants, at(far, 0))
    yield from weight(far, reference, "a million files", 400)


def container(far: Far) -> Iterator[Job]:
    """From nothing but the reference to a container that has read 20 MB of a stratum of 2 GB: a thousand small files
    and a piece of a large one. Against a pull of all of it, and the same tree in an image that Podman pulls."""
    bench = far.bench
    tree = bench.directory / "share"
    works.small_files(tree / "small", 20_000)
    works.large_files(tree / "large", (SHARE << 20) - works.size(tree / "small"), count=18)
    reference = far.push(tree, "share")
    read = (
        f"find /data/small/00/0 /data/small/00/1 -type f | head -1000 | xargs cat >/dev/null &&"
        f" dd if=/data/large/large-7.bin of=/dev/null bs=1M skip=50 count={PART // 2} 2>/dev/null"
    )
    image = _image(far, tree) if "podman" in bench.peers else None
    shutil.rmtree(tree)
    for delay in DELAYS:
        entrants = [_start(far, "stratum --lazy", reference, read, "--lazy"), _start(far, "eager", reference, read)]
        if image is not None:
            entrants.append(_run(far, image, read))
        yield Job(f"container, {PART} MB of 2 GB, {delay} ms", entrants, at(far, delay), wanted=1.5)


def _start(far: Far, name: str, reference: str, read: str, option: str = "") -> Entrant:
    """A pull, and a container with what was pulled as its volume."""
    podman = far.bench.podman
    hooks = str(podman.hooks_dir)
    run = " ".join([*map(str, podman.prefix), "run --rm --annotation stratum.dev/volume.d=app:latest:/data"])
    line = f"stratum --quiet pull {option} {reference} app && {run} {podman.image} sh -ec '{read}'"
    made = entrant(far, name, line)
    prepare = made.prepare

    def prepare_with_podman() -> None:
        prepare()
        own = Path(made.environment["STRATUM_STORE"]).parents[1] / "hooks"
        script = Stratum(far.bench.directory).script
        install = [script, "--quiet", "hook", "install", "--force", own]
        subprocess.run(install, env=os.environ | made.environment, check=True, capture_output=True)
        made.command = ["sh", "-ec", line.replace(hooks, str(own))]
        made.environment = {**podman.environment, **made.environment}

    made.prepare = prepare_with_podman
    return made


def _image(far: Far, tree: Path) -> str:
    """An image of busybox and the tree in ``/data``, in the registry; its name."""
    podman = far.bench.podman
    context = tree.parent / "image"
    context.mkdir()
    tree.rename(context / "data")
    (context / "Containerfile").write_text(f"FROM {podman.image}\nCOPY data /data\n")
    podman.podman("build", "--quiet", "--tag", "localhost/share", context, timeout=600)
    target = f"docker://{far.server.host}/bench/image:latest"
    podman.podman("push", "--quiet", "--tls-verify=false", "localhost/share", target, timeout=600)
    podman.podman("rmi", "localhost/share")
    (context / "data").rename(tree)
    shutil.rmtree(context)
    return f"{far.slow.host}/bench/image:latest"


def _run(far: Far, image: str, read: str) -> Entrant:
    """A container of the image, by a Podman that has nothing of it."""
    podman = far.bench.podman
    command = [*podman.prefix, "run", "--rm", "--quiet", "--tls-verify=false", image, "sh", "-ec", read]
    made = Entrant("podman, an image", command, podman.environment)
    made.cleanup = lambda: void(podman.podman("rmi", image))
    return made


def jobs(bench: Bench, names: list[str]) -> Iterator[Job | Figure]:
    """The jobs of these names, in this order."""
    far = Far(bench)
    reference = far.push(bench.tree, "app")
    for name in names:
        if name in OF_TREE:
            yield from OF_TREE[name](far, reference)
        else:
            yield from OTHERS[name](far)


OF_TREE: dict[str, Callable[[Far, str], Iterator[Job | Figure]]] = {
    "begin": beginning,
    "all": everything,
    "single": one_by_one,
    "reread": again,
    "memory": weight,
}
OTHERS: dict[str, Callable[[Far], Iterator[Job | Figure]]] = {
    "middle": middle,
    "start": container,
    "million": million,
}
NAMES = [*OF_TREE, *OTHERS]
USUAL = [name for name in NAMES if name != "million"]
"""All but the one that takes long."""
