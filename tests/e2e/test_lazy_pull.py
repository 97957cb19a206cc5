"""Lazy pulls from a real registry: what they bring, what they record, and what they refuse."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.composefs.verity import root_of_level1
from stratum.errors import DamagedError, UnreachableError, UnsupportedError
from stratum.frozen import replace
from stratum.hydrate.profile import Entry, write_profile
from stratum.mount.plan import check_lazy
from stratum.oci.access import Access
from stratum.oci.mediatypes import PROFILE_TYPE
from stratum.oci.places import open_source
from stratum.oci.target import Target, parse_target
from stratum.store import Store
from stratum.store.residence import Condition
from stratum.transfer import profiles
from stratum.transfer.catalogs import target_of
from stratum.transfer.packs import PACK_MAX
from stratum.transfer.pull import PullResult
from stratum.transfer.push import push
from stratum.transfer.realize import check_real, fetch_missing, mark_whole
from stratum.tree.contents import objects_of
from stratum.tree.model import INLINE_MAX
from tests.e2e.registry_artifacts import FILES, TIME, make_commit
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.command import Command
from tests.support.pulling import pull

pytestmark = pytest.mark.registry

CONTENTS = sum(len(content) for content in set(FILES.values()) if len(content) > INLINE_MAX)
"""Bytes of the objects of ``FILES``."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


@pytest.fixture
def origin(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "origin")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def app(server: RegistryServer, origin: Store, tmp_path: Path) -> Target:
    """A commit of ``FILES`` in a repository of its own."""
    target = parse_target(f"{server.host}/{tmp_path.name.lower().replace('_', '-')}/app:v1")
    push(origin, make_commit(origin, FILES), target, Access())
    return target


def lazily(store: Store, target: Target) -> PullResult:
    return pull(store, target, Access(), lazy=True)


def needed(store: Store, commit: str) -> dict[bytes, int]:
    return objects_of(store.commits.dump(commit))


def conditions(store: Store, commit: str) -> set[Condition]:
    return {store.residence.condition(commit, *item) for item in needed(store, commit).items()}


def test_names_come_and_contents_do_not(server: RegistryServer, store: Store, app: Target) -> None:
    before = len(server.requests())
    done = lazily(store, app)
    asked = server.requests()[before:]
    packs = [
        layer["digest"]
        for layer in server.manifest(app.repository, "v1")["layers"]
        if ".objects." in layer["mediaType"]
    ]
    assert packs
    assert not [line for line in asked if any(pack in line for pack in packs)]
    assert list(store.objects.list()) == []
    assert store.sources.is_partial(done.commit)
    assert conditions(store, done.commit) == {Condition.UNREAL}
    assert done.objects == done.unreal == (5, sum(needed(store, done.commit).values()))
    assert done.bytes_received < 10_000
    (source,) = store.sources.of(done.commit)
    assert (source.reference, source.tag, source.kind) == (f"{app.place}@{done.manifest_digest}", "v1", "pull")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", source.seen)
    assert dict(store.sources.catalog(source.manifest).digests()) == needed(store, done.commit)


def test_the_size_of_the_contents_costs_nothing(server: RegistryServer, origin: Store, store: Store) -> None:
    commit = make_commit(origin, {"large": random.Random(3).randbytes(PACK_MAX + 5), "other": b"some text\n" * 100})
    target = parse_target(f"{server.host}/team/large:v1")
    push(origin, commit, target, Access())
    done = lazily(store, target)
    assert done.bytes_received < 10_000
    assert done.unreal[1] > PACK_MAX
    digest, size = next(item for item in needed(store, commit).items() if item[1] > PACK_MAX)
    catalog = store.sources.catalog(done.manifest_digest)
    number = catalog.find(digest)
    assert number is not None
    hashes = catalog.packs[catalog.member(number).pack].verity
    assert hashes is not None
    data = server.blob(target.repository, f"sha256:{hashes.sha256.hex()}")
    assert len(data) == hashes.size
    assert root_of_level1(data, size) == digest
    assert [pack.verity for pack in catalog.packs].count(None) == len(catalog.packs) - 1


def test_what_is_here_already_is_real(store: Store, app: Target) -> None:
    make_commit(store, {"docs/readme": FILES["docs/readme"]})
    done = lazily(store, app)
    assert done.objects[0] - done.unreal[0] == 1
    assert conditions(store, done.commit) == {Condition.REAL, Condition.UNREAL}


def test_a_lazy_pull_of_what_is_here_whole_adds_a_source_and_nothing_else(store: Store, app: Target) -> None:
    commit = make_commit(store, FILES)
    meta = store.commits.meta(commit)
    assert store.sources.of(commit) == []
    done = lazily(store, app)
    assert (done.commit, done.unreal) == (commit, (0, 0))
    assert store.commits.meta(commit) == meta
    assert not store.sources.is_partial(commit)
    assert [source.kind for source in store.sources.of(commit)] == ["pull"]


def test_an_object_that_was_lost_is_unreal_with_the_source(store: Store, app: Target) -> None:
    commit = make_commit(store, FILES)
    digest, size = next(iter(needed(store, commit).items()))
    store.objects.path(digest).unlink()
    assert store.residence.condition(commit, digest, size) is Condition.LOST
    lazily(store, app)
    assert store.sources.is_partial(commit)
    assert store.residence.condition(commit, digest, size) is Condition.UNREAL


@pytest.mark.parametrize("first", ["lazy", "eager"])
def test_a_pull_after_another(store: Store, app: Target, first: str) -> None:
    for lazy in (True, False) if first == "lazy" else (False, True):
        done = pull(store, app, Access(), lazy=lazy)
        assert len(store.sources.of(done.commit)) == 1
    assert not store.sources.is_partial(done.commit)
    assert conditions(store, done.commit) == {Condition.REAL}


def test_an_eager_pull_records_where_the_commit_is(store: Store, app: Target) -> None:
    done = pull(store, app, Access())
    (source,) = store.sources.of(done.commit)
    assert (source.kind, target_of(source).digest) == ("pull", done.manifest_digest)
    assert dict(store.sources.catalog(source.manifest).digests()) == needed(store, done.commit)


def test_an_isolated_pull_is_never_lazy(store: Store, app: Target) -> None:
    with pytest.raises(UnsupportedError, match="cannot be lazy"):
        pull(store, app, Access(), isolated=True, lazy=True)
    assert store.commits.list() == []


def test_old_kernels_refuse_and_say_why() -> None:
    for release in ("6.5.0", "6.18.44-fc", "7.1"):
        check_lazy(release)
    for release in ("6.4.12", "5.10.0-30-amd64", "strange"):
        with pytest.raises(UnsupportedError, match=r"need Linux 6\.5"):
            check_lazy(release)


# Bringing what is not here


def test_what_is_missing_comes_from_the_source(store: Store, app: Target) -> None:
    done = lazily(store, app)
    objects = needed(store, done.commit)
    some = dict(list(objects.items())[:2])
    fetch_missing(store, some, Access(), commits=[done.commit])
    assert {digest for digest, _ in store.objects.list()} == set(some)
    assert store.sources.is_partial(done.commit)
    fetch_missing(store, objects, Access(), commits=[done.commit])
    for digest, size in objects.items():
        assert store.objects.verify(digest) == size
    mark_whole(store, [done.commit])
    assert not store.sources.is_partial(done.commit)


def test_a_part_costs_what_it_is_large(server: RegistryServer, origin: Store, store: Store) -> None:
    files = {f"file-{number:02}": random.Random(number).randbytes(500_000) for number in range(40)}
    target = parse_target(f"{server.host}/team/parts:v1")
    push(origin, make_commit(origin, files), target, Access())
    done = lazily(store, target)
    digest, size = list(needed(store, done.commit).items())[17]
    before = len(server.requests())
    fetch_missing(store, {digest: size}, Access(), commits=[done.commit])
    assert [found for found, _ in store.objects.list()] == [digest]
    assert len(server.requests()) - before == 3, "the manifest, one index, one range of a pack"


def test_another_source_is_asked_where_one_is_away(
    server: RegistryServer, origin: Store, store: Store, app: Target
) -> None:
    other = parse_target(f"{server.host}/{app.repository}-copy:v1")
    push(origin, origin.commits.list()[0], other, Access())
    done = lazily(store, app)
    lazily(store, other)
    away = replace(store.sources.of(done.commit)[0], reference=f"127.0.0.1:1/gone@{done.manifest_digest}")
    with store.begin("test") as tx:
        store.sources.record(tx, done.commit, away, None)
    assert store.sources.of(done.commit)[0] == away
    fetch_missing(store, needed(store, done.commit), Access(), commits=[done.commit])
    assert conditions(store, done.commit) == {Condition.REAL}


def test_the_first_error_is_told_where_no_source_has_it(store: Store, app: Target, server: RegistryServer) -> None:
    done = lazily(store, app)
    (source,) = store.sources.of(done.commit)
    with store.begin("test") as tx:
        store.sources.forget(tx, done.commit, source.reference)
        store.sources.record(
            tx, done.commit, replace(source, reference=f"127.0.0.1:1/gone@{done.manifest_digest}"), None
        )
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        fetch_missing(store, needed(store, done.commit), Access(), commits=[done.commit])
    with pytest.raises(DamagedError, match="no source of the commit has it"):
        fetch_missing(store, {bytes(32): 5}, Access(), commits=[done.commit])


def test_offline_says_what_is_where(store: Store, app: Target) -> None:
    done = lazily(store, app)
    objects = needed(store, done.commit)
    with pytest.raises(
        UnsupportedError, match=rf"5 of 5 objects \({sum(objects.values())} bytes\).*{app.place} \(seen 2"
    ):
        check_real(store, objects, [done.commit])
    fetch_missing(store, objects, Access(), commits=[done.commit])
    check_real(store, objects, [done.commit])


# The verbs


def test_the_pull_says_what_is_not_here(cli: Command, app: Target) -> None:
    assert cli.json("pull", "--lazy", str(app), "app:v1")["unreal"] == {"objects": 5, "bytes": CONTENTS}
    assert "5 of 5 objects" in cli("pull", "--lazy", str(app), "other:v1").stderr
    whole = cli("pull", str(app), "app:v1")
    assert (whole.code, "not here yet" in whole.stderr) == (0, False)
    assert cli.json("pull", "--lazy", str(app), "app:v1")["unreal"] == {"objects": 0, "bytes": 0}


def test_restore_fetches_what_it_writes_and_no_more(cli: Command, app: Target, tmp_path: Path) -> None:
    cli.ok("pull", "--lazy", str(app), "app:v1")
    out = tmp_path / "out"
    out.mkdir()
    refused = cli("restore", "--offline", "app:v1", "bin/tool", "--to", str(out))
    assert refused.code == 6
    assert str(app.place) in refused.stderr
    assert list(out.iterdir()) == []
    cli.ok("restore", "app:v1", "bin/tool", "--to", str(out))
    assert (out / "tool").read_bytes() == FILES["bin/tool"]
    assert len(list(Store.open(cli.store).objects.list())) == 1
    cli.ok("restore", "--offline", "app:v1", "bin/tool", "--to", str(out))


def test_an_export_of_what_is_not_here_is_that_of_the_whole(cli: Command, app: Target, tmp_path: Path) -> None:
    cli.ok("pull", "--lazy", str(app), "app:v1")
    assert cli("export", "--offline", "app:v1", str(tmp_path / "none.tar")).code == 6
    assert not (tmp_path / "none.tar").exists()
    cli.ok("export", "app:v1", str(tmp_path / "lazy.tar"))
    commit = cli.ok("pull", str(app), "app:v1")
    assert not Store.open(cli.store).sources.is_partial(commit)
    cli.ok("export", "app:v1", str(tmp_path / "whole.tar"))
    assert (tmp_path / "lazy.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


# Pushes


def test_a_push_makes_the_target_a_source(origin: Store, app: Target) -> None:
    (commit,) = origin.commits.list()
    for _ in range(3):
        (source,) = origin.sources.of(commit)
        assert (source.kind, source.tag, source.place) == ("push", "v1", app.place)
        assert dict(origin.sources.catalog(source.manifest).digests()) == needed(origin, commit)
        assert not origin.sources.is_partial(commit)
        done = push(origin, commit, app, Access())  # nothing is sent: the source was seen again
        assert (done.blobs_sent, done.manifest_digest) == (0, source.manifest)


def test_what_is_there_already_becomes_a_source_when_it_is_pushed_again(
    origin: Store, app: Target, tmp_path: Path
) -> None:
    other = Store.create(tmp_path / "other")
    commit = make_commit(other, FILES)
    done = push(other, commit, app, Access())
    assert done.blobs_sent == 0
    (source,) = other.sources.of(commit)
    assert dict(other.sources.catalog(source.manifest).digests()) == needed(other, commit)


def test_a_dry_run_records_nothing(store: Store, server: RegistryServer) -> None:
    commit = make_commit(store, FILES)
    push(store, commit, parse_target(f"{server.host}/dry/run:v1"), Access(), dry_run=True)
    assert store.sources.of(commit) == []


def test_another_repository_of_the_registry_gets_what_is_not_here(
    server: RegistryServer, store: Store, app: Target, tmp_path: Path
) -> None:
    done = lazily(store, app)
    other = parse_target(f"{server.host}/{app.repository}-production:v1")
    push(store, done.commit, other, Access(), offline=True)
    assert conditions(store, done.commit) == {Condition.UNREAL}
    assert {source.place for source in store.sources.of(done.commit)} == {app.place, other.place}
    third = Store.create(tmp_path / "third")
    assert pull(third, other, Access()).commit == done.commit


def test_another_tag_of_the_repository_gets_what_is_not_here(
    origin: Store, store: Store, app: Target, tmp_path: Path
) -> None:
    old = parse_target(f"{app.place}:old")
    push(origin, make_commit(origin, {"other": b"something else\n" * 100}), old, Access())
    done = lazily(store, app)
    sent = push(store, done.commit, old, Access(), offline=True)
    assert conditions(store, done.commit) == {Condition.UNREAL}
    assert sent.blobs_sent <= 3, "the manifest, and what is small"
    assert pull(Store.create(tmp_path / "third"), old, Access()).commit == done.commit


def test_elsewhere_it_is_fetched_first(store: Store, app: Target, tmp_path: Path) -> None:
    done, layout = lazily(store, app), parse_target(f"oci:{tmp_path}/layout:v1")
    for options in ({"offline": True}, {"dry_run": True}):
        with pytest.raises(UnsupportedError, match=f"5 of 5 objects.*{app.place}"):
            push(store, done.commit, layout, Access(), **options)
    push(store, done.commit, layout, Access())
    assert conditions(store, done.commit) == {Condition.REAL}
    third = Store.create(tmp_path / "third")
    assert pull(third, layout, Access(), lazy=True).commit == done.commit
    fetch_missing(third, needed(third, done.commit), Access(), commits=[done.commit])
    assert conditions(third, done.commit) == {Condition.REAL}


def test_the_command_says_what_offline_keeps_it_from(cli: Command, app: Target, tmp_path: Path) -> None:
    cli.ok("pull", "--lazy", str(app), "app:v1")
    refused = cli("push", "--offline", "app:v1", f"oci:{tmp_path}/layout:v1")
    assert (refused.code, app.place in refused.stderr) == (6, True)
    image = cli("push", "--offline", "--as", "image", "app:v1", f"oci:{tmp_path}/images:v1")
    assert image.code == 6
    cli.ok("push", "--as", "image", "app:v1", f"oci:{tmp_path}/images:v1")


# Profiles


def test_a_profile_travels_with_the_commit(server: RegistryServer, origin: Store, store: Store, app: Target) -> None:
    (commit,) = origin.commits.list()
    origin.profiles.write(commit, b"the first order")
    push(origin, commit, app, Access())
    lazily(store, app)
    assert store.profiles.read(commit) == b"the first order"
    before = len(server.requests())
    push(origin, commit, app, Access())
    assert not [line for line in server.requests()[before:] if line.startswith(("PUT", "POST"))], "it is there already"
    lazily(store, app)
    assert store.profiles.read(commit) == b"the first order"
    with open_source(app, Access()) as remote:
        assert remote.list_tags() == ["v1"]


def test_the_newest_profile_is_taken_and_that_of_the_store_stays(
    origin: Store, store: Store, app: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    (commit,) = origin.commits.list()
    for number in (2, 1, 3, 0):
        monkeypatch.setattr(profiles, "utc_now", lambda number=number: TIME.replace(year=2030 + number))
        origin.profiles.write(commit, b"order %d" % number)
        push(origin, commit, app, Access())
    lazily(store, app)
    assert store.profiles.read(commit) == b"order 3"
    store.profiles.write(commit, b"its own")
    lazily(store, app)
    assert store.profiles.read(commit) == b"its own"


@pytest.mark.parametrize("lie", [b"not JSON", b"{}", b'{"layers":[{}],"subject":{}}'])
def test_a_profile_that_is_none_keeps_no_pull_from_working(
    origin: Store, store: Store, tmp_path: Path, lie: bytes
) -> None:
    layout = parse_target(f"oci:{tmp_path}/layout:v1")
    commit = make_commit(origin, FILES)
    origin.profiles.write(commit, b"some order")
    done = push(origin, commit, layout, Access())
    with open_source(layout, Access()) as remote:
        (referrer,) = remote.list_referrers(done.manifest_digest, PROFILE_TYPE)
    (tmp_path / "layout/blobs/sha256" / referrer.manifest.hex).write_bytes(lie)
    assert lazily(store, layout).commit == commit
    assert store.profiles.read(commit) is None


def test_an_eager_pull_needs_no_profile(origin: Store, store: Store, app: Target) -> None:
    (commit,) = origin.commits.list()
    origin.profiles.write(commit, b"some order")
    push(origin, commit, app, Access())
    pull(store, app, Access())
    assert store.profiles.read(commit) is None


# What is fetched at once, and the tag that keeps


def profile_of(*digests: bytes) -> bytes:
    return write_profile(Entry(digest) for digest in digests)


def test_a_pull_fetches_ahead_what_it_is_told_to(cli: Command, origin: Store, app: Target) -> None:
    (commit,) = origin.commits.list()
    first, second, *_ = needed(origin, commit)
    origin.profiles.write(commit, profile_of(second, first, bytes(32)))
    push(origin, commit, app, Access())
    assert cli("pull", "--prefetch", "all", str(app), "app:v1").code == 2
    assert cli.json("pull", "--lazy", str(app), "app:v1")["unreal"]["objects"] == 5
    assert cli.json("pull", "--lazy", "--prefetch", "profile", str(app), "app:v1")["unreal"]["objects"] == 3
    store = Store.open(cli.store)
    assert {digest for digest, _ in store.objects.list()} == {first, second}
    assert cli.json("pull", "--lazy", "--prefetch", "all", str(app), "app:v1")["unreal"] == {"objects": 0, "bytes": 0}
    assert not store.sources.is_partial(commit)


def test_a_tag_keeps_the_manifest_when_the_other_moves(
    cli: Command, origin: Store, app: Target, tmp_path: Path
) -> None:
    (commit,) = origin.commits.list()
    (source,) = origin.sources.of(commit)
    kept = f"stratum-keep-{source.manifest[7:19]}"
    cli.ok("pull", "--lazy", "--keep-tag", str(app), "app:v1")
    with open_source(app, Access()) as remote:
        assert remote.list_tags() == [kept, "v1"]
        assert remote.get_manifest(kept)[1] == source.manifest
    cli.ok("pull", str(app), "app:v1")
    cli.ok("push", "--keep-tag", "app:v1", f"oci:{tmp_path}/layout:v2")
    with open_source(parse_target(f"oci:{tmp_path}/layout:v2"), Access()) as layout:
        tags = layout.list_tags()
        assert len(tags) == 2
        assert layout.get_manifest(tags[0]) == layout.get_manifest(tags[1])


def test_a_place_that_takes_no_tag_says_so_when_all_is_done(cli: Command, app: Target, tmp_path: Path) -> None:
    cli.ok("pull", str(app), "app:v1")
    cli.ok("export", "app:v1", str(tmp_path / "app.tar"))
    refused = cli("pull", "--keep-tag", f"oci-archive:{tmp_path}/app.tar:v1", "other:v1")
    assert refused.code == 2
    assert re.search(r"can only be read: it gets no tag stratum-keep-[0-9a-f]{12}", refused.stderr)
    assert cli.ok("show", "other:v1")
