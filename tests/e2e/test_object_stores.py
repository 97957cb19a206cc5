"""Object stores as places, with a real server that speaks S3 (versitygw): push, pull, list, import, export, and what
happens where somebody is killed, goes away, or was faster."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import ConflictError, UnreachableError
from stratum.oci.places import open_source
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.pull import pulled
from stratum.transfer.push import push
from stratum.transfer.relatives import relatives
from tests.e2e.registry_artifacts import make_commit
from tests.support.command import SCRIPT, Command
from tests.support.pulling import pull
from tests.support.s3server import SECRET, S3Server, s3_running

pytestmark = pytest.mark.timeout(1200)  # the first time, versitygw is built

FILES = {f"d{number % 7}/f{number}": f"file {number} ".encode() * 300 for number in range(120)}


@pytest.fixture
def server(s3_server: S3Server) -> S3Server:
    return s3_server


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path) -> str:
    """A bucket of the test's own, as a reference."""
    return server.bucket(hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20])


@pytest.fixture
def place(bucket: str) -> str:
    return f"{bucket}/team/app"


def machine(tmp_path: Path, server: S3Server, name: str) -> Command:
    """One that has the keys where the AWS tools have them."""
    command = Command(tmp_path / name, tmp_path / f"{name}-run")
    command.environment |= {**server.environment, "AWS_ENDPOINT_URL": server.endpoint}
    return command


@pytest.fixture
def near(tmp_path: Path, server: S3Server) -> Command:
    return machine(tmp_path, server, "near")


@pytest.fixture
def far(tmp_path: Path, server: S3Server) -> Command:
    return machine(tmp_path, server, "far")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = random.Random(3)
    for name, data in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data + rng.randbytes(2000))
    return tmp_path / "tree"


def objects(server: S3Server, place: str, kind: str = "blobs") -> dict[str, int]:
    """The objects of a place in the server's directory: what is behind ``kind`` in their keys -> inode."""
    root = server.directory / place.removeprefix("s3://") / kind
    return {str(path.relative_to(root)): path.stat().st_ino for path in root.rglob("*") if path.is_file()}


def test_one_machine_pushes_another_pulls(
    server: S3Server, near: Command, far: Command, tree: Path, bucket: str, place: str
) -> None:
    commit = near.ok("import", "--bare", tree, "app:v1")
    sent = near.json("push", "app:v1", place)
    assert (sent["commit"], sent["target"]) == (commit, f"{place}:v1")
    assert near.json("push", "app:v1", place)["bytes_sent"] == 0
    assert near.json("push", "app:v1", f"{place}:other")["bytes_sent"] < 20_000, "only a manifest"
    pulled = far.json("pull", f"{place}:v1", "mine")
    assert (pulled["commit"], pulled["bytes_received"]) == (commit, sent["bytes_sent"])
    assert far.ok("fsck", "--remote") == ""
    assert {tag["tag"]: tag["commit"] for tag in far.json("list", "--remote", place)} == {"v1": commit, "other": commit}
    near.ok("push", "app:v1", f"{bucket}/second")
    near.ok("push", "app:v1", f"{bucket}/team")
    names = [f"{bucket}/second", f"{bucket}/team", place]
    for everything in (bucket, f"{bucket}/"):
        assert [each["repository"] for each in far.json("list", "--remote", everything)] == names
    assert [each["repository"] for each in far.json("list", "--remote", f"{bucket}/team/")] == names[1:]
    assert far("list", "--remote", f"{bucket}/none").code == 3
    near.ok("push", "app:v1", f"{bucket}:whole")
    assert [each["repository"] for each in far.json("list", "--remote", bucket)] == [bucket, *names]
    assert [each["tag"] for each in far.json("list", "--remote", f"{bucket}:any")] == ["whole"]


def test_the_endpoint_may_be_in_the_reference(
    server: S3Server, near: Command, far: Command, tree: Path, place: str
) -> None:
    """And goes along with what is noted of it, as a later process may not have it; the keys do not."""
    for machine in (near, far):
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
            machine.environment.pop(name, None)
    where = f"{place}?endpoint={server.endpoint}&region=us-east-1"
    commit = near.ok("import", "--bare", tree, "app:v1")
    near.ok("push", "app:v1", where)
    assert far.ok("pull", "--lazy", where.replace("?", ":v1?"), "mine") == commit
    for machine in (near, far):
        noted = b"".join(path.read_bytes() for path in machine.store.glob("commits/*"))
        assert server.endpoint.encode() in noted
        assert SECRET.encode() not in noted
        machine.ok("fsck", "--remote")
    far.ok("realize", "mine:v1")
    assert far.ok("fsck") == ""


def test_only_what_is_new_is_sent(server: S3Server, near: Command, tree: Path, bucket: str, place: str) -> None:
    near.ok("import", "--bare", tree, "app:v1")
    first = near.json("push", "app:v1", place)
    before = objects(server, place)
    changed = random.Random(5).randbytes(30_000)
    (tree / "d1/f1").write_bytes(changed)
    near.ok("import", "--bare", tree, "app:v2")
    asked = server.requests()
    second = near.json("push", "app:v2", place)
    puts = [line for line in server.requests()[len(asked) :] if line.startswith("PUT") and "/gc/" not in line]
    after = objects(server, place)
    assert len(changed) < second["bytes_sent"] < len(changed) + 20_000 < first["bytes_sent"] / 4
    assert len(after) - len(before) == second["blobs_sent"]
    assert {name: after[name] for name in before} == before, "what was there was not written again"
    assert len(puts) <= second["blobs_sent"] + 1, "each new blob, and the tag"
    copied = near.json("push", "app:v2", f"{bucket}/another/place")
    assert copied["bytes_sent"] < 20_000, "packs come from the other prefix, without a detour"
    assert far_pull(server, near, f"{bucket}/another/place:v2") == copied["commit"]


def far_pull(server: S3Server, near: Command, source: str) -> str:
    """The commit that a machine with an empty store pulls."""
    other = machine(near.store.parent, server, f"other-{len(list(near.store.parent.iterdir()))}")
    return other.ok("pull", source, "pulled:now")


def test_a_push_that_was_killed_goes_on(server: S3Server, near: Command, tmp_path: Path, place: str) -> None:
    big = tmp_path / "big"
    big.mkdir()
    rng = random.Random(7)
    for number in range(4):
        (big / str(number)).write_bytes(rng.randbytes(6 << 20))
    commit = near.ok("import", "--bare", big, "app:v1")
    pushing = subprocess.Popen([SCRIPT, "push", "app:v1", place], env=near.environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(name.startswith("sha256/") for name in objects(server, place)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pushing.pid, signal.SIGKILL)
    pushing.wait()
    there = objects(server, place)
    done = near.json("push", "app:v1", place)
    assert done["blobs_reused"] >= len(there) - 1
    after = objects(server, place)
    assert {name: after.get(name) for name in there} == there, "what had arrived was not sent again"
    assert far_pull(server, near, f"{place}:v1") == commit


def session_of(machine: Command) -> Session:
    return Session(load_config(machine.environment))


def test_of_two_who_push_one_tag_the_second_is_told(
    server: S3Server, near: Command, tmp_path: Path, place: str
) -> None:
    """He has to look at what the other one did; both commits are there, by their digests."""
    access = session_of(near).access()
    stores = [Store.create(tmp_path / name) for name in ("one", "two")]
    commits = [make_commit(store, {"f": name * 5000}) for store, name in zip(stores, (b"1", b"2"), strict=True)]
    target = parse_target(f"{place}:v1")
    faster: list[str] = []

    def meanwhile(_done: int, _total: int | None, /, files: int | None = None) -> None:
        if not faster:
            faster.append("")
            faster[0] = push(stores[1], commits[1], target, access).manifest_digest

    with pytest.raises(ConflictError, match="v1"):
        push(stores[0], commits[0], target, access, progress=meanwhile)
    assert pull(Store.create(tmp_path / "three"), target, access).commit == commits[1]
    again = push(stores[0], commits[0], target, access)
    for number, manifest in enumerate((again.manifest_digest, faster[0])):
        found = pull(Store.create(tmp_path / f"four-{number}"), replace(target, digest=manifest), access)
        assert found.commit == commits[number]


def test_relatives_are_other_prefixes_of_the_bucket(near: Command, tmp_path: Path, bucket: str) -> None:
    access, store = session_of(near).access(), Store.create(tmp_path / "one")
    commit = make_commit(store, {"f": b"1" * 5000})
    done = push(store, commit, parse_target(f"{bucket}/first:v1"), access)
    for elsewhere, found in ((f"{bucket}/second:v1", 1), (f"{bucket}/first:v1", 0), ("s3://other/second:v1", 0)):
        places = list(relatives(store, commit, parse_target(elsewhere)))
        assert [place.digest for place in places] == [done.manifest_digest] * found


def test_wrong_keys_and_buckets_that_are_not_there(server: S3Server, near: Command, tree: Path, place: str) -> None:
    near.ok("import", "--bare", tree, "app:v1")
    secret = "SecretThatIsWrong"
    for name, value in (("AWS_SECRET_ACCESS_KEY", secret), ("AWS_ACCESS_KEY_ID", secret)):
        for words in (("push", "app:v1", place), ("pull", place, "x"), ("list", "--remote", place)):
            result = near(*words, env={name: value})
            assert (result.code, secret in result.stderr) == (1, False), result.stderr
            assert len(result.stderr.splitlines()) <= 2
    for words in (("push", "app:v1", "s3://there-is-none/app"), ("pull", "s3://there-is-none/app", "x")):
        result = near(*words)
        assert (result.code, "no such bucket" in result.stderr) == (3, True), result.stderr
    assert objects(server, place) == {}


def test_a_pull_that_was_killed_goes_on(server: S3Server, near: Command, far: Command, tmp_path: Path) -> None:
    place, big = f"{server.bucket('resumed')}/app", tmp_path / "big"
    big.mkdir()
    for number in range(2):
        (big / str(number)).write_bytes(random.Random(number).randbytes(12 << 20))
    commit = near.ok("import", "--bare", big, "app:v1")
    near.ok("push", "app:v1", place)
    pulling = subprocess.Popen([SCRIPT, "pull", f"{place}:v1"], env=far.environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in far.store.glob("cache/packs/*")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(pulling.pid, signal.SIGKILL)
    pulling.wait()
    done = far.json("pull", f"{place}:v1")
    assert (done["commit"], done["bytes_received"] < 24 << 20) == (commit, True)


def test_a_server_that_dies_is_an_error_in_words(tmp_path: Path) -> None:
    with s3_running(tmp_path / "mortal") as mortal:
        mortal.bucket("data")
        access = session_of(machine(tmp_path, mortal, "near")).access()
        hasty = replace(access, connect_timeout=2, read_timeout=5, patience=5)
        source, target = Store.create(tmp_path / "source"), parse_target("s3://data/app:v1")
        commit = make_commit(source, {"f": b"1" * 5000})
        push(source, commit, target, access)
        store = Store.create(tmp_path / "store")
        with (
            open_source(target, hasty) as remote,
            pytest.raises(UnreachableError, match=f"{mortal.host} refused the connection"),
            pulled(store, remote, "v1", accept=lambda _manifest: mortal.kill()),
        ):
            pytest.fail("nothing was pulled")
        assert not store.commits.exists(commit)
        with pytest.raises(UnreachableError):
            push(source, make_commit(source, {"f": b"2" * 5000}), target, hasty)
        mortal.start()
        assert pull(store, target, access).commit == commit


def test_an_archive_is_one_object(server: S3Server, near: Command, far: Command, tree: Path, bucket: str) -> None:
    commit = near.ok("import", "--bare", tree, "app:v1")
    done = near.json("export", "app:v1", f"{bucket}/backups/app.stratum.tar")
    assert (server.directory / bucket.removeprefix("s3://") / "backups/app.stratum.tar").stat().st_size == done["size"]
    assert far.json("import", f"{bucket}/backups/app.stratum.tar", "mine")["commit"] == commit
    near.ok("export", "app:v1", f"{bucket}/exports")
    assert far.json("import", f"{bucket}/exports", "again")["commit"] == commit
    near.ok("push", "app:v1", f"{bucket}/image", "--as", "image")
    assert far.json("import", f"{bucket}/image:v1", "image")["files"] == len(FILES)
