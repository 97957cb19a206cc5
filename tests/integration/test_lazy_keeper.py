"""The keeper of gates and its worker: killed, replaced and spoken to while what is read is fetched."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratum.api import mounting
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import BusyError, StratumError, UsageError
from stratum.mount.gate import ask_keeper, gate_layers
from stratum.mount.gatewire import reachable, socket_path
from stratum.mount.plan import Gate
from stratum.store import Store
from stratum.sys import fuse, mountinfo
from stratum.sys.packets import MAX_PACKET
from tests.support import hydrating, keepers
from tests.support.command import SCRIPT, Command
from tests.support.lazily import Far, Lazily, until
from tests.support.leftovers import unmount_below

pytestmark = [pytest.mark.root, pytest.mark.registry]

MOUNTS = 50 if os.environ.get("STRATUM_TEST_LAZY") == "all" else 10


@pytest.fixture
def lazily(tmp_path: Path, far: Far) -> Iterator[Lazily]:
    with Lazily(tmp_path, far) as mounted:
        yield mounted
        unmount_below(tmp_path)


@pytest.fixture
def hasty(lazily: Lazily, monkeypatch: pytest.MonkeyPatch) -> Lazily:
    """Its keeper ends as soon as there are no mounts, and not after ten seconds."""
    lazily.cli.ok("unmount", lazily.mnt)
    hydrating.stop(lazily.run)
    keepers.hurry(monkeypatch)
    keepers.mount(lazily.cli, "app:v1", lazily.mnt)
    return lazily


def connections(run: Path) -> list[dict[str, Any]]:
    """What the keeper serves; nothing where there is none."""
    return [each for answer in ask_keeper(run, {"op": "list"}) for each in answer["connections"]]


def fuse_connections() -> set[str]:
    """The kernel's FUSE connections: minor numbers of their filesystems."""
    return set(os.listdir("/sys/fs/fuse/connections"))


def waits(pid: int) -> bool:
    """Whether a process has a thread that waits for an answer from a FUSE server."""
    try:
        tasks = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        return any("request_wait_answer" in Path(f"/proc/{pid}/task/{tid}/wchan").read_text() for tid in tasks)
    except OSError:
        return False


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_readers_that_wait_do_not_notice_that_the_worker_is_killed(lazily: Lazily, far: Far) -> None:
    far.slow.tell(delay=1.0)
    reading = lazily.start(far.group(0), threads=8)
    until(lambda: waits(reading.process.pid))
    before = hydrating.worker(lazily.run)
    hydrating.kill(before)
    assert not reading.finish()
    assert hydrating.worker(lazily.run) not in (None, before)


def test_readers_that_wait_do_not_notice_that_the_keeper_is_killed(lazily: Lazily, far: Far) -> None:
    """The worker starts another, and hands over what it has."""
    far.slow.tell(delay=1.0)
    reading = lazily.start(far.group(1), threads=8)
    until(lambda: waits(reading.process.pid))
    before = hydrating.processes(lazily.run)
    hydrating.kill(before[0])
    assert not reading.finish()
    until(lambda: len(hydrating.processes(lazily.run)) == 2)
    assert not set(before) & set(hydrating.processes(lazily.run))
    assert [each["commit"] for each in connections(lazily.run)] == [far.commit]


def test_where_both_are_killed_what_is_here_can_be_read_and_the_rest_fails_at_once(lazily: Lazily, far: Far) -> None:
    here, unreal = far.group(7), far.group(1)  # what is ahead of the one is not the other
    assert not lazily.read(here)
    far.slow.tell(delay=30.0)
    reading = lazily.start(unreal[:4], threads=4)
    until(lambda: waits(reading.process.pid))
    hydrating.kill(*hydrating.processes(lazily.run))
    started = time.monotonic()
    failed = reading.finish()
    assert set(failed) == set(unreal[:4])
    assert set(failed.values()) <= {errno.ENOTCONN, errno.EIO, errno.ECONNABORTED}
    assert not lazily.read(here)
    assert set(lazily.read(unreal[4:8])) == set(unreal[4:8])
    assert time.monotonic() - started < 25, "the registry takes longer"


def test_a_worker_of_the_code_on_disk_takes_over_in_a_storm_of_reads(lazily: Lazily, far: Far) -> None:
    far.slow.tell(delay=0.02)
    reading = lazily.start([path for path in far.sums if "/" in path], threads=16)
    workers = {hydrating.worker(lazily.run)}
    for _ in range(4):
        time.sleep(0.1)
        replaced = set(workers)
        (answer,) = ask_keeper(lazily.run, {"op": "restart-worker"})
        workers.add(answer["worker"])
        until(lambda new=workers - replaced: hydrating.worker(lazily.run) in new)  # the old one is reaped
    assert not reading.finish()
    assert len(workers) == 5


def test_a_worker_that_does_not_answer_is_replaced(lazily: Lazily, far: Far) -> None:
    """One that is stopped looks like one that hangs. The real limit is 30 s, so the keeper here is another."""
    hydrating.stop(lazily.run)
    program = (
        "import sys; sys.path[:] = {path!r}; from stratum.hydrate import keeper; keeper.Keeper.PING = 0.2; "
        "keeper.Keeper.PATIENCE = 1.0; keeper.main({settings!r})"
    )
    settings = {"runtime_dir": str(lazily.run), "start": True}
    subprocess.run([sys.executable, "-IS", "-c", program.format(path=sys.path, settings=settings)], check=True)
    other = lazily.mnt.with_name("other")
    lazily.cli.ok("mount", "app:v1", other)
    stopped = hydrating.worker(lazily.run)
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    path = far.group(3)[0]
    assert (other / path).stat().st_size == len((far.tree / path).read_bytes())
    assert (other / path).read_bytes() == (far.tree / path).read_bytes()
    assert hydrating.worker(lazily.run) != stopped
    lazily.cli.ok("unmount", other)


def test_two_that_mount_start_one_keeper(tmp_path: Path, far: Far) -> None:
    with Lazily(tmp_path, far) as lazily:
        lazily.cli.ok("unmount", lazily.mnt)
        hydrating.stop(lazily.run)
        places = [tmp_path / f"mnt{number}" for number in range(6)]
        mounting = [threading.Thread(target=lazily.cli.ok, args=("mount", "app:v1", place)) for place in places]
        for thread in mounting:
            thread.start()
        for thread in mounting:
            thread.join()
        assert len(connections(lazily.run)) == len(places)
        running = [pid for pid in all_processes() if str(lazily.run) in command(pid) and "keeper" in command(pid)]
        assert running == [hydrating.keeper(lazily.run)]
        for place in places:
            assert (place / "tiny").read_bytes() == b"ten bytes!"
        unmount_below(tmp_path)


def test_the_socket_of_a_killed_keeper_is_replaced(lazily: Lazily, far: Far) -> None:
    hydrating.kill(*hydrating.processes(lazily.run))
    assert os.path.lexists(socket_path(lazily.run))
    assert connections(lazily.run) == []
    other = lazily.mnt.with_name("other")
    lazily.cli.ok("mount", "app:v1", other)
    assert (other / "tiny").read_bytes() == b"ten bytes!"


def test_a_keeper_without_mounts_ends_and_removes_its_socket(hasty: Lazily) -> None:
    pids = hydrating.processes(hasty.run)
    assert len(pids) == 2
    hasty.cli.ok("unmount", hasty.mnt)
    until(lambda: not os.path.lexists(socket_path(hasty.run)))
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_mounts_and_unmounts_leave_no_process_descriptor_or_connection(lazily: Lazily) -> None:
    keeper, worker = hydrating.processes(lazily.run)
    other, before = lazily.mnt.with_name("other"), fuse_connections()
    lazily.cli.ok("mount", "app:v1", other)
    lazily.cli.ok("unmount", other)
    until(lambda: len(connections(lazily.run)) == 1)
    time.sleep(0.1)
    open_before = [descriptors(keeper), descriptors(worker)]
    for _ in range(MOUNTS):
        lazily.cli.ok("mount", "app:v1", other)
        assert (other / "tiny").read_bytes() == b"ten bytes!"
        lazily.cli.ok("unmount", other)
    until(lambda: len(connections(lazily.run)) == 1)
    until(lambda: descriptors(keeper) <= open_before[0] and descriptors(worker) <= open_before[1])
    assert hydrating.processes(lazily.run) == [keeper, worker]
    assert fuse_connections() == before


def test_a_mounter_that_is_killed_leaves_nothing(lazily: Lazily, far: Far) -> None:
    """Between the handing over and the mount: the filesystem ends with its last descriptor."""
    before = fuse_connections()
    child = os.fork()
    if child == 0:
        with gate_layers(gate_of(lazily), "stratum-test"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: len(connections(lazily.run)) == 1)
    assert fuse_connections() == before


def gate_of(lazily: Lazily, **changes: Any) -> Gate:
    store = lazily.cli.store
    places = {"landing": store / "landing", "ahead": store / "ahead", "runtime_dir": lazily.run}
    fields = {"store": store, "commit": lazily.far.commit, **places}
    return Gate(**{**fields, **changes})


def test_a_commit_that_is_not_there_is_refused_with_words(lazily: Lazily) -> None:
    before = fuse_connections()
    with (
        pytest.raises(StratumError, match="nosuch"),
        gate_layers(gate_of(lazily, store=lazily.cli.store / "nosuch"), "stratum-test"),
    ):
        pass
    until(lambda: fuse_connections() == before)
    assert len(connections(lazily.run)) == 1


def test_what_the_keeper_says(lazily: Lazily, far: Far) -> None:
    (served,) = connections(lazily.run)
    assert served["commit"] == far.commit
    assert served["store"] == str(lazily.cli.store)
    assert served["source"].startswith("stratum-")
    assert served["source"].endswith(":app:v1")
    with pytest.raises(BusyError, match="1 mounts"):
        ask_keeper(lazily.run, {"op": "stop"})
    assert not lazily.read(["tiny"])
    shown = [each for answer in ask_keeper(lazily.run, {"op": "status"}) for each in answer["connections"]]
    assert [(each["id"], each["fetcher"]["commit"]) for each in shown] == [(served["id"], far.commit)]


def test_a_keeper_that_is_told_to_stop_stops(lazily: Lazily) -> None:
    pids = hydrating.processes(lazily.run)
    ask_keeper(lazily.run, {"op": "stop", "force": True})
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert not os.path.lexists(socket_path(lazily.run))


def test_sigterm_ends_it_in_order(lazily: Lazily) -> None:
    pids = hydrating.processes(lazily.run)
    os.kill(pids[0], signal.SIGTERM)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xff\xfe",
        b"[" * 50_000,
        b"x" * (MAX_PACKET + 5),
        b"{}",
        b'{"op": "nosuch"}',
        b'{"op": "serve"}',
        b'{"op": "serve", "id": "a/b", "source": "s", "gate": {}}',
        b'{"op": ["list"]}',
        b'{"op": "status", "id": 7}',
    ],
)
def test_garbage_ends_nothing(lazily: Lazily, packet: bytes) -> None:
    keeper, worker = hydrating.processes(lazily.run)
    time.sleep(0.1)  # who asked for the processes is gone by then
    before = [descriptors(keeper), descriptors(worker)]
    device, mount = fuse.mount_detached()
    file = os.memfd_create("x")
    for fds in ([], [device], [file], [file] * 20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, reachable(lazily.run) as path:
            client.connect(path)
            client.settimeout(10)
            socket.send_fds(client, [packet], fds)
            client.shutdown(socket.SHUT_WR)
            told = client.recv(MAX_PACKET)
            assert not told or "error" in json.loads(told) or packet.startswith(b'{"op": "status"')
    for fd in (device, mount, file):
        os.close(fd)
    assert hydrating.processes(lazily.run) == [keeper, worker]
    until(lambda: descriptors(keeper) <= before[0] and descriptors(worker) <= before[1])
    assert not lazily.read(["tiny"])


def test_what_is_no_fuse_device_is_refused(lazily: Lazily) -> None:
    request = {"op": "serve", "id": "x", "source": "s", "gate": {"store": "/s", "commit": "c"}}
    with open("/dev/null", "rb") as file, pytest.raises(UsageError, match="/dev/fuse"):
        ask_keeper(lazily.run, request, [file.fileno()])


def test_others_than_root_cannot_ask(lazily: Lazily) -> None:
    program = """
import os, socket
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    s.connect("hydrate.sock")
    s.send(b'{"op": "list"}')
    print(s.recv(10))
except PermissionError:
    print("not let in")
except (BrokenPipeError, ConnectionResetError):
    print("hung up")
"""

    def told() -> str:
        run = [sys.executable, "-c", program]
        return subprocess.run(run, cwd=lazily.run, capture_output=True, text=True, check=True).stdout

    lazily.run.chmod(0o755)
    assert told() == "not let in\n"
    os.chmod(socket_path(lazily.run), 0o777)  # and where somebody opened it, the keeper looks who it is
    assert told() in ("hung up\n", "b''\n")
    assert not lazily.read(["tiny"])


def test_a_client_that_says_nothing_is_let_go(hasty: Lazily) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, reachable(hasty.run) as path:
        client.connect(path)
        client.settimeout(40)
        assert client.recv(10) == b""


def test_what_an_engine_left_open_for_its_hook_is_closed(lazily: Lazily) -> None:
    """Whoever waits for the end of it would wait as long as anything is mounted."""
    lazily.cli.ok("unmount", lazily.mnt)
    hydrating.stop(lazily.run)
    reading, writing = os.pipe()
    subprocess.run(
        [SCRIPT, "mount", "app:v1", lazily.mnt], env=lazily.cli.environment, pass_fds=[writing], check=True, timeout=60
    )
    os.close(writing)
    assert len(connections(lazily.run)) == 1
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_store_that_nobody_reads_is_left_alone(tmp_path: Path, far: Far) -> None:
    """Its disk can be unmounted while mounts of other stores are served."""
    with Lazily(tmp_path / "one", far) as lazily:
        cli = Command(tmp_path / "two", lazily.run)
        cli.ok("pull", "--lazy", far.reference, "app:v1")
        other = tmp_path / "mnt"
        cli.ok("mount", "app:v1", other)
        assert (other / "tiny").read_bytes() == b"ten bytes!"
        worker = hydrating.worker(lazily.run)
        assert any(str(tmp_path / "two") in link for link in links(worker))
        cli.ok("unmount", other)
        until(lambda: not [link for link in links(worker) if str(tmp_path / "two") in link])
        cli.ok("mount", "app:v1", other)
        assert (other / "tiny").read_bytes() == b"ten bytes!"
        cli.ok("unmount", other)


def links(pid: int | None) -> list[str]:
    """What a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_live_switch_keeps_what_was_said_for_the_mount(tmp_path: Path, far: Far) -> None:
    """Another mount is made of it, with a filesystem of its own; the old one's ends."""
    with Lazily(tmp_path, far, worktree=True) as lazily:
        lazily.cli.ok("unmount", lazily.mnt)
        session = Session(load_config(lazily.cli.environment))
        mounting.mount(session, "app+dev", str(lazily.mnt), options={"prefetch": "none"})
        first = connections(lazily.run)
        assert [each["options"] for each in first] == [["prefetch"]]
        (lazily.mnt / "new").write_text("x")
        lazily.cli.ok("commit", "app+dev")
        lazily.cli.ok("reset", "app+dev")
        until(lambda: len(connections(lazily.run)) == 1)
        assert connections(lazily.run)[0]["id"] != first[0]["id"]
        assert connections(lazily.run)[0]["source"] == first[0]["source"]
        assert connections(lazily.run)[0]["options"] == ["prefetch"]
        assert not lazily.read(far.group(0)[:3])


# Healing


def kill_both(lazily: Lazily) -> None:
    hydrating.kill(*hydrating.processes(lazily.run))


def test_reconcile_gives_mounts_a_gate_that_is_served_and_programs_go_on(tmp_path: Path, far: Far) -> None:
    with Lazily(tmp_path, far, worktree=True) as lazily:
        (lazily.mnt / "own").write_text("mine")
        with (lazily.mnt / "log").open("a") as log:
            kill_both(lazily)
            assert set(lazily.read(far.group(0)[:2])) == set(far.group(0)[:2])
            lazily.cli.ok("reconcile")
            assert (lazily.mnt / "own").read_text() == "mine"
            log.write("goes on")
        assert (lazily.mnt / "log").read_text() == "goes on"
        (lazily.mnt / "new").write_text("written after")
        assert not lazily.read(far.sums, threads=8)
        (record,) = lazily.cli.json("status")[0]["worktrees"][0]["mounts"]
        assert record["gate"] is True
        lazily.cli.ok("commit", "app+dev")
        lazily.cli.ok("unmount", lazily.mnt)
        lazily.cli.ok("mount", "app+dev", lazily.mnt)
        assert [(lazily.mnt / name).read_text() for name in ("own", "log", "new")] == [
            "mine",
            "goes on",
            "written after",
        ]


def test_reconcile_leaves_mounts_alone_whose_gate_is_served(lazily: Lazily) -> None:
    before = connections(lazily.run)
    lazily.cli.ok("reconcile")
    assert connections(lazily.run) == before


def test_reconcile_mends_a_mount_of_a_tag_and_its_copies(lazily: Lazily, far: Far) -> None:
    """A bind mount of it, one of a directory in it, and one in another mount namespace, read-only as they were."""
    whole, part = lazily.mnt.with_name("whole"), lazily.mnt.with_name("part")
    for place, source in ((whole, lazily.mnt), (part, lazily.mnt / "d4")):
        place.mkdir()
        subprocess.run(["mount", "--bind", source, place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,noexec", whole], check=True)
    path = far.group(4)[1]
    elsewhere = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"echo there; read _; cat {whole / path} | sha256sum"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert elsewhere.stdout is not None
    assert elsewhere.stdout.readline() == "there\n"
    kill_both(lazily)
    lazily.cli.ok("reconcile")
    assert hashlib.sha256((part / path.partition("/")[2]).read_bytes()).hexdigest() == far.sums[path]
    assert elsewhere.communicate("go\n")[0].split()[0] == far.sums[path]
    assert hashlib.sha256((whole / far.group(4)[2]).read_bytes()).hexdigest() == far.sums[far.group(4)[2]]
    entry = mountinfo.topmost(whole)
    assert entry is not None
    assert {"ro", "noexec"} <= set(entry.options.split(","))
    until(lambda: len(connections(lazily.run)) == 1)


def test_reconcile_gives_a_gate_to_a_mount_that_has_none(lazily: Lazily, far: Far) -> None:
    """Made when its commit was here whole; then objects went."""
    lazily.cli.ok("unmount", lazily.mnt)
    lazily.cli.ok("realize", "app:v1")
    lazily.cli.ok("mount", "app:v1", lazily.mnt)
    assert connections(lazily.run) == []
    store = Store.open(lazily.cli.store)
    with store.begin("test") as tx:
        store.sources.set_partial(tx, far.commit)
    for path in (lazily.cli.store / "objects").glob("??/*"):
        path.unlink()
    lazily.cli.ok("reconcile")
    lazily.everything_is_right()
