"""The jobs. Each function makes one, with Stratum as its first entrant."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stratum.store import Store
from tests.bench import works
from tests.bench.history import histories
from tests.bench.measure import Entrant, Figure, Job
from tests.bench.peers import KEEPERS, Keeper, Stratum
from tests.bench.rootless import without_root
from tests.bench.served import serving
from tests.e2e.podman_env import PodmanEnv
from tests.e2e.registry_server import registry_server
from tests.support.capabilities import program

CHANGES = (1, 100, 10_000)


class Bench:
    """One work (a tree) and everything that is made of it, in ``directory``."""

    def __init__(self, directory: Path, tree: Path, peers: set[str], opened: ExitStack) -> None:
        self.directory = directory
        self.tree = tree
        self.ours = Stratum(directory)
        self.keepers: list[Keeper] = [kind(directory) for kind in KEEPERS if kind.name in peers]
        self.peers = peers
        self.opened = opened
        self.mountpoint = directory / "mnt"
        self._podman: PodmanEnv | None = None
        self._rounds = 0

    def tag(self) -> str:
        """A name that was not used before."""
        self._rounds += 1
        return f"r{self._rounds}"

    @property
    def podman(self) -> PodmanEnv:
        """A private Podman, made when it is first asked for, that has our hook."""
        if self._podman is None:
            self._podman = self.opened.enter_context(PodmanEnv(address_space=None))
            hooks = self.directory / "hooks"
            self.ours.run("hook", "install", "--force", hooks)
            self._podman.hooks_dir = hooks
        return self._podman

    def with_podman(self, name: str, *args: str | Path, cleanup: Callable[[], None] = lambda: None) -> Entrant:
        """``podman ARGS`` as an entrant."""
        return Entrant(name, [*self.podman.prefix, *args], self.podman.environment, cleanup=cleanup)

    def filled(self) -> list[Keeper]:
        """The peers that can add to what they have, each with two versions of the tree or more."""
        keepers = [keeper for keeper in self.keepers if keeper.again]
        for keeper in keepers:
            if not keeper.repository.exists():
                keeper.fresh()
                keeper.run_unmeasured(keeper.keep(self.tree))
                keeper.run_unmeasured(keeper.keep(self.tree))
        return keepers

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The worktree ``app+dev`` over the first import, mounted."""
        if not (self.ours.repository / "store").exists():
            self.ours.fresh()
            self.ours.run("import", "--bare", self.tree, "app")
        if "dev" not in self.ours.run("worktree", "list", "app"):
            self.ours.run("worktree", "add", "app+dev", "app:latest")
        self.mountpoint.mkdir(exist_ok=True)
        self.ours.run("mount", "app+dev", self.mountpoint)
        try:
            yield self.mountpoint
        finally:
            self.ours.run("unmount", self.mountpoint)


def first_import(bench: Bench) -> Iterator[Job]:
    """The tree goes into an empty repository."""
    entrants = []
    for keeper in (bench.ours, *bench.keepers):
        entrant = keeper.entrant(keeper.keep(bench.tree))
        entrant.prepare = keeper.fresh
        entrants.append(entrant)
    yield Job("first import", entrants)


def adopting(bench: Bench) -> Iterator[Job]:
    """A copy of the tree, which nobody else uses, is moved into an empty repository; peers copy the tree."""
    entrants, source = [], bench.directory / "moved"
    for keeper in (bench.ours, *(keeper for keeper in bench.keepers if not keeper.again)):

        def prepare(keeper: Keeper = keeper) -> None:
            keeper.fresh()
            shutil.rmtree(source, ignore_errors=True)
            if keeper is bench.ours:
                subprocess.run(["cp", "--archive", bench.tree, source], check=True)

        ours = keeper is bench.ours
        entrant = (
            bench.ours.verb("import", "--move", source, "app") if ours else keeper.entrant(keeper.keep(bench.tree))
        )
        entrant.prepare = prepare
        entrants.append(entrant)
    yield Job("moving import", entrants)


def unchanged_import(bench: Bench) -> Iterator[Job]:
    """The same tree again."""
    if not bench.ours.repository.exists():
        bench.ours.fresh()
    keepers = (bench.ours, *bench.filled())
    yield Job("unchanged import", [keeper.entrant(keeper.keep(bench.tree)) for keeper in keepers])


def commits(bench: Bench) -> Iterator[Job]:
    """New files in a mounted worktree are committed; peers keep the tree with the same new files in it."""
    files = sum(len(names) for _, _, names in os.walk(bench.tree))
    with bench.mounted() as mountpoint:
        others, container = bench.filled(), Path()
        if "podman" in bench.peers:
            container = _container(bench)
        for count in (count for count in CHANGES if count <= files):
            ours = bench.ours.verb("commit", "app+dev")
            entrants = [ours, *(keeper.entrant(keeper.keep(bench.tree)) for keeper in others)]
            if "podman" in bench.peers:
                entrants.append(bench.with_podman("podman", "commit", "--quiet", "bench"))
            targets = [mountpoint, *([bench.tree] if others else []), *([container] if container.name else [])]

            def change(targets: list[Path] = targets, count: int = count) -> None:
                tag = bench.tag()
                for target in targets:
                    works.add_files(target, count, tag)

            yield Job(f"commit of {count}", entrants, change)


def _container(bench: Bench) -> Path:
    """A container whose image is the tree; where its file system is."""
    archive = bench.directory / "tree.tar"
    bench.podman.podman("image", "exists", "localhost/bench", check=False)
    if bench.podman.podman("image", "exists", "localhost/bench", check=False).returncode:
        os.system(f"tar -C '{bench.tree}' -cf '{archive}' .")
        bench.podman.podman("import", archive, "localhost/bench:latest")
        archive.unlink()
    bench.podman.podman("rm", "--ignore", "bench")
    bench.podman.podman("create", "--name", "bench", "localhost/bench:latest", "/none")
    return Path(bench.podman.podman("mount", "bench").stdout.strip())


def looking(bench: Bench) -> Iterator[Job]:
    """What changed: in a mounted worktree with 100 new files, where peers compare the versions without and with them;
    and from one version to the next, in which 10,000 files are new."""
    with bench.mounted() as mountpoint:
        peers = bench.filled()
        for count in (100, 10_000):
            before = bench.ours.run("commit", "app+dev").strip()
            tag = bench.tag()
            for target in (mountpoint, *([bench.tree] if peers else [])):
                works.add_files(target, count, tag)
            for peer in peers:
                peer.run_unmeasured(peer.keep(bench.tree))
            if count == 100:
                yield from _asked(bench, peers)
        after = bench.ours.run("commit", "app+dev").strip()
        differences = [(peer, peer.differences()) for peer in peers]
        theirs = [peer.entrant(command) for peer, command in differences if command is not None]
        yield Job("diff of 10000", [bench.ours.verb("diff", before, after), *theirs])


def _asked(bench: Bench, peers: list[Keeper]) -> Iterator[Job]:
    """What a worktree and peers say of the last changes."""
    for name, asked in (("diff", "differences"), ("status", "status")):
        entrants = []
        for keeper in (bench.ours, *peers):
            command = getattr(keeper, asked)()
            if command is not None:
                entrants.append(keeper.entrant(command))
        yield Job(name, entrants)


def mounting(bench: Bench) -> Iterator[Job]:
    """Mount and unmount, against the start of the interpreter and mount.composefs of the same commit."""
    with bench.mounted():
        pass
    point, run = bench.mountpoint, bench.ours.run
    start = [sys.executable, "-c", "import click"]
    mount = bench.ours.verb("mount", "app:latest", point)
    mount.cleanup = lambda: void(run("unmount", point))
    yield Job("mount", [mount, Entrant("python start", start), *_mount_composefs(bench)])
    unmount = bench.ours.verb("unmount", point)
    unmount.prepare = lambda: void(run("mount", "app:latest", point))
    yield Job("unmount", [unmount, Entrant("python start", start)])


def _mount_composefs(bench: Bench) -> list[Entrant]:
    if "mkcomposefs" not in bench.peers:
        return []
    store = bench.ours.repository / "store"
    image = bench.ours.run("show", "--image-path", "app:latest")
    point = bench.directory / "cfs"
    point.mkdir(exist_ok=True)
    command = [program("mount.composefs"), image, point, "-o", f"basedir={store / 'objects'}"]
    return [Entrant("mount.composefs", command, cleanup=lambda: void(os.system(f"umount '{point}'")))]


def containers(bench: Bench) -> Iterator[Job]:
    """The start of a container with the tree in it: by the hook, by a bind mount, and without."""
    with bench.mounted():
        pass
    image, podman = bench.podman.image, bench.with_podman
    run = ("run", "--rm")
    yield Job(
        "container start",
        [
            podman("stratum", *run, "--annotation", "stratum.dev/volume.d=app:latest:/data", image, "true"),
            podman("no volume", *run, image, "true"),
            podman("bind mount", *run, "--volume", f"{bench.tree}:/data:ro", image, "true"),
        ],
    )


def transfers(bench: Bench) -> Iterator[Job]:
    """Push and pull of the tree and of 100 new files, with a registry on loopback.

    A first push goes to a registry that is empty. The 100 files are new in each round too, in a worktree
    and a container that keep those of the rounds before, so there is always something to send: see what was kept.
    """
    directory, ours, run = bench.directory, bench.ours, bench.ours.run
    with bench.mounted() as mountpoint, registry_server(directory / "registry") as server:
        data = server.directory / "data"
        number = 0

        first = ours.verb("push", "app:latest", "")
        peers = _oci_pushers(bench) if {"podman", "oras"} & bench.peers else []

        def aim(entrant: Entrant, index: int) -> Callable[[], None]:
            def prepare() -> None:
                nonlocal number
                number += 1
                # Podman remembers where its blobs are, and has them mounted from there instead of sending them.
                shutil.rmtree(data, ignore_errors=True)
                address = _address(f"{server.host}/bench/r{number}", entrant)
                entrant.command = [*entrant.command[:index], address, *entrant.command[index + 1 :]]

            return prepare

        for entrant in (first, *peers):
            index = next(i for i, word in enumerate(entrant.command) if word == "")
            entrant.prepare, entrant.keeps = aim(entrant, index), data
        yield Job("first push", [first, *peers])

        pulled = f"{server.host}/bench/pulled"
        run("push", "app:latest", pulled)
        other = Stratum(directory / "other")
        pull = other.entrant([ours.script, "--quiet", "pull", f"{pulled}:latest", "app"])
        pull.prepare = other.fresh
        yield Job("first pull", [pull, *_oci_pullers(bench, pulled)])

        sent, container = [ours.verb("push", "app+dev", f"{pulled}:next")], Path()
        if "podman" in bench.peers:
            container = _container(bench)
            target = f"docker://{server.host}/bench/podman:next"
            sent.append(bench.with_podman("podman", "push", "--quiet", "--tls-verify=false", "localhost/next", target))
        for entrant in sent:
            entrant.keeps = data

        def change() -> None:
            tag = bench.tag()
            works.add_files(mountpoint, 100, tag)
            run("commit", "app+dev")
            if "podman" in bench.peers:
                works.add_files(container, 100, tag)
                bench.podman.podman("commit", "--quiet", "bench", "localhost/next")

        def change_and_push() -> None:
            change()
            run("push", "app+dev", f"{pulled}:next")

        yield Job("push of 100", sent, change)
        back = other.entrant([ours.script, "--quiet", "pull", f"{pulled}:next", "app:next"])
        yield Job("pull of 100", [back], change_and_push)


def _address(repository: str, entrant: Entrant) -> str:
    return f"docker://{repository}:latest" if entrant.name == "podman" else f"{repository}:latest"


def _oci_pushers(bench: Bench) -> list[Entrant]:
    entrants = []
    if "podman" in bench.peers:
        _container(bench)
        entrants.append(
            bench.with_podman("podman", "push", "--quiet", "--tls-verify=false", "localhost/bench:latest", "")
        )
    if "oras" in bench.peers:
        pack = f"tar -C '{bench.tree}' --zstd -cf tree.tar.zst ."
        line = f'{pack} && {program("oras")} push --plain-http "$0" tree.tar.zst'
        entrants.append(Entrant("tar + oras", ["sh", "-c", line, ""], cwd=bench.directory))
    return entrants


def _oci_pullers(bench: Bench, ours: str) -> list[Entrant]:
    entrants = []
    host = ours.partition("/")[0]
    if "podman" in bench.peers:
        bench.podman.podman(
            "push", "--tls-verify=false", "localhost/bench:latest", f"docker://{host}/bench/podman:latest"
        )
        puller = bench.opened.enter_context(PodmanEnv(address_space=None))
        command = [*puller.prefix, "pull", "--quiet", "--tls-verify=false", f"{host}/bench/podman:latest"]
        entrant = Entrant("podman", command, puller.environment)
        entrant.cleanup = lambda: void(puller.podman("rmi", f"{host}/bench/podman:latest"))
        entrants.append(entrant)
    if "oras" in bench.peers:
        oras = program("oras")
        os.system(
            f"cd '{bench.directory}' && tar -C '{bench.tree}' --zstd -cf tree.tar.zst . && "
            f"{oras} push --plain-http {host}/bench/oras:latest tree.tar.zst >/dev/null"
        )
        target = bench.directory / "unpacked"
        line = f"{oras} pull --plain-http -o . {host}/bench/oras:latest && tar -xf tree.tar.zst"

        def clear() -> None:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()

        entrants.append(Entrant("tar + oras", ["sh", "-c", line], cwd=target, prepare=clear))
    return entrants


def cleaning(bench: Bench) -> Iterator[Job]:
    """Remove what nothing needs, where there is nothing to remove."""
    with bench.mounted():
        entrants = []
        for keeper in (bench.ours, *bench.filled()):
            command = keeper.clean()
            if command is not None:
                entrants.append(keeper.entrant(command))
        yield Job("gc", entrants)


def archives(bench: Bench) -> Iterator[Job]:
    """A commit as a file and back, against tar with zstd."""
    with bench.mounted():
        pass
    file, tar = bench.directory / "app.stratum.tar", bench.directory / "tree.tar.zst"
    pack = Entrant("tar --zstd", ["tar", "-C", bench.tree, "--zstd", "-cf", tar, "."])
    yield Job("export", [bench.ours.verb("export", "app:latest", file), pack])
    other, target = Stratum(bench.directory / "other"), bench.directory / "unpacked"

    def clear() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    back = other.entrant([bench.ours.script, "--quiet", "import", file, "app"])
    back.prepare = other.fresh
    yield Job("import of an export", [back, Entrant("tar -x", ["tar", "-C", target, "-xf", tar], prepare=clear)])


def images(bench: Bench) -> Iterator[Job]:
    """The composefs image of the tree's dump."""
    with bench.mounted():
        pass
    dump = bench.directory / "tree.dump"
    store = Store.open(bench.ours.repository / "store")
    dump.write_bytes(b"".join(store.commits.dump(store.commits.list()[0])))
    code = (
        "import gc, sys; gc.set_threshold(50_000, 20, 50)  # as the command line does\n"
        "from stratum.composefs.erofs.writer import image_pieces; from stratum.tree.dump import read_dump\n"
        "open(sys.argv[2], 'wb').writelines(image_pieces(read_dump(open(sys.argv[1], 'rb').read())))"
    )
    image = bench.directory / "image.cfs"
    yield Job(
        "image of a dump",
        [
            Entrant("stratum", [sys.executable, "-c", code, dump, image]),
            Entrant("mkcomposefs", [program("mkcomposefs"), "--from-file", dump, image]),
        ],
    )


def reading(bench: Bench) -> Iterator[Job]:
    """The tree read through a mount and as it lies on the disk, all of it in the page cache."""
    with bench.mounted() as mountpoint:
        for name, line in (
            ("find", "find . -printf '%s %m\\n'"),
            ("cat all", "find . -type f -print0 | xargs -0 cat"),
            ("fio", f'fio --name=x --filename="$(find . -type f -size +60k | sort | head -1)" {FIO}'),
        ):
            yield Job(
                name,
                [
                    Entrant("stratum", ["sh", "-c", f"{line} >/dev/null"], cwd=mountpoint),
                    Entrant("plain", ["sh", "-c", f"{line} >/dev/null"], cwd=bench.tree),
                ],
            )


FIO = "--readonly --rw=randread --bs=4k --size=60k --loops=2000 --ioengine=psync --output=/dev/null"

JOBS: dict[str, Callable[[Bench], Iterator[Job] | Iterator[Job | Figure]]] = {
    "import": first_import,
    "adopt": adopting,
    "again": unchanged_import,
    "image": images,
    "mount": mounting,
    "user": without_root,
    "read": reading,
    "commit": commits,
    "look": looking,
    "container": containers,
    "transfer": transfers,
    "archive": archives,
    "gc": cleaning,
    "history": histories,
    "serve": serving,
}


def void(_: object) -> None:
    """Forget a result."""
