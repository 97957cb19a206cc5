"""The store as a registry: what it offers is what it has, what is pushed to it is there at once and as long as it is
named, and nobody gets what is not theirs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from hashlib import sha256, sha512
from pathlib import Path

import pytest

from stratum.api import maintenance
from stratum.api.realizing import realize
from stratum.composefs.verity import verity_digest
from stratum.errors import ConflictError, NotFoundError, RefusedError
from stratum.oci.descriptor import Descriptor, describe, digest_of
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from stratum.oci.remote import Upload
from stratum.store import Store
from stratum.store.repositories import BLOBS
from stratum.store.retention import Retention
from stratum.transfer import offering
from stratum.transfer.artifact import CONFIG_MEDIA_TYPE, PACK_MEDIA_TYPE, TREE_MEDIA_TYPE, read_manifest
from stratum.transfer.packs import FRAME_SIZE, LARGE_OBJECT, Member, PackIndex, seek_table, write_index
from stratum.transfer.pull import pulled
from stratum.transfer.push import push_in_order
from stratum.tree.rawframe import raw_frame
from tests.support import stores
from tests.support.injection import DONE, REFUSED, WRITING, calls_of, failed_at, killed_at
from tests.support.pushing import Served, registry
from tests.support.stores import commit

NOTHING_KEPT = Retention(age=maintenance.parse_duration("0"))
FILES = {b"%d" % number: random.Random(number).randbytes(100 + 300 * number) for number in range(80)}
EVERY = os.environ.get("STRATUM_TEST_KILLS") == "all"


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering, "PACK_MIN", 8 << 10)
    monkeypatch.setattr(offering, "_CUT_EACH", 48 << 10)


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "there")


def serve(store: Store, name: str) -> Served:
    return Served(registry(store.root).repository(name))


def pull(store: Store, place: Served, reference: str, name: str) -> str:
    with pulled(store, place, reference) as done:
        store.tags.set(name, "latest", done.commit, force=True)
    return done.commit


def collect(store: Store) -> None:
    maintenance.gc(registry(store.root)._session, NOTHING_KEPT)


def damage(store: Store) -> list[str]:
    return [f"{found.path}: {found.problem}" for found in maintenance.fsck(registry(store.root)._session).damage]


def kept_blobs(store: Store) -> list[str]:
    return list(store.blobs.list())


def packs_of(place: Served, reference: str) -> set[str]:
    return {pack.pack.digest for pack in read_manifest(place.get_manifest(reference)[0], "it").packs}


def test_what_is_offered_is_an_artifact_of_which_any_range_can_be_had(here: Store, there: Store) -> None:
    large = random.Random(1).randbytes(LARGE_OBJECT + 12345)
    made = commit(here, {**FILES, b"large": large, b"zeros": bytes(3 * FRAME_SIZE)})
    here.tags.set("app", "v1", made)
    place = serve(here, "app")
    data, digest = place.get_manifest("v1")
    assert place.get_manifest(digest) == place.get_manifest(made) == (data, digest)
    manifest = read_manifest(data, "it")
    assert len(manifest.packs) > 5
    for blob in manifest.blobs:
        whole = b"".join(place.read_blob(blob))
        for _ in range(20):
            start, end = sorted(random.choices(range(blob.size + 1), k=2))
            assert place.read_range(blob, start, end - start) == whole[start:end]
    assert pull(there, place, "v1", "app") == made
    stores.check(there)
    # Another server over the same store, and one over the copy, offer the same bytes.
    assert serve(here, "app").get_manifest("v1")[1] == digest
    assert packs_of(serve(there, "app"), "latest") == packs_of(place, "v1")


def test_a_change_costs_the_packs_that_it_is_in(here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    here.tags.set("app", "v1", commit(here, FILES))
    here.tags.set("app", "v2", commit(here, {**FILES, b"20": b"changed" * 100}))
    place = serve(here, "app")
    before = packs_of(place, "v1")
    summed: list[int] = []
    monkeypatch.setattr(offering, "_summed", lambda *args, of=offering._summed: summed.append(1) or of(*args))
    assert len(packs_of(place, "v2") - before) == len(summed) <= 2 < len(before)
    assert packs_of(serve(here, "app"), "v2")  # what was found out is kept


def test_what_is_not_here_whole_is_not_offered(here: Store) -> None:
    here.tags.set("app", "v1", stores.partial_commit(here, FILES))
    with pytest.raises(NotFoundError, match="not here whole"):
        serve(here, "app").get_manifest("v1")


def test_only_what_tags_lead_to_can_be_had(here: Store) -> None:
    secret, open_ = commit(here, FILES), commit(here, {b"a": b"a" * 100})
    here.tags.set("secret", "v1", secret)
    here.tags.set("open", "v1", open_)
    data, digest = serve(here, "secret").get_manifest("v1")
    place = serve(here, "open")
    for reference in (digest, secret):
        with pytest.raises(NotFoundError):
            place.get_manifest(reference)
    for blob in read_manifest(data, "it").blobs:
        assert not place.has_blob(blob)
    for name in ("none", "..", "a/b", "x" * 300, "."):
        with pytest.raises(NotFoundError):
            serve(here, name).get_manifest("v1")


def test_a_pushed_commit_is_there_at_once_and_its_bytes_as_long_as_it_is_named(here: Store, there: Store) -> None:
    made = commit(here, FILES)
    there.tags.set("app", "old", commit(there, {b"a": b"other" * 100}))
    place = serve(there, "app")
    done = push_in_order(here, made, place, "v1")
    assert there.tags.get("app", "v1") == made
    assert there.reflog.read("app")[-1].why == "pushed by a test"
    assert not damage(there)
    assert there.residence.counts(made).unreal == len(FILES)
    again = serve(there, "app")
    assert again.get_manifest("v1")[1] == again.get_manifest(made)[1] == done.manifest_digest
    assert again.list_tags() == ["old", "v1"]
    collect(there)
    assert again.get_manifest(done.manifest_digest)[0] == place.get_manifest("v1")[0]
    shutil.move(there.root, there.root.parent / "moved")
    moved = Store.open(there.root.parent / "moved")
    session = registry(moved.root)._session
    realize(session, "app:v1", access=session.access())
    assert not moved.residence.counts(made).unreal
    stores.check(moved)
    # As long as a tag leads to it, those bytes are what is given; then they go, and the commit is offered.
    collect(moved)
    assert serve(moved, "app").get_manifest("v1")[1] == done.manifest_digest
    serve(moved, "app").repository.delete_manifest("v1")
    moved.tags.set("app", "again", made)
    collect(moved)
    moved.tags.remove("app", "again")
    collect(moved)
    assert not kept_blobs(moved)
    assert not moved.repositories.names()
    assert moved.commits.list() == [moved.tags.get("app", "old")]
    assert not moved.offers.names("packs")


def test_a_push_builds_on_what_is_offered_and_that_stays(here: Store, there: Store) -> None:
    first = commit(there, FILES)
    there.tags.set("app", "v1", first)
    place = serve(there, "app")
    pull(here, place, "v1", "app")
    second = commit(here, {**FILES, b"20": b"changed" * 5000})
    done = push_in_order(here, second, place, "v2", base=place.get_manifest("v1")[1])
    assert sum(place.sent) < 100_000
    there.tags.remove("app", "v1")
    collect(there)
    assert first not in there.commits.list()
    fresh = serve(there, "app")
    assert fresh.get_manifest("v2")[1] == done.manifest_digest
    for blob in read_manifest(fresh.get_manifest("v2")[0], "it").blobs:
        assert b"".join(fresh.read_blob(blob))
    assert pull(Store.create(there.root.parent / "third"), fresh, "v2", "app") == second
    assert not damage(there)


def test_what_is_made_of_pushed_commits_is_offered_in_their_packs(here: Store, there: Store, tmp_path: Path) -> None:
    pushed = commit(here, FILES)
    place = serve(there, "app")
    push_in_order(here, pushed, place, "v1")

    def made(of: str, tag: str, names: Iterable[bytes]) -> str:
        """A commit of some of the files of another, and one that is here alone."""
        with there.begin("a test") as tx:
            files = {name: child for name, child in there.commits.tree(of).children.items() if name in names}
            root = stores.directory({**files, b"new": stores.file(tx, b"new" * 99)})
            done = there.commits.write(tx, root).metadata_hash
        there.tags.set("app", tag, done)
        return done

    whole = made(pushed, "whole", FILES.keys())
    again = serve(there, "app")
    assert len(packs_of(again, "whole") & packs_of(again, "v1")) == len(packs_of(again, "v1"))
    assert pull(Store.create(tmp_path / "third"), again, "whole", "app") == whole
    assert there.residence.counts(whole).unreal == len(FILES)
    again.repository.delete_manifest("v1")
    _age(there)
    collect(there)
    fresh = serve(there, "app")
    for blob in read_manifest(fresh.get_manifest("whole")[0], "it").blobs:
        assert b"".join(fresh.read_blob(blob))
    # Of packs that have more than is the commit's, the rest is nobody's to see.
    some = made(whole, "some", [b"7", b"8", b"9"])
    assert not packs_of(fresh, "some") & packs_of(fresh, "whole")
    assert pull(Store.create(tmp_path / "fourth"), fresh, "some", "app") == some
    there.tags.remove("app", "whole")
    realize(registry(there.root)._session, "app:some", access=registry(there.root)._session.access())
    collect(there)
    assert not kept_blobs(there)
    assert pull(Store.create(tmp_path / "fifth"), serve(there, "app"), "some", "app") == some
    assert not damage(there)


def test_a_commit_is_pushed_without_a_tag_by_what_it_is_called(here: Store, there: Store) -> None:
    made = commit(here, FILES)
    place = serve(there, "app")
    push_in_order(here, made, place, made)
    assert place.get_manifest(made)
    assert place.list_tags() == []
    collect(there)
    assert there.commits.exists(made)
    there.tags.set("app", "v1", made)
    assert place.list_tags() == ["v1"]
    with pytest.raises(RefusedError):
        place.put_manifest(place.get_manifest(made)[0], "0" * 64)


def test_who_knows_a_name_alone_reads_nothing(here: Store, there: Store) -> None:
    """A commit made up of what others have, by its digests, with packs of other bytes."""
    secret = {b"secret": b"only theirs" * 100}
    theirs = commit(there, secret)
    there.tags.set("theirs", "v1", theirs)
    place = serve(there, "mine")
    member = Member(verity_digest(secret[b"secret"]), len(secret[b"secret"]))
    data = raw_frame(bytes(2 * FRAME_SIZE // FRAME_SIZE * 2560))
    frames = ((len(data), 2560),)
    pack = data + seek_table(frames)
    faked = [
        (TREE_MEDIA_TYPE, _tree_layer(there, theirs)),
        (INDEX_MEDIA_TYPE, write_index(PackIndex(frames, [member]))),
        (PACK_MEDIA_TYPE, pack),
    ]
    config = describe(CONFIG_MEDIA_TYPE, there.commits.meta(theirs).to_toml())
    place.put_blob(Upload.of_bytes(config, there.commits.meta(theirs).to_toml()))
    for media_type, blob in faked:
        place.put_blob(Upload.of_bytes(describe(media_type, blob), blob))
    manifest = _manifest(theirs, config, [describe(media_type, blob) for media_type, blob in faked])
    with pytest.raises(RefusedError):
        place.put_manifest(manifest, "v1")
    # Nor with no tree of one's own: the commit's name is not enough.
    other = describe(TREE_MEDIA_TYPE, b"no tree")
    place.put_blob(Upload.of_bytes(other, b"no tree"))
    with pytest.raises(RefusedError):
        place.put_manifest(_manifest(theirs, config, [other]), "v1")
    assert not there.namespaces.exists_name("mine")
    # What a commit says of its parent shows nobody that one.
    with here.begin("a test") as tx:
        root = stores.directory({b"b": stores.file(tx, b"b" * 99)})
        child = here.commits.write(tx, root, parent=theirs).metadata_hash
    push_in_order(here, child, Served(registry(there.root).repository("another")), "v1")
    assert there.commits.parent(child) == theirs
    with pytest.raises(NotFoundError):
        serve(there, "another").get_manifest(theirs)
    # Blobs of other repositories are not there, and cannot be named.
    serve(there, "theirs").repository.manifest("v1")
    stranger = Served(registry(there.root).repository("stranger/x"))
    with pytest.raises(RefusedError, match="lacks sha256:"):
        stranger.put_manifest(manifest, "v1")
    assert not stranger.repository.mount(config.digest, "theirs")
    assert stranger.repository.mount(config.digest, "mine")


def _tree_layer(store: Store, made: str) -> bytes:
    from stratum.tree.zstdframe import compress

    return compress(b"".join(store.trees.pieces(made)))


def _manifest(made: str, config: Descriptor, layers: list[Descriptor]) -> bytes:
    def descriptor(blob: Descriptor) -> dict[str, object]:
        return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "artifactType": "application/vnd.stratum.commit.v1",
            "config": descriptor(config),
            "layers": [descriptor(layer) for layer in layers],
            "annotations": {"dev.stratum.commit": made},
        }
    ).encode()


def any_manifest(place: Served, layer: bytes, **more: object) -> bytes:
    """A manifest of something that is no commit, whose blobs are there."""
    for blob in (b"{}", layer):
        place.put_blob(Upload.of_bytes(describe("x/y", blob), blob))
    blobs = [{"mediaType": "x/y", "digest": digest_of(blob), "size": len(blob)} for blob in (b"{}", layer)]
    value = {"schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE, "config": blobs[0], "layers": [blobs[1]], **more}
    return json.dumps(value).encode()


def test_artifacts_of_others_are_kept_as_they_are_named(there: Store) -> None:
    place = serve(there, "any/thing")
    repository = place.repository
    first, second = any_manifest(place, b"one"), any_manifest(place, b"two")
    subject = {"mediaType": MANIFEST_MEDIA_TYPE, "digest": digest_of(first), "size": len(first)}
    third = any_manifest(place, b"three", subject=subject, artifactType="a/b", annotations={"k": "v"})
    for data, reference in ((first, "v1"), (second, "v1"), (first, "v2")):
        place.put_manifest(data, reference)
    assert repository.put_manifest(third, MANIFEST_MEDIA_TYPE, digest_of(third)).subject == digest_of(first)
    assert place.list_tags() == ["v1", "v2"]
    assert [each["digest"] for each in repository.referrers(digest_of(first), None)] == [digest_of(third)]
    assert repository.referrers(digest_of(first), "c/d") == []
    index = {"schemaVersion": 2, "manifests": [{**subject, "digest": digest_of(second), "size": len(second)}]}
    repository.put_manifest(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json", "all")
    repository.delete_manifest("v1")
    _age(there)
    collect(there)
    assert place.list_tags() == ["all", "v2"]
    assert place.get_manifest(digest_of(second))  # of the index
    assert place.get_manifest(digest_of(third))  # of what v2 is
    repository.delete_manifest("all")
    repository.delete_manifest(digest_of(first))
    _age(there)
    collect(there)
    assert not kept_blobs(there)
    assert there.repositories.names() == []
    for data, reference in ((b"{}", "v1"), (b"x", "v1"), (first[:-1], "v1"), (second, digest_of(first)), (first, "-")):
        with pytest.raises(RefusedError):
            place.put_manifest(data, reference)


def test_what_is_called_by_its_sha512_is_had_by_that(there: Store) -> None:
    repository = registry(there.root).repository("any/thing")
    data = b"by another name"
    digest = f"sha512:{sha512(data).hexdigest()}"
    upload = repository.begin_upload()
    upload.append([data], 0)
    upload.finish(digest)
    blob = {"mediaType": "x/y", "digest": digest, "size": len(data)}
    gone = {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "digest": digest_of(b""), "size": 5}
    manifest = json.dumps({"schemaVersion": 2, "config": blob, "layers": [blob, gone], "more": 1}).encode()
    called = f"sha512:{sha512(manifest).hexdigest()}"
    assert repository.put_manifest(manifest, MANIFEST_MEDIA_TYPE, called).digest == called
    repository.put_manifest(manifest, MANIFEST_MEDIA_TYPE, "v1")
    _age(there)
    collect(there)
    served = repository.blob(digest)
    assert b"".join(served.read(0, served.size)) == data
    assert repository.manifest("v1").data == manifest
    with pytest.raises(NotFoundError):
        repository.manifest(called)  # which no tag led to
    assert not damage(there)
    repository.delete_manifest("v1")
    collect(there)
    assert not kept_blobs(there)


def test_who_asks_for_a_tag_that_moved_does_not_wait_for_what_it_was_at(here: Store) -> None:
    here.tags.set("app", "v1", commit(here, FILES))
    place, later = serve(here, "app"), commit(here, {b"b": b"b" * 99})
    seen = {place.repository.stand("v1")}
    here.tags.set("app", "v1", later, force=True)
    seen.add(place.repository.stand("v1"))
    place.put_manifest(any_manifest(place, b"one"), "image")
    assert len(seen | {place.repository.stand("image"), place.repository.stand("none")}) == 4


def test_a_tag_of_a_commit_is_no_other_artifacts(here: Store) -> None:
    here.tags.set("app", "v1", commit(here, FILES))
    place = serve(here, "app")
    data = any_manifest(place, b"one")
    with pytest.raises(RefusedError, match="is a commit"):
        place.put_manifest(data, "v1")
    place.put_manifest(data, "image")
    assert place.list_tags() == ["image", "v1"]
    here.tags.set("app", "image", here.tags.get("app", "v1"))
    assert place.get_manifest("image") == place.get_manifest("v1")
    child = commit(here, {b"b": b"b" * 99})
    here.tags.set("app", "v1", child, force=True)
    with pytest.raises((ConflictError, NotFoundError)):
        place.repository.delete_manifest(digest_of(b"none"))
    here.namespaces.remove("app")
    collect(here)
    assert not kept_blobs(here)


def _age(store: Store) -> None:
    """As if everything had been put two days ago."""
    for path in store.root.joinpath("repositories").rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime - 2 * 86400,) * 2)


def test_uploads_go_on_after_a_restart_and_end(here: Store) -> None:
    data = random.Random(3).randbytes(3 << 20)
    upload = registry(here.root).repository("app").begin_upload()

    def breaking_off() -> Iterator[bytes]:
        yield data[:1000]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        upload.append(breaking_off(), 0)
    again = registry(here.root).repository("app").upload(upload.id)
    assert again.offset == 1000
    for start in (0, 999, 1001):
        with pytest.raises(ConflictError):
            again.append([b"x"], start)
    assert again.append([data[1000:2000], data[2000:]], 1000) == len(data)
    again.finish(digest_of(data))
    assert b"".join(registry(here.root).repository("app").blob(digest_of(data)).read(0, 10)) == data[:10]
    with pytest.raises(NotFoundError):
        again.append([b""], len(data))
    for name in ("../../lock", "x", upload.id):
        with pytest.raises(NotFoundError):
            registry(here.root).repository("app").upload(name)
    wrong = registry(here.root).repository("app").begin_upload()
    wrong.append([b"a"], 0)
    with pytest.raises(RefusedError) as refused:
        wrong.finish(digest_of(b"b"))
    assert refused.value.code == "DIGEST_INVALID"
    left = registry(here.root).repository("app").begin_upload()
    collect(here)
    assert left.offset == 0
    assert kept_blobs(here) == [sha256(data).hexdigest()]
    _age(here)
    collect(here)
    assert not kept_blobs(here)
    with pytest.raises(NotFoundError):
        _ = left.offset


def test_a_parent_that_a_stranger_says_is_not_theirs(here: Store, there: Store) -> None:
    """A commit that is pushed names as its parent one of another stratum: its name is all that is known of that."""
    theirs = commit(there, {b"secret": b"only theirs" * 100})
    there.tags.set("theirs", "v1", theirs)
    with here.begin("a test") as tx:
        root = stores.directory({b"x": stores.file(tx, b"x" * 100)})
        made = here.commits.write(tx, root, parent=theirs).metadata_hash
    place = serve(there, "mine")
    push_in_order(here, made, place, "v1")
    for repository in (place, serve(there, "mine")):
        with pytest.raises(NotFoundError):
            repository.get_manifest(theirs)
    for blob in read_manifest(serve(there, "theirs").get_manifest("v1")[0], "it").blobs:
        assert not place.has_blob(blob)
    # What a tag named before is the stratum's, whoever pushes on top of that.
    there.tags.set("theirs", "v1", made, force=True)
    assert serve(there, "theirs").get_manifest(theirs)


def test_nothing_of_a_commit_is_elsewhere(here: Store, there: Store) -> None:
    """A layer that may not be passed on need not be where its manifest is; of a commit all has to be there."""
    made = commit(here, FILES)
    place, far = serve(there, "app"), serve(Store.create(there.root.parent / "far"), "app")
    push_in_order(here, made, far, "v1")
    value = json.loads(far.get_manifest("v1")[0])
    manifest = read_manifest(far.get_manifest("v1")[0], "it")
    packs = {layers.pack.digest for layers in manifest.packs}
    for blob in manifest.blobs:
        if blob.digest not in packs:
            place.put_blob(Upload.of_bytes(blob, b"".join(far.read_blob(blob))))
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    twice = [{**layer, "mediaType": foreign} for layer in value["layers"] if layer["digest"] in packs]
    far_away = [{**layer, "urls": ["https://elsewhere.example/"]} for layer in value["layers"]]
    for layers in ([*twice, *value["layers"]], [*value["layers"], *twice], far_away):
        with pytest.raises(RefusedError):
            place.put_manifest(json.dumps({**value, "layers": layers}).encode(), "v1")
    config = {**value["config"], "mediaType": foreign}
    with pytest.raises(RefusedError):
        place.put_manifest(json.dumps({**value, "config": config}).encode(), "v1")
    assert not there.namespaces.exists_name("app")
    assert not damage(there)


def test_damage_of_what_was_pushed_is_found_and_mended(here: Store, there: Store) -> None:
    made = commit(here, FILES)
    place = serve(there, "app")
    push_in_order(here, made, place, "v1")
    session = registry(there.root)._session
    link = next(there.repositories.directory("app", BLOBS).iterdir())
    link.unlink()
    assert damage(there)
    assert not maintenance.fsck_repair(session).damage
    manifest = read_manifest(place.get_manifest("v1")[0], "it")
    path = there.blobs.path(manifest.packs[0].pack.hex)
    path.chmod(0o644)
    path.write_bytes(b"other" + path.read_bytes()[5:])
    path.chmod(0o444)
    assert "does not match" in "".join(damage(there))
    assert maintenance.fsck_repair(session).damage
    assert not place.has_blob(manifest.packs[0].pack)
    push_in_order(here, made, place, "v1")
    assert not damage(there)
    realize(session, "app:v1", access=session.access())
    # Of a computed artifact, whatever is damaged is made again.
    there.repositories.remove_manifest("app", place.get_manifest("v1")[1][7:], None)
    before = serve(there, "app").repository.manifest("v1")
    for path in there.layout.offers.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(random.choice([b"", path.read_bytes()[:-3], b"x" * 50]))
    assert serve(there, "app").repository.manifest("v1") == before
    assert pull(Store.create(there.root.parent / "third"), serve(there, "app"), "v1", "app") == made
    manifest, again = read_manifest(before.data, "it"), serve(there, "app")
    assert again.get_manifest("v1") == (before.data, before.digest)
    for layers in manifest.packs:
        there.offers.path("blobs", layers.index.hex).write_bytes(b"")
    assert damage(there)
    assert not maintenance.fsck_repair(session).damage
    for blob in manifest.blobs:
        assert b"".join(again.read_blob(blob))


@pytest.mark.parametrize("how", ["killed", "failing"])
@pytest.mark.parametrize("what", ["push", "offer", "gc"])
def test_cut_short_anywhere(here: Store, tmp_path: Path, what: str, how: str) -> None:
    files = {b"%d" % number: b"%d" % number * 500 for number in range(9)}
    made = commit(here, files)
    store = Store.create(tmp_path / "before")
    store.tags.set("app", "old", commit(store, {b"a": b"other" * 100}))
    if what == "offer":
        store.tags.set("app", "v1", commit(store, files))
    if what == "gc":
        push_in_order(here, made, serve(store, "app"), "v1")
        serve(store, "app").repository.delete_manifest("v1")
    at = tmp_path / "at"

    def action() -> None:
        if what == "push":
            push_in_order(here, made, serve(Store.open(at), "app"), "v1")
        elif what == "offer":
            serve(Store.open(at), "app").get_manifest("v1")
        else:
            collect(Store.open(at))

    def again() -> None:
        shutil.rmtree(at, ignore_errors=True)
        subprocess.run(["cp", "-a", store.root, at], check=True)

    again()
    calls = (
        WRITING if how == "killed" else WRITING.replace("unlink,", "")
    )  # which no disk refuses, being full or damaged
    steps = calls_of(action, calls)
    places = [(call, number) for call, count in steps.items() for number in range(1, count + 1)]
    for call, number in places if EVERY else random.sample(places, min(12, len(places))):
        again()
        if how == "killed":
            outcome = killed_at(action, call, number)
            assert outcome.status in (-signal.SIGKILL, DONE), outcome
        else:
            outcome = failed_at(action, call, number, "EIO" if "sync" in call else "ENOSPC")
            assert outcome.status in (REFUSED, DONE), (call, number, outcome)
        found = Store.open(at)
        stores.check(found)
        assert not damage(found), (call, number, outcome)
        action()
        if what == "gc":
            assert not kept_blobs(found), (call, number, outcome)
        else:
            place = serve(found, "app")
            for blob in read_manifest(place.get_manifest("v1")[0], "it").blobs:
                assert b"".join(place.read_blob(blob))
        assert not damage(found)
