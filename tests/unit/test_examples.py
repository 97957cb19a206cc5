"""The examples in oci-hooks/: what they say is in the grammar of those who read them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from stratum.cli.maintenance import gc
from stratum.history.keeper import KEPT, Keeper
from stratum.podman.install import HOOK_PATH, hook_json
from stratum.volumes.policy import parse_policy
from stratum.volumes.request import PREFIX, Volume, parse_volumes
from tests.support.commandline import parse

EXAMPLES = Path(__file__).parents[2] / "oci-hooks"
CONTAINER_KEYS = {"Annotation", "ContainerName", "Environment", "Exec", "Image", "Secret", "WorkingDir"}
"""What the examples use of podman-systemd.unit(5)."""
SECTIONS = {"Unit", "Container", "Service", "Install"}

Unit = dict[str, list[tuple[str, str]]]


def parse_unit(path: Path) -> Unit:
    """Section -> (key, value) of a systemd unit file; keys may come more than once."""
    sections: Unit = defaultdict(list)
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = line.strip("[]")
        else:
            key, equals, value = line.partition("=")
            assert section
            assert equals, line
            sections[section].append((key, value))
    return sections


def volumes(unit: Unit, instance: str) -> list[Volume]:
    """The volumes of a unit, as Podman would pass them to the hook."""
    annotations = {}
    for key, value in unit["Container"]:
        if key == "Annotation":
            assert "," not in value  # Podman before 5.0 splits there
            for word in shlex.split(value.replace("%i", instance)):
                name, _, text = word.partition("=")
                assert name.startswith(PREFIX)
                annotations[name] = text
    return parse_volumes(annotations)


SERVER = EXAMPLES / "quadlet/serve.container"


@pytest.mark.parametrize("path", sorted({*(EXAMPLES / "quadlet").iterdir()} - {SERVER}), ids=lambda path: path.name)
def test_quadlet_units(path: Path) -> None:
    unit = parse_unit(path)
    assert set(unit) == SECTIONS
    assert {key for key, _ in unit["Container"]} <= CONTAINER_KEYS
    assert "Image" in dict(unit["Container"])
    assert ("After", "stratum-reconcile.service") in unit["Unit"]
    assert any(volume.commit for volume in volumes(unit, "vanilla"))


def test_the_server_is_reached_by_this_machine_alone_as_a_service_and_in_a_container() -> None:
    unit = parse_unit(SERVER)
    assert set(unit) == SECTIONS
    container = dict(unit["Container"])
    command = parse(shlex.split(container["Exec"]))
    assert command is not None
    assert container["PublishPort"].startswith("127.0.0.1:")
    service = parse_unit(EXAMPLES / "stratum-serve.service")
    assert dict(service["Service"])["ExecStart"].endswith("/stratum serve")
    text = (EXAMPLES / "stratum-serve.service").read_text()
    (line,) = [line for line in text.splitlines() if "serve --listen" in line]
    assert parse(shlex.split(line)[2:]) is not None


def test_every_stop_of_the_database_is_a_tagged_commit() -> None:
    (volume,) = volumes(parse_unit(EXAMPLES / "quadlet/database.container"), "")
    assert (str(volume.ref), volume.commit, volume.tag) == ("db+main", True, "stop-{time}")


def test_the_database_example_thins_out_just_its_own_stops() -> None:
    lines = (EXAMPLES / "quadlet/database.container").read_text().splitlines()
    (line,) = [line for line in lines if "stratum gc " in line]
    args = shlex.split(line.partition("stratum gc ")[2].partition("   ")[0])
    chosen = gc.make_context("gc", args).params
    assert (chosen["strata"], chosen["tags"]) == (("db",), ("stop-*",))
    assert (chosen["last"], chosen["daily"], chosen["monthly"]) == (10, 14, 12)
    assert " ".join(args) in " ".join((EXAMPLES / "README.md").read_text().replace("'", "").split())


def test_the_game_server_has_a_worktree_for_each_profile() -> None:
    unit = parse_unit(EXAMPLES / "quadlet/game@.container")
    for profile in ("vanilla", "modded"):
        refs = {volume.destination: (str(volume.ref), volume.read_only) for volume in volumes(unit, profile)}
        assert refs == {"/srv/game": (f"game+{profile}", False), "/srv/assets": ("game-assets:latest", True)}
        assert [volume.destination for volume in volumes(unit, profile) if volume.history] == ["/srv/game"]


def test_services_run_stratum() -> None:
    for path in EXAMPLES.rglob("*.service"):
        unit = parse_unit(path)
        started = path.with_suffix(".timer").exists()  # then that is what is enabled
        assert set(unit) == {"Unit", "Service"} | (set() if started else {"Install"})
        program, *words = shlex.split(dict(unit["Service"])["ExecStart"])
        assert program == "/opt/stratum/bin/stratum"
        assert parse(words) is not None


def test_timers_are_of_a_service_that_gets_no_more_than_it_needs() -> None:
    timers = sorted(EXAMPLES.glob("*.timer"))
    assert {path.stem for path in timers} == {
        f"stratum-{what}" for what in ("commit@", "gc", "gc-place@", "push@", "metrics", "fsck")
    }
    readme = (EXAMPLES / "README.md").read_text()
    for path in timers:
        timer = parse_unit(path)
        assert set(timer) == {"Unit", "Timer", "Install"}
        assert timer["Install"] == [("WantedBy", "timers.target")]
        unit = parse_unit(path.with_suffix(".service"))
        assert ("ConditionPathExists", "/var/lib/stratum/stratum.toml") in unit["Unit"]
        service = dict(unit["Service"])
        assert (service["Type"], service["NoNewPrivileges"]) == ("oneshot", "yes")
        assert "TimeoutStartSec" in service
        assert ("IPAddressDeny" in service) == (path.stem not in ("stratum-push@", "stratum-gc-place@"))
        assert f"`{path.name}`" in readme


@pytest.mark.parametrize("manager", ["system", "user"])
def test_units_are_what_systemd_takes(manager: str, tmp_path: Path) -> None:
    directory = EXAMPLES / "user" if manager == "user" else EXAMPLES
    for path in (*directory.glob("*.service"), *directory.glob("*.socket"), *directory.glob("*.timer")):
        text = path.read_text().replace("/opt/stratum/bin/stratum", "/bin/true")
        (tmp_path / path.name.replace("@", "@db\\x2bmain")).write_text(text)
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", f"--{manager}", "verify", "--man=no", *units],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert units
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line or "stratum-" in line] == []


def test_a_user_s_units_reach_podman_s_namespaces_and_end_nothing_in_them() -> None:
    """No sandbox that keeps set-user-ID helpers from working, and no kill of what is not theirs alone."""
    directory = EXAMPLES / "user"
    for path in directory.glob("*.service"):
        unit = parse_unit(path)
        service = dict(unit["Service"])
        assert not {key for key in service if key.startswith(("NoNew", "Restrict", "Protect", "Private", "Lock"))}
        assert not any(value.startswith(("/var", "/run", "/etc")) for _, value in unit["Unit"])
        assert service["KillMode"] == "process", "what keeps the namespaces may have been started by it"
        installed = dict(unit.get("Install", []))
        assert installed.get("WantedBy", "default.target") == "default.target"
    sockets = {path.stem: dict(parse_unit(path)["Socket"]) for path in directory.glob("*.socket")}
    assert sockets["stratum-volume-plugin"]["ListenStream"] == "%t/stratum/volume-plugin.sock"
    assert sockets["stratum-hydrate"]["ListenSequentialPacket"] == "%t/stratum/hydrate.sock"


def test_what_fetches_is_there_before_what_reads() -> None:
    unit = parse_unit(EXAMPLES / "stratum-hydrate.service")
    before = {name for key, value in unit["Unit"] if key == "Before" for name in value.split()}
    assert {"podman.service", "kubelet.service", "stratum-mounts.service"} <= before
    service = dict(unit["Service"])
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    assert int(service["FileDescriptorStoreMax"]) >= 4096


def test_what_watches_is_there_before_what_writes_and_keeps_what_it_has() -> None:
    unit = parse_unit(EXAMPLES / "stratum-watch.service")
    before = {name for key, value in unit["Unit"] if key == "Before" for name in value.split()}
    assert {"podman.service", "kubelet.service", "stratum-mounts.service", "stratum-reconcile.service"} <= before
    service = dict(unit["Service"])
    assert (service["Type"], service["Restart"], service["KillMode"]) == ("notify", "always", "mixed")
    assert int(service["FileDescriptorStoreMax"]) > len(KEPT)
    assert int(service["TimeoutStopSec"].removesuffix("s")) > Keeper.RETIRING


def test_the_policy() -> None:
    assert len(parse_policy((EXAMPLES / "policy.toml").read_bytes()).rules) == 3


@pytest.mark.parametrize("stage", ["createRuntime", "poststop"])
def test_the_hook_files_are_what_install_writes(stage: str) -> None:
    example = json.loads((EXAMPLES / f"stratum-{stage.lower()}.json").read_text())
    assert example == hook_json(
        stage, "/opt/stratum/bin/python3", ["/opt/stratum/lib/python3.11/site-packages"], {"PATH": HOOK_PATH}
    )
