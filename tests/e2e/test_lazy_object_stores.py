"""Strata that are pulled lazily from an object store: parts of packs are read from a bucket while readers wait."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.api.session import Session
from stratum.config import load_config
from stratum.mount.gate import ask_keeper
from stratum.volumes.fetching import ensure_fetched
from stratum.volumes.request import parse_volume
from tests.support import hydrating
from tests.support.command import Command
from tests.support.s3server import KEY, SECRET, S3Server, s3_running

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]  # the first time, versitygw is built

LARGE = 20 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with s3_running(tmp_path / "s3") as running:
        running.bucket("models")
        yield running


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, str]:
    """What is pushed to s3://models/big:v1; the SHA-256 of each file by its path."""
    rng, sums = random.Random(9), {}
    for name in (*(f"d{number % 4}/f{number}" for number in range(80)), "large"):
        data = rng.randbytes(LARGE if name == "large" else 30_000)
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    return sums


def test_what_is_read_comes_from_the_bucket(server: S3Server, tree: dict[str, str], tmp_path: Path) -> None:
    maker, reader = (Command(tmp_path / name, tmp_path / f"{name}-run") for name in ("maker", "reader"))
    for machine in (maker, reader):
        machine.environment |= {**server.environment, "AWS_ENDPOINT_URL": server.endpoint}
    commit = maker.ok("import", "--bare", tmp_path / "tree", "big:v1")
    maker.ok("push", "big:v1", "s3://models/big")
    pulled = reader.json("pull", "--lazy", "s3://models/big:v1")
    assert (pulled["commit"], pulled["unreal"]["objects"]) == (commit, len(tree))
    assert pulled["bytes_received"] < 200_000
    place = tmp_path / "mnt"
    reader.ok("mount", "big:v1", place, env={"STRATUM_PREFETCH": "none"})
    try:
        assert sum_of(place / "d1/f1") == tree["d1/f1"]
        with (place / "large").open("rb") as file:
            file.seek(LARGE // 2)
            assert len(file.read(1000)) == 1000
        (source,) = condition(reader)
        assert source["reference"].startswith(f"s3://models/big?endpoint={server.endpoint}@sha256:")
        assert (source["state"], source["bytes"] < LARGE // 2) == ("ok", True)
        hydrating.kill(hydrating.worker(reader.runtime_dir))
        assert sum_of(place / "d2/f2") == tree["d2/f2"], "the next worker has the keys, too"
        server.kill()
        failed = time.monotonic()
        with pytest.raises(OSError):
            (place / "large").read_bytes()
        assert time.monotonic() - failed < 60
        assert sum_of(place / "d1/f1") == tree["d1/f1"]
        server.start()
        assert read_at_last(place / "large") == tree["large"]
        assert {name: sum_of(place / name) for name in tree} == tree
        kept = b"".join(
            path.read_bytes()
            for path in [*tmp_path.glob("reader*/**/*")]
            if path.is_file() and path.stat().st_size < 1 << 20
        )
        assert SECRET.encode() not in kept, "keys are written nowhere"
    finally:
        reader.ok("unmount", place)
        hydrating.stop(reader.runtime_dir)


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_at_last(path: Path) -> str:
    """The sum of a file as soon as the place is tried again."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return sum_of(path)
        except OSError:  # noqa: PERF203  (a retry)
            assert time.monotonic() < deadline
            time.sleep(0.2)


def condition(machine: Command) -> list[dict[str, object]]:
    """What the fetcher says of the sources of the one mount."""
    answers = ask_keeper(machine.runtime_dir, {"op": "status"})
    (connection,) = (each for answer in answers for each in answer.get("connections", ()))
    found: list[dict[str, object]] = connection["fetcher"]["sources"]
    return found


def test_what_a_container_asks_for_lazily_may_be_in_a_bucket_of_the_settings(
    s3_server: S3Server, tree: dict[str, str], tmp_path: Path
) -> None:
    """The hook has no environment: the settings say where the bucket is, and which file has its keys."""
    maker = Command(tmp_path / "maker", tmp_path / "maker-run")
    maker.ok("import", "--bare", tmp_path / "tree", "big:v1")
    bucket = s3_server.bucket("of-the-settings")
    place = f"{bucket}/team/big?endpoint={s3_server.endpoint}"
    maker.ok("push", "big:v1", place, env=s3_server.environment)
    keys = tmp_path / "keys"
    keys.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    table = {bucket: {"endpoint": s3_server.endpoint, "credentials_file": str(keys)}}
    settings = {"STRATUM_REGISTRY": f"{bucket}/team", "STRATUM_PLACES": json.dumps(table)}
    session = Session(load_config(settings, store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run")))
    ensure_fetched(session, parse_volume("a", "big:v1:/data:lazy"))
    commit = session.store.tags.get("big", "v1")
    assert session.store.sources.is_partial(commit)
    (source,) = session.store.sources.of(commit)
    assert source.place == f"{bucket}/team/big", "where it is stays in the settings"
