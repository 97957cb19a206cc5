"""Tree layers are frames of stores: the artifact is the same however a store has its commit, and what is there is not
fetched."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from stratum.tree.cutting import split_dump
from stratum.tree.model import Directory, File
from stratum.tree.zstdframe import compress, decompress
from tests.e2e.hostile_registry import HostileRegistry
from tests.e2e.registry_artifacts import Artifact, make_artifact
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.pulling import pull
from tests.support.stores import check, directory, file

pytestmark = pytest.mark.registry
ACCESS = Access(connect_timeout=5, read_timeout=20)
NAMES = [b"%02d-%s" % (number, b"x" * 100) for number in range(40)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


def write(store: Store, files: dict[tuple[bytes, bytes], bytes], on: str | None = None) -> str:
    """The commit of a tree of two levels, made on another one's tree where that is given."""
    with store.begin("a test") as tx:
        known = store.commits.open_tree(on) if on is not None else None
        inside: dict[bytes, dict[bytes, File]] = {}
        for (place, name), content in sorted(files.items()):
            inside.setdefault(place, {})[name] = file(tx, content)
        children = {place: directory(entries) for place, entries in inside.items()}
        if known is not None:  # what is the same is shared, as in a worktree
            same = {place: known.children.get(place) for place in children}
            children = {
                place: there if isinstance(there, Directory) and dict(there.children) == dict(made.children) else made
                for (place, made), there in zip(children.items(), same.values(), strict=True)
            }
        return store.commits.write(tx, directory(children), known=known, parent=on).metadata_hash


def history() -> list[dict[tuple[bytes, bytes], bytes]]:
    """Trees that differ in little: files come, change and go, and contents come back."""
    rng = random.Random(7)
    tree = {(place, b"%s%03d" % (name, number)): b"" for place in NAMES[:20] for number in range(12) for name in NAMES}
    keys = sorted(tree)
    tree |= {key: b"%d" % number * 200 for number, key in enumerate(rng.sample(keys, 60))}
    trees = [dict(tree)]
    for step in range(5):
        for number, key in enumerate(rng.sample(keys, 8)):
            tree[key] = b"changed %d %d " % (step, number % 6) * 40
        tree[NAMES[step], b"new"] = b"new %d" % step * 50
        for key in rng.sample(sorted(set(tree) - set(keys[:5])), 3):
            del tree[key]
        trees.append(dict(tree))
    return trees


def test_the_artifact_is_the_same_however_the_store_has_the_commit(server: RegistryServer, tmp_path: Path) -> None:
    """Made on one another, written whole, pulled; planned by what differs, or by everything."""
    trees = history()

    def layers(repository: str, number: int) -> list[dict[str, object]]:
        found: list[dict[str, object]] = server.manifest(repository, f"v{number}")["layers"]
        return found

    def send(store: Store, commits: list[str], repository: str, spoil: Callable[[Store], object]) -> None:
        for number, commit in enumerate(commits):
            push(store, commit, parse_target(f"{server.host}/{repository}:v{number}"), ACCESS)
            spoil(store)

    made = Store.create(tmp_path / "made")
    commits = [write(made, trees[0])]
    for tree in trees[1:]:
        commits.append(write(made, tree, commits[-1]))
    levels = [made.trees.record(commit).level for commit in commits]
    assert levels[0] == 0
    assert max(levels) >= 1
    send(made, commits, "made", lambda store: None)
    assert any(path.name == "whole" for path in made.layout.sources.glob("*/*")), "catalogs are changes"

    whole = Store.create(tmp_path / "whole")
    assert [write(whole, tree) for tree in trees] == commits
    send(whole, commits, "whole", forget_catalogs)

    pulled = Store.create(tmp_path / "pulled")
    for number in (0, 2, 1, 3, 5, 4):
        done = pull(pulled, parse_target(f"{server.host}/made:v{number}"), ACCESS)
        assert done.commit == commits[number]
    send(pulled, commits, "pulled", lambda store: None)
    assert {layer["digest"] for number in range(6) for layer in layers("pulled", number)} >= {
        f"sha256:{frame.hex()}" for frame in pulled.trees.frames()
    }
    for number in range(len(commits)):
        assert layers("made", number) == layers("whole", number) == layers("pulled", number)
    for store in (made, whole, pulled):
        check(store)


def forget_catalogs(store: Store) -> None:
    with store.begin("a test") as tx:
        for commit in store.sources.commits():
            for source in store.sources.of(commit):
                store.sources.forget(tx, commit, source.reference)
    shutil.rmtree(store.layout.sources)


def test_layers_that_are_frames_are_not_fetched(server: RegistryServer, tmp_path: Path) -> None:
    """But those that are damaged are; and where nothing of others may be used, all are."""
    trees = history()
    made, near, fresh = (Store.create(tmp_path / name) for name in ("made", "near", "fresh"))
    one = write(made, trees[0])
    two = write(made, {**trees[0], (NAMES[3], b"more"): b"more" * 100}, one)
    for number, commit in enumerate((one, two)):
        push(made, commit, parse_target(f"{server.host}/frames:v{number}"), ACCESS)
    shared, new = (
        [
            str(layer["digest"])
            for layer in server.manifest("frames", f"v{number}")["layers"]
            if "dump" in layer["mediaType"]
        ]
        for number in range(2)
    )
    assert len(set(new) & set(shared)) > 1
    damaged = next(digest for digest in new if digest in shared)
    for store, isolated in ((near, False), (fresh, True)):
        pull(store, parse_target(f"{server.host}/frames:v0"), ACCESS)
        path = store.trees.frame_path(bytes.fromhex(damaged.removeprefix("sha256:")))
        good = path.read_bytes()
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        asked = len(server.requests())
        pull(store, parse_target(f"{server.host}/frames:v1"), ACCESS, isolated=isolated)
        fetched = {request.rpartition("/")[2] for request in server.requests()[asked:] if request.startswith("GET")}
        path.write_bytes(good)
        assert fetched & set(new) == (set(new) if isolated else set(new) - set(shared) | {damaged})
        check(store)


def cut_anywhere(dump: bytes) -> list[bytes]:
    """In the middle of lines."""
    return [dump[at : at + 70_001] for at in range(0, len(dump), 70_001)]


def cut_small(dump: bytes) -> list[bytes]:
    """After every few lines."""
    lines = dump.splitlines(keepends=True)
    return [b"".join(lines[at : at + 40]) for at in range(0, len(lines), 40)]


@pytest.mark.parametrize("cut", [split_dump, cut_anywhere, cut_small])
def test_layers_that_others_cut_are_read(tmp_path: Path, cut: Callable[[bytes], list[bytes]]) -> None:
    """As any cut is legal; but a store has frames of whole lines, and not any number of them."""
    files = {f"{place}/{number:04}{'y' * 150}": b"" for place in "abcd" for number in range(1200)}
    artifact = make_artifact(tmp_path, files)
    dump = b"".join(decompress(tree, 1 << 24, "a layer") for tree in artifact.trees)
    pieces = list(cut(dump))
    other = Artifact(artifact.config, tuple(map(compress, pieces)), artifact.packs, artifact.original)
    store = Store.create(tmp_path / "store")
    with HostileRegistry(other) as registry:
        done = pull(store, parse_target(registry.target), ACCESS)
    assert store.commits.dump(done.commit).text == dump
    assert [frame.size for frame in store.trees.record(done.commit).frames] == [
        len(piece) for piece in split_dump(dump)
    ]
    check(store)


def bomb(trees: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (*trees, compress(bytes(17 << 20)))


def swapped(trees: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return trees[::-1]


def doubled(trees: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (trees[0] + trees[1], *trees[2:])


@pytest.mark.parametrize("spoil", [bomb, swapped, doubled])
def test_layers_of_something_else_leave_nothing(
    tmp_path: Path, spoil: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]
) -> None:
    files = {f"{place}/{number:04}{'y' * 150}": b"" for place in "abcd" for number in range(1200)}
    artifact = make_artifact(tmp_path, files)
    assert len(artifact.trees) > 1
    bad = Artifact(artifact.config, spoil(artifact.trees), artifact.packs, artifact.original)
    store = Store.create(tmp_path / "store")
    with HostileRegistry(bad) as registry, pytest.raises(DamagedError):
        pull(store, parse_target(registry.target), ACCESS)
    assert store.commits.list() == []
    assert list(store.trees.frames()) == []
