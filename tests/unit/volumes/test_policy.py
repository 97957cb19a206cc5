"""The hook's policy: the defaults, the rules, and the files that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.errors import UsageError
from stratum.volumes.policy import Caller, ForbiddenError, Policy, caller_of, load_policy, parse_policy
from stratum.volumes.request import parse_volume

PODMAN = Caller("podman")
TEAM_A = Caller("kubernetes", "team-a")
HASH = "0123456789abcdef" * 4


def allowed(policy: Policy, caller: Caller, value: str) -> bool:
    try:
        policy.check(caller, parse_volume("v", value))
    except ForbiddenError:
        return False
    return True


def test_defaults() -> None:
    policy = load_policy(Path("/nonexistent/policy.toml"))
    assert allowed(policy, PODMAN, "app:/data")
    assert not allowed(policy, TEAM_A, "app:/data")
    assert not allowed(policy, TEAM_A, "app:v1:/data")
    assert not allowed(policy, caller_of({}), "app:/data")


def test_the_refusal_names_who_what_and_where() -> None:
    with pytest.raises(ForbiddenError) as caught:
        Policy().check(TEAM_A, parse_volume("v", "app+dev:/data"))
    assert caught.value.message == "policy: kubernetes namespace team-a may not mount app+dev writable at /data"


def test_rules_replace_an_engine_s_default() -> None:
    policy = parse_policy(b'[[allow]]\nengine = "podman"\nstrata = ["game-*"]\ndestinations = ["/data", "/srv/*"]')
    assert allowed(policy, PODMAN, "game-1:/data")
    assert allowed(policy, PODMAN, "game-1:/srv/a/b")
    assert not allowed(policy, PODMAN, "game-1:/srv")
    assert not allowed(policy, PODMAN, "other:/data")
    assert not allowed(policy, TEAM_A, "game-1:/data")


def test_any_rule_may_match() -> None:
    policy = parse_policy(
        b'[[allow]]\nengine = "kubernetes"\nnamespaces = ["team-a"]\nstrata = ["a"]\n'
        b'[[allow]]\nengine = "kubernetes"\nstrata = ["public"]\naccess = "ro"\n'
    )
    assert allowed(policy, TEAM_A, "a:/data")
    assert not allowed(policy, Caller("kubernetes", "team-b"), "a:/data")
    assert not allowed(policy, Caller("kubernetes"), "a:/data")
    assert allowed(policy, Caller("kubernetes", "team-b"), "public:v1:/data")
    assert not allowed(policy, Caller("kubernetes", "team-b"), "public:v1:/data:scratch")
    assert not allowed(policy, Caller("kubernetes", "team-b"), "public:/data")
    assert allowed(policy, Caller("kubernetes", "team-b"), "public:/data:ro")
    # What is in no stratum yet does not get into one by a read-only rule.
    assert not allowed(policy, Caller("kubernetes", "team-b"), "public:/data:ro;create")
    assert not allowed(policy, Caller("kubernetes", "team-b"), "public:/data:ro;copy-up")


def test_the_base_of_a_new_worktree_counts_too() -> None:
    policy = parse_policy(b'[[allow]]\nengine = "kubernetes"\nstrata = ["a"]')
    assert allowed(policy, TEAM_A, "a+new:/data:create=a:v1")
    assert not allowed(policy, TEAM_A, "a+new:/data:create=secret:v1")


def test_what_is_not_here_is_fetched_where_a_rule_says_so() -> None:
    rule = b'[[allow]]\nengine = "kubernetes"\nstrata = ["a"]\naccess = "ro"\n'
    assert allowed(Policy(), PODMAN, "a:v1:/data:lazy")
    assert not allowed(parse_policy(rule), TEAM_A, "a:v1:/data:lazy")
    with pytest.raises(ForbiddenError, match="may not mount a:v1 read-only at /data, with 'lazy'"):
        parse_policy(rule).check(TEAM_A, parse_volume("v", "a:v1:/data:lazy"))
    assert allowed(parse_policy(rule), TEAM_A, "a:v1:/data:prefetch=none")
    assert allowed(parse_policy(rule + b"pull = true"), TEAM_A, "a:v1:/data:lazy")
    assert not allowed(parse_policy(rule + b"pull = true"), TEAM_A, "b:v1:/data:lazy")


def test_a_history_is_begun_where_a_rule_says_so() -> None:
    rule = b'[[allow]]\nengine = "kubernetes"\nstrata = ["a"]\n'
    assert allowed(Policy(), PODMAN, "a+dev:/data:history")
    assert not allowed(Policy(), TEAM_A, "a+dev:/data:history")
    assert allowed(parse_policy(rule), TEAM_A, "a+dev:/data")
    with pytest.raises(ForbiddenError, match=r"may not mount a\+dev writable at /data, with 'lazy' and 'history'"):
        parse_policy(rule).check(TEAM_A, parse_volume("v", "a+dev:/data:create=a:v1;lazy;history"))
    assert not allowed(parse_policy(rule + b"pull = true"), TEAM_A, "a+dev:/data:history")
    assert allowed(parse_policy(rule + b"history = true"), TEAM_A, "a+dev:/data:history")
    assert not allowed(parse_policy(rule + b"history = true"), TEAM_A, "b+dev:/data:history")
    assert not allowed(parse_policy(rule + b"history = true\naccess = 'ro'"), TEAM_A, "a+dev:/data:history")


@pytest.mark.parametrize(
    "value",
    [f"{HASH}:/data", f"a:{HASH}:/data", "a:0123abc:/data", f"a:/d:create={HASH}", "a:/d:create=0123abc"],
)
def test_a_hash_reaches_every_stratum_so_it_needs_a_rule_for_all(value: str) -> None:
    assert not allowed(parse_policy(b'[[allow]]\nengine = "kubernetes"\nstrata = ["a", "0*"]'), TEAM_A, value)
    assert allowed(parse_policy(b'[[allow]]\nengine = "kubernetes"\nstrata = ["*"]'), TEAM_A, value)
    assert allowed(parse_policy(b'[[allow]]\nengine = "kubernetes"'), TEAM_A, value)


def test_who_calls() -> None:
    assert caller_of({"io.container.manager": "libpod", "io.kubernetes.cri-o.TTY": "false"}) == PODMAN
    crio = {"io.container.manager": "cri-o", "io.kubernetes.pod.namespace": "team-a"}
    assert caller_of(crio) == TEAM_A
    assert caller_of({}).engine == "an unknown engine"
    assert caller_of({"io.container.manager": "x\ny" * 99}).engine.startswith("unknown engine 'x\\ny")


def test_a_pod_cannot_pass_for_podman() -> None:
    forged = {"io.container.manager": "libpod", "io.kubernetes.pod.namespace": "", "io.kubernetes.pod.name": "p"}
    assert caller_of(forged).engine == "kubernetes"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"allow = 1", "not a list of tables"),
        (b"allow = [1]", "rule 1 is not a table"),
        (b"[[deny]]", "unknown key 'deny'"),
        (b"[[allow]]", "engine must be"),
        (b'[[allow]]\nengine = "docker"', "engine must be"),
        (b'[[allow]]\nengine = "podman"\nstratum = "x"', "rule 1: unknown key 'stratum'"),
        (b'[[allow]]\nengine = "podman"\nstrata = "x"', "strata is not a list"),
        (b'[[allow]]\nengine = "podman"\nstrata = [1]', "strata is not a list"),
        (b'[[allow]]\nengine = "podman"\naccess = "w"', "access must be"),
        (b'[[allow]]\nengine = "podman"\npull = "yes"', "pull must be"),
        (b'[[allow]]\nengine = "podman"\nhistory = 1', "history must be"),
        (b'[[allow]]\nengine = "podman"\nnamespaces = ["x"]', "namespaces are for Kubernetes"),
        (b"[[allow]", "not valid TOML"),
        (b"\xff", "not valid TOML"),
    ],
)
def test_refuses_what_it_does_not_understand(text: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_policy(text)


def test_an_empty_rule_set_is_the_default() -> None:
    assert allowed(parse_policy(b""), PODMAN, "app:/data")


@pytest.mark.root
def test_reads_a_file_of_root_s(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[[allow]]\nengine = "podman"\nstrata = ["a"]\n')
    path.chmod(0o644)
    policy = load_policy(path)
    assert allowed(policy, PODMAN, "a:/data")
    assert not allowed(policy, PODMAN, "b:/data")


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_refuses_a_file_that_others_can_write(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    path.chmod(mode)
    with pytest.raises(UsageError, match="can be written by others"):
        load_policy(path)


@pytest.mark.root
def test_refuses_another_owner_s_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    os.chown(path, 1000, 0)
    with pytest.raises(UsageError, match="owned by user 1000"):
        load_policy(path)


@pytest.mark.root
def test_refuses_what_is_no_file_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        load_policy(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(UsageError, match="not a regular file"):
        load_policy(fifo)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (2 << 20))
    huge.chmod(0o644)
    with pytest.raises(UsageError, match="larger than"):
        load_policy(huge)
