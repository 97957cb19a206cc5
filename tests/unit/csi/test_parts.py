"""The CSI driver's parts that need no kernel: attributes, jobs, pages, records, paths."""

from __future__ import annotations

import base64
import functools
import gc
import json
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from stratum.csi.attributes import parse_source, snapshot_parameters, volume_attributes
from stratum.csi.errors import CallError, code_of, invalid
from stratum.csi.jobs import WAITING_EACH, Jobs, Lane, Task
from stratum.csi.paging import page
from stratum.csi.paths import place
from stratum.csi.patterns import parse_pattern
from stratum.csi.records import VolumeRecord, key_for
from stratum.csi.sources import Asker, credentials, registry_stratum
from stratum.csi.usage import upperdir_usage
from stratum.errors import (
    BusyError,
    DamagedError,
    ExistsError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UsageError,
)
from stratum.oci.target import Target
from stratum.refs import Ref, is_name

Code = grpc.StatusCode
LANE = Lane("things", 4, 2)
DIGEST = "sha256:" + "a" * 64


class Caller:
    """A client that waits for some seconds."""

    def __init__(self, seconds: float | None = 5.0, *, active: bool = True) -> None:
        self.seconds, self.active = seconds, active

    def is_active(self) -> bool:
        return self.active

    def time_remaining(self) -> float | None:
        return self.seconds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("app", Ref),
        ("app:v1", Ref),
        ("app+work", Ref),
        ("localhost/x", Target),
        ("reg.example.com/team/db:seed", Target),
        ("reg.example.com:5000/db@" + DIGEST, Target),
    ],
)
def test_sources(text: str, kind: type) -> None:
    assert isinstance(parse_source(text), kind)


@pytest.mark.parametrize(
    ("pattern", "source", "allowed"),
    [
        ("*.example.com/*", "a.example.com/x", True),
        ("*.example.com/*", "a.example.com/x:v1", True),
        ("*.example.com/*", f"a.example.com/x@{DIGEST}", True),
        ("*.example.com/*", "a.example.com/x/y", False),
        ("*.example.com/*", "evil.com/x.example.com/y", False),
        ("*.example.com/*", "a.b.example.com/x", False),
        ("**.example.com/**", "a.b.example.com/x/y", True),
        ("**.example.com/**", "evil.com/x.example.com/y", False),
        ("*/team-a/*", "evil.com/a/team-a/b", False),
        ("*/team-a/*", "reg.example.com:5000/team-a/b", True),
        ("registry.example.com*/app", "registry.example.com.evil.com/app", False),
        ("registry.example.com*/app", "registry.example.com:5000/app", False),
        ("registry.example.com/app", "registry.example.com/app:v7", True),
        ("registry.example.com/app", "registry.example.com/app/more", False),
        ("registry.example.com/app", "registry.example.com/application", False),
        ("registry.example.com/app:v*", "registry.example.com/app:v7", True),
        ("registry.example.com/app:v*", "registry.example.com/app", False),
        ("registry.example.com/app:v*", f"registry.example.com/app:v7@{DIGEST}", False),
        (f"registry.example.com/app@{DIGEST}", f"registry.example.com/app@{DIGEST}", True),
        (f"registry.example.com/app@{DIGEST}", "registry.example.com/app", False),
        ("Registry.Example.com:5000/models/**", "registry.example.com:5000/models/a/b:v1", True),
        ("registry.example.com/a.b", "registry.example.com/a-b", False),
        ("[::1]:5000/*", "[::1]:5000/x", True),
        ("app*", "app.evil.example/x", False),
        ("app*", "app:v1", True),
        ("app*", "other", False),
        ("app/*", "app", False),
        ("*", "anything.example.com/x/y:z", True),
        ("*", "app:v1", True),
    ],
)
def test_patterns_of_inline_sources(pattern: str, source: str, allowed: bool) -> None:
    assert parse_pattern(pattern).allows(parse_source(source)) == allowed


@pytest.mark.parametrize("bad", ["", "/x", "x.example.com/", "http://x.example.com/y", "a b"])
def test_patterns_that_nothing_matches_are_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        parse_pattern(bad)


def test_kubernetes_own_keys_are_passed_over() -> None:
    given = {"csi.storage.k8s.io/pvc/name": "x", "storage.kubernetes.io/csiProvisionerIdentity": "y", "commit": "true"}
    found = volume_attributes(given)
    assert found.context() == {"commit": "on-unpublish"}
    assert volume_attributes(found.context()) == found


@pytest.mark.parametrize(("lazy", "value"), [("true", True), ("false", False)])
@pytest.mark.parametrize("prefetch", ["none", "profile", "all"])
def test_what_is_fetched_when_is_said_to_the_node_too(lazy: str, value: bool, prefetch: str) -> None:
    found = volume_attributes({"lazy": lazy, "prefetch": prefetch, "source": "reg.example.com/db"})
    assert (found.lazy, found.prefetch) == (value, prefetch)
    assert found.context() == {"lazy": lazy, "prefetch": prefetch}
    at_the_node = volume_attributes(found.context())
    assert (at_the_node.lazy, at_the_node.prefetch) == (value, prefetch)
    assert volume_attributes({}).lazy is None, "the settings of the node say it"


@pytest.mark.parametrize(
    "given",
    [{"lazy": "yes"}, {"lazy": ""}, {"prefetch": "some"}, {"lazy": "true", "source": "app:v1"}],
)
def test_bad_wishes_of_what_is_fetched_when(given: dict[str, str]) -> None:
    with pytest.raises(CallError) as caught:
        volume_attributes(given)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_a_history_is_asked_for_at_the_node_too() -> None:
    assert volume_attributes({"history": "true"}).context() == {"history": "true"}
    assert volume_attributes(volume_attributes({"history": "true"}, read_only=False).context()).history
    assert volume_attributes({"history": "false"}).context() == {} == volume_attributes({}).context()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"history": "yes"}, "none of true, false"),
        ({"history": ""}, "none of true, false"),
        ({"History": "true"}, "unknown key"),
        ({"history": "true", "readOnly": "true"}, "cannot be readOnly and have a history"),
    ],
)
def test_bad_wishes_of_a_history(given: dict[str, str], says: str) -> None:
    with pytest.raises(CallError, match=says) as caught:
        volume_attributes(given)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_strata_of_registries_have_128_bits_and_valid_names() -> None:
    long = Target("reg.example.com", "team/" + "a" * 200, "latest")
    for target in (long, Target("reg.example.com:5000", "app", "latest")):
        name = registry_stratum(target)
        assert is_name(name)
        assert len(name.rpartition("-")[2]) == 32
    assert registry_stratum(long) != registry_stratum(Target("evil.example", long.repository, "latest"))


def of_node(host: str, repository: str) -> str:
    return f"the node's for {host}/{repository}"


@pytest.mark.parametrize("isolated", [True, False])
def test_the_nodes_credentials_are_for_no_isolated_asker(isolated: bool) -> None:
    """Nor does a secret start a credential helper; there would be an error, as there is none."""
    target = Target("reg.example", "team/app")
    config = {"auths": {"reg.example/team": {"auth": b64("me:1")}, "other.example": {}}, "credsStore": "none"}
    for secrets, found in (
        ({"username": "me", "password": "2"}, b64("me:2")),
        ({".dockerconfigjson": json.dumps(config)}, b64("me:1")),
        ({}, None),
    ):
        find = credentials(Asker(Caller(), secrets, isolated=isolated), target, of_node)
        for host, own in (("reg.example", found), ("other.example", None)):
            assert find(host, "team/app") == (own or (None if isolated else of_node(host, "team/app")))


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_parameters_of_snapshots() -> None:
    assert snapshot_parameters({}) == (None, None)
    assert snapshot_parameters({"registry": "Reg.example.com:5000/team/snaps", "pause": "true"}) == (
        "reg.example.com:5000/team/snaps",
        True,
    )
    for bad in ("team", "reg.example.com/x:tag", f"reg.example.com/x@{DIGEST}", "oci:/x", "reg.example.com/x:latest"):
        with pytest.raises(CallError):
            snapshot_parameters({"registry": bad})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), Code.INVALID_ARGUMENT),
        (NotFoundError("x"), Code.NOT_FOUND),
        (ExistsError("x"), Code.ALREADY_EXISTS),
        (BusyError("x"), Code.ABORTED),
        (DamagedError("x"), Code.DATA_LOSS),
        (UnreachableError("x"), Code.UNAVAILABLE),
        (StratumError("x"), Code.INTERNAL),
        (invalid("x"), Code.INVALID_ARGUMENT),
    ],
)
def test_codes(error: StratumError, code: grpc.StatusCode) -> None:
    assert code_of(error) == code


def pull(what: str, owner: str = "", *key: str) -> Task:
    return Task(what, key, LANE, owner)


def test_a_call_that_comes_again_joins_the_job() -> None:
    jobs, go, runs = Jobs(), threading.Event(), []

    def work() -> str:
        runs.append(1)
        go.wait(20)
        return "done"

    for caller in (Caller(0.05), Caller(active=False), Caller(0.05)):
        with pytest.raises(CallError) as caught:
            jobs.run(pull("x"), work, caller)
        assert caught.value.code == Code.ABORTED
    assert jobs.look(pull("x"), work, Caller(), 0.05) is None
    assert jobs.running == 1
    go.set()
    assert jobs.run(pull("x"), work, Caller()) == "done"
    assert runs == [1]
    assert jobs.running == 0
    assert jobs.run(pull("x"), work, Caller(None)) == "done"
    assert runs == [1, 1], "its result is given out once"


def test_what_a_job_raised_is_raised_in_the_call_that_gets_it() -> None:
    jobs = Jobs()

    def fail() -> None:
        raise NotFoundError("no such tag")

    for _ in range(2):
        with pytest.raises(NotFoundError):
            jobs.run(pull("x"), fail, Caller())
    assert jobs.run(pull("x"), lambda: 3, Caller()) == 3


def test_everybody_who_waits_gets_the_result_of_one_job() -> None:
    jobs, go, runs = Jobs(), threading.Event(), []

    def work() -> str:
        runs.append(1)
        go.wait(20)
        return "done"

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(jobs.run, pull("x"), work, Caller(20)) for _ in range(4)]
        while jobs.waiting < 4:
            time.sleep(0.01)
        go.set()
        assert [call.result() for call in calls] == ["done"] * 4
    assert runs == [1]


def test_no_namespace_has_all_places() -> None:
    jobs, go = Jobs(), threading.Event()
    try:
        for number in range(5):
            with pytest.raises(CallError) as caught:
                jobs.run(pull(f"pull {number}", "greedy"), lambda: go.wait(20), Caller(0.01))
            assert caught.value.code == Code.ABORTED
        assert "other things of namespace greedy are under way" in caught.value.message
        assert jobs.running == LANE.each
        assert jobs.run(pull("pull", "modest"), lambda: "done", Caller()) == "done"
    finally:
        go.set()
    assert jobs.run(pull("pull 4", "greedy"), lambda: "done", Caller()) == "done", "there is a place again"


def test_a_namespace_has_only_so_many_calls_that_wait() -> None:
    jobs, go = Jobs(), threading.Event()
    with ThreadPoolExecutor(WAITING_EACH) as pool:
        calls = [
            pool.submit(jobs.run, pull("x", "greedy"), lambda: go.wait(20), Caller(60)) for _ in range(WAITING_EACH)
        ]
        while jobs.waiting < WAITING_EACH:
            time.sleep(0.01)
        with pytest.raises(CallError) as caught:
            jobs.run(pull("x", "greedy"), lambda: None, Caller(60))
        assert caught.value.code == Code.ABORTED
        assert not any(call.done() for call in calls), "it did not wait"
        go.set()
        assert [call.result() for call in calls] == [True] * WAITING_EACH
    assert jobs.waiting == 0


def test_jobs_that_are_over_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, go = Jobs(), threading.Event()

    class Secret:
        pass

    def fail(secret: Secret) -> None:
        go.wait(20)
        raise NotFoundError(f"no {secret.__class__}")

    secret = Secret()
    left = weakref.ref(secret)
    with pytest.raises(CallError):
        jobs.run(pull("x"), functools.partial(fail, secret), Caller(0.01))
    del secret
    go.set()
    while jobs.running:
        time.sleep(0.01)
    gc.collect()
    assert left() is None, "what the job worked with is gone, while its error waits for the next call"
    monkeypatch.setattr("stratum.csi.jobs.RESULT_LIFE", -1)
    assert jobs.run(pull("y"), lambda: 1, Caller()) == 1
    assert jobs.kept == 0


def test_a_job_that_nobody_asks_for_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs()
    monkeypatch.setattr("stratum.csi.jobs.UNWANTED", -1)
    with pytest.raises(StratumError, match="nobody asks"):
        jobs.run(pull("x"), lambda: jobs.check_wanted(pull("x")), Caller())


@pytest.mark.parametrize("name", ["pvc-1", "../x", "a" * 300, "", "ä", "0" * 64, "x.lock", "a+b", "a/b"])
def test_keys_can_name_files_and_worktrees(name: str) -> None:
    key = key_for(name, "vol")
    assert is_name(key)
    assert key_for(name, "vol") == key
    assert len(key) <= 63


def record(key: str, created: int) -> VolumeRecord:
    return VolumeRecord(key, key, f"s+{key}", "s", "c" * 64, 0, "nothing", created=created)


def test_pages() -> None:
    records = [record(name, number) for number, name in enumerate("abcde")]
    first = page(records, 2, "")
    assert [found.key for found in first.records] == ["a", "b"]
    later = [found for found in records if found.key not in "bc"] + [record("f", 9)]
    second = page(later, 2, first.next_token)
    assert [found.key for found in second.records] == ["d", "e"]
    assert [found.key for found in page(later, 0, second.next_token).records] == ["f"]
    assert page(later, 0, second.next_token).next_token == ""
    assert page([], 5, "") == ([], "")
    with pytest.raises(CallError):
        page(records, -1, "")


def test_places_are_made_and_removed_without_links(tmp_path: Path) -> None:
    kubelet = tmp_path / "kubelet"
    (kubelet / "pods").mkdir(parents=True)
    target = place(kubelet, f"{kubelet}/pods//target/", "target_path")
    assert target.path == kubelet / "pods" / "target"
    assert target.make()
    assert not target.make()
    target.remove()
    target.remove()
    assert not target.path.exists()
    target.path.symlink_to(tmp_path)
    for call in (target.make, target.remove):
        with pytest.raises(CallError) as caught:
            call()
        assert caught.value.code == Code.INVALID_ARGUMENT
    assert target.path.is_symlink()


def test_usage_counts_a_file_with_several_names_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one").write_bytes(b"x" * 10_000)
    os.link(tmp_path / "d" / "one", tmp_path / "d" / "two")
    (tmp_path / "d" / "link").symlink_to("/etc")
    size, inodes = upperdir_usage(tmp_path)
    assert inodes == 3
    assert 10_000 <= size < 40_000
    assert upperdir_usage(tmp_path / "none") == (0, 0)
