"""The volume plugin: strata as named volumes of the real Podman, and what its socket makes of bad calls."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stratum.sys.locks import FileLock
from tests.e2e.podman_env import PodmanEnv
from tests.support.command import SCRIPT, Command

pytestmark = [pytest.mark.root, pytest.mark.podman]


class Plugin:
    """A running ``stratum volume-plugin``."""

    def __init__(self, cli: Command, path: Path) -> None:
        self.cli = cli
        self.path = path
        self.said = ""
        """What it printed, of those that have ended."""
        self.start()

    def start(self) -> None:
        line = [SCRIPT, "volume-plugin", "--socket", self.path]
        self.process = subprocess.Popen(line, env=self.cli.environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == f"listening at {self.path}\n"

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)  # nothing where it has ended
        self.said += self.process.communicate(timeout=30)[1] or ""
        return self.process.returncode

    def call(
        self, name: str, body: Any, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """One call: the HTTP status and the answer."""
        connection = http.client.HTTPConnection("plugin")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(30)
        connection.sock.connect(str(self.path))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, f"/{name}", data, headers or {})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return response.status, json.loads(text) if text.startswith(b"{") else {}

    def ok(self, name: str, **body: Any) -> dict[str, Any]:
        status, answer = self.call(f"VolumeDriver.{name}", body)
        assert (status, answer["Err"]) == (200, "")
        return answer

    def refused(self, name: str, **body: Any) -> str:
        status, answer = self.call(f"VolumeDriver.{name}", body)
        assert status == 500
        return str(answer["Err"])


@pytest.fixture
def plugin(cli: Command, tmp_path: Path) -> Iterator[Plugin]:
    """The plugin of a store with ``app:latest``, one file; at the end nothing is mounted."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("first\n")
    cli.ok("import", "--bare", source, "app")
    # Short, because socket paths are limited to 108 bytes.
    path = Path("/tmp") / f"stratum-plugin.{os.getpid()}.sock"
    running = Plugin(cli, path)
    yield running
    assert running.stop() == 0
    assert not path.exists()
    state = cli.runtime_dir / "state"
    assert not state.exists() or json.loads(state.read_text())["mounts"] == []
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))


def moves(cli: Command) -> list[str]:
    """Why the head of app+main moved, oldest first, its making left out."""
    entries = [json.loads(line) for line in (cli.store / "refs/app/log.jsonl").read_text().splitlines()]
    return [e["why"] for e in entries if (e["kind"], e["which"]) == ("worktree", "main") and e["old"] is not None]


def test_a_volume_with_a_history(engine: PodmanEnv, cli: Command, plugin: Plugin) -> None:
    engine.use_volume_plugin("stratum", plugin.path)
    create = ["volume", "create", "--driver", "stratum", "--opt", "ref=app+main", "--opt", "history"]
    engine.podman(*create, "app.kept")
    script = "echo 1 > /data/one; echo 2 > /data/one; rm /data/one"
    engine.run("--rm", "-v", "app.kept:/data", engine.image, "sh", "-ec", script)
    ops = [line["op"] for line in cli.json("history", "app", "/one") if line["op"] not in ("commit", "base")]
    assert ops[0] == "delete", "it is there once the volume is unmounted"
    engine.podman("volume", "rm", "app.kept")
    refused = engine.podman(*create[:-3], "ref=app:latest", "--opt", "history", "broken", check=False)
    assert "'history' needs a worktree" in refused.stderr
    cli.ok("watch", "--stop")


def test_podman_volumes(engine: PodmanEnv, cli: Command, plugin: Plugin) -> None:
    engine.use_volume_plugin("stratum", plugin.path)
    create = ["volume", "create", "--driver", "stratum"]
    engine.podman(*create, "--opt", "ref=app+main", "--opt", "tag=kept", "app.main")
    engine.podman(*create, "--opt", "ref=app:latest", "app.seed")
    engine.podman("volume", "inspect", "app.main")
    done = engine.run(
        "--rm", "-v", "app.main:/data", "-v", "app.seed:/seed", engine.image,
        "sh", "-ec", "cat /data/one /seed/one; echo new > /data/new; ! touch /seed/x",
    )  # fmt: skip
    assert done.stdout == "first\nfirst\n"
    assert moves(cli) == ["volume app.main was unmounted"]
    assert [c["path"] for c in cli.json("diff", "app:latest", "app:kept") if c["kind"] == "added"] == ["/new"]

    for name in ("left", "right"):
        engine.run("-d", "--name", name, "-v", "app.main:/data", engine.image, "sleep", "1000")
        engine.podman("exec", name, "touch", f"/data/{name}")
    engine.remove("left")
    assert len(moves(cli)) == 1
    assert engine.podman("exec", "right", "ls", "/data").stdout.split() == ["left", "new", "one", "right"]
    engine.remove("right")
    assert len(moves(cli)) == 2
    engine.podman("volume", "rm", "app.main", "app.seed")
    refused = engine.podman(*create, "--opt", "ref=none", "broken", check=False)
    assert refused.returncode != 0
    assert "there is no stratum none" in refused.stderr
    plugin.stop()
    [line] = plugin.said.splitlines()  # what went well says nothing
    assert "there is no stratum none" in line


def test_the_calls(cli: Command, plugin: Plugin) -> None:
    assert plugin.call("Plugin.Activate", {})[1] == {"Implements": ["VolumeDriver"], "Err": ""}
    assert plugin.ok("Capabilities")["Capabilities"] == {"Scope": "local"}
    opts = {"ref": "game+alice", "create": "app:latest"}
    for _ in range(2):
        plugin.ok("Create", Name="save", Opts=opts)
    assert "with other options" in plugin.refused("Create", Name="save", Opts={"ref": "app"})
    assert plugin.ok("Get", Name="save")["Volume"]["Mountpoint"] == ""
    place = Path(plugin.ok("Mount", Name="save", ID="a")["Mountpoint"])
    assert plugin.ok("Mount", Name="save", ID="b")["Mountpoint"] == str(place)
    (place / "new").write_text("x")
    assert plugin.ok("Path", Name="save")["Mountpoint"] == str(place)
    assert [volume["Name"] for volume in plugin.ok("List")["Volumes"]] == ["save"]
    assert "is mounted" in plugin.refused("Remove", Name="save")
    plugin.ok("Unmount", Name="save", ID="a")
    assert (place / "new").exists()
    plugin.ok("Unmount", Name="save", ID="b")
    assert not place.exists()
    assert [c["path"] for c in cli.json("diff", "app:latest", "game+alice") if c["kind"] == "added"] == ["/new"]
    plugin.ok("Unmount", Name="save", ID="b")
    plugin.ok("Remove", Name="save")
    assert "there is no volume save" in plugin.refused("Get", Name="save")
    assert cli.json("worktree", "list", "game")[0]["worktree"] == "game+alice"
    assert cli("fsck").code == 0


def test_a_damaged_record_is_in_nobodys_way(cli: Command, plugin: Plugin) -> None:
    for name in ("bad", "good"):
        plugin.ok("Create", Name=name, Opts={"ref": "app"})
    record = cli.store / "volumes/bad.json"
    record.write_text(record.read_text().replace("app", "etc"))
    assert [volume["Name"] for volume in plugin.ok("List")["Volumes"]] == ["good"]
    assert "changed after it was written" in plugin.refused("Mount", Name="bad", ID="a")
    checked = cli("fsck")
    assert checked.code == 5
    assert "volumes/bad.json" in checked.stdout
    cli("fsck", "--repair")
    assert cli("fsck").code == 0
    assert "there is no volume bad" in plugin.refused("Get", Name="bad")


def test_a_volume_made_with_a_field_that_is_refused_by_now_is_told_of_and_ends(cli: Command, plugin: Plugin) -> None:
    assert "fields: {name} {worktree} {volume}" in plugin.refused(
        "Create", Name="v", Opts={"ref": "app", "tag": "at-{container}"}
    )
    plugin.ok("Create", Name="v", Opts={"ref": "app", "tag": "at-{volume}"})
    place = Path(plugin.ok("Mount", Name="v", ID="a")["Mountpoint"])
    (place / "new").write_text("x")
    (record,) = cli.json("status", "app")[0]["worktrees"][0]["mounts"]
    assert (record["holder"]["kind"], record["holder"]["id"]) == ("volume", "v")
    old = {"options": {"ref": "app", "tag": "at-{container}"}, "created": "2026"}
    (cli.store / "volumes/v.json").write_text(json.dumps(old))
    plugin.ok("Unmount", Name="v", ID="a")
    assert [c["path"] for c in cli.json("diff", "app:latest", "app:at-v") if c["kind"] == "added"] == ["/new"]
    assert "unknown field {container}" in plugin.refused("Mount", Name="v", ID="a")
    plugin.ok("Remove", Name="v")


BAD_VOLUMES = [
    ("../x", {"ref": "app"}, "not a volume name"),
    (7, {"ref": "app"}, "not a volume name"),
    ("v", None, "needs a ref"),
    ("v", {"ref": "app+none"}, "there is no worktree"),
    ("v", {"ref": "app:/etc"}, "option"),
    ("v", {"ref": "app", "create": "app;commit=never"}, "separator"),
    ("v", {"ref": "app", "size": "1G"}, "unknown option 'size'"),
    ("v", {"ref": "app:latest", "tag": "x"}, "needs a worktree"),
    ("v", {"ref": 7}, "not an object of strings"),
]


def test_volumes_that_cannot_be_made(plugin: Plugin) -> None:
    for name, opts, says in BAD_VOLUMES:
        assert says in plugin.refused("Create", Name=name, Opts=opts)
    assert plugin.ok("List")["Volumes"] == []
    plugin.ok("Create", Name="good", Opts={"ref": "app"})
    plugin.ok("Unmount", Name="good", ID="none")


def test_bad_requests(cli: Command, plugin: Plugin) -> None:
    assert "not JSON" in plugin.call("VolumeDriver.Create", b"{")[1]["Err"]
    assert "not a JSON object" in plugin.call("VolumeDriver.Create", [])[1]["Err"]
    assert "there is no call" in plugin.call("VolumeDriver.Nothing", {})[1]["Err"]
    assert "is not accepted" in plugin.call("VolumeDriver.Create", b" " * ((1 << 20) + 1))[1]["Err"]
    for length in ("-1", "many"):
        assert plugin.call("VolumeDriver.Create", b"", headers={"Content-Length": length})[0] == 400
    assert plugin.call("Plugin.Activate", b"", method="GET")[0] == 405
    assert plugin.path.stat().st_mode & 0o777 == 0o600
    second = cli("volume-plugin", "--socket", plugin.path)
    assert (second.code, second.stdout) == (4, "")
    assert "another volume plugin listens" in second.stderr


def test_calls_wait_for_their_own_volume_only_and_are_finished_before_the_end(cli: Command, plugin: Plugin) -> None:
    for name, worktree in (("held", "main"), ("free", "other")):
        plugin.ok("Create", Name=name, Opts={"ref": f"app+{worktree}", "create": "app:latest"})
    with ThreadPoolExecutor() as pool:
        with FileLock(cli.store / "refs/app/worktrees/main.lock"):
            waiting = pool.submit(plugin.ok, "Mount", Name="held", ID="a")
            plugin.ok("Mount", Name="free", ID="a")
            plugin.ok("Unmount", Name="free", ID="a")
            plugin.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                plugin.process.wait(1)
            assert not waiting.done()
        assert Path(waiting.result()["Mountpoint"]).is_dir()
    assert plugin.stop() == 0
    plugin.start()
    plugin.ok("Unmount", Name="held", ID="a")


def test_the_packages_of_the_server_are_not_there(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", tmp_path, "app")
    program = "import sys; sys.modules['uvicorn'] = None; from stratum.cli.start import main; main()"
    line = [sys.executable, "-c", program, "volume-plugin"]
    done = subprocess.run(line, env=cli.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "needs the Python package uvicorn" in done.stderr
    assert f"{sys.executable} -m pip install starlette uvicorn" in done.stderr


def test_a_killed_plugin_finds_its_mounts_again(cli: Command, plugin: Plugin) -> None:
    plugin.ok("Create", Name="v", Opts={"ref": "app+main"})
    place = Path(plugin.ok("Mount", Name="v", ID="a")["Mountpoint"])
    (place / "new").write_text("x")
    assert plugin.stop(signal.SIGKILL) == -signal.SIGKILL
    assert cli.json("reconcile") == []
    plugin.start()
    assert plugin.ok("Mount", Name="v", ID="b")["Mountpoint"] == str(place)
    plugin.ok("Unmount", Name="v", ID="a")
    assert (place / "new").exists()
    plugin.ok("Unmount", Name="v", ID="b")
    assert moves(cli) == ["volume v was unmounted"]


def test_a_reboot_is_made_up_for(cli: Command, plugin: Plugin) -> None:
    plugin.ok("Create", Name="v", Opts={"ref": "app+main"})
    place = Path(plugin.ok("Mount", Name="v", ID="a")["Mountpoint"])
    (place / "new").write_text("x")
    plugin.stop(signal.SIGKILL)
    subprocess.run(["umount", place], check=True)
    (cli.runtime_dir / "state").unlink()
    assert [done["worktree"] for done in cli.json("reconcile")] == ["app+main"]
    assert moves(cli) == ["volume v was unmounted"]
    plugin.start()
    place = Path(plugin.ok("Mount", Name="v", ID="c")["Mountpoint"])
    assert (place / "new").exists()
    plugin.ok("Unmount", Name="v", ID="c")


def test_a_volume_that_is_switched_is_committed_where_it_is(cli: Command, plugin: Plugin) -> None:
    cli.ok("worktree", "add", "app+other", "app:latest")
    plugin.ok("Create", Name="v", Opts={"ref": "app+main", "tag": "{worktree}-{volume}"})
    place = Path(plugin.ok("Mount", Name="v", ID="a")["Mountpoint"])
    (place / "before").write_text("x")
    cli.ok("worktree", "switch", "app+other", place)
    assert moves(cli) == ["volume v was unmounted"]
    (place / "after").write_text("x")
    plugin.ok("Unmount", Name="v", ID="a")
    for worktree, path in (("main", "/before"), ("other", "/after")):
        changes = cli.json("diff", "app:latest", f"app:{worktree}-v")
        assert [change["path"] for change in changes if change["kind"] == "added"] == [path]


def test_a_worktree_that_somebody_has(cli: Command, plugin: Plugin, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    cli.ok("mount", "app", tmp_path / "host")
    plugin.ok("Create", Name="v", Opts={"ref": "app+main"})
    assert "is mounted already" in plugin.refused("Mount", Name="v", ID="a")
    cli.ok("unmount", tmp_path / "host")
    plugin.ok("Mount", Name="v", ID="a")
    plugin.ok("Unmount", Name="v", ID="a")
