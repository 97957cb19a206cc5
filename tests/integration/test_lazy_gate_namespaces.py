"""The gate across namespaces: for a container's users, for readers that have no number here, and without privilege."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.mount import build
from stratum.mount.gate import GateLayers
from stratum.mount.idmap import IdMap, build_idmapped
from stratum.mount.plan import Gate, MountPlan
from tests.support.gates import Gated

pytestmark = pytest.mark.root

RANDOM = random.Random(7)
LARGE = RANDOM.randbytes(20 << 20)
FILES = {"a": RANDOM.randbytes(5_000), "b": RANDOM.randbytes(300_000), "c": RANDOM.randbytes(70_000), "large": LARGE}
READ = "sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"


def test_an_idmapped_mount_has_a_gate_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with user_namespace() as namespace:

        class Idmapped(Gated):
            def build(self, mount: int) -> int:
                @contextlib.contextmanager
                def ours(gate: Gate, source: str) -> Iterator[GateLayers]:
                    with (
                        build.closing(self.gate_directory(mount, "ask")) as ask,
                        build.closing(self.gate_directory(mount, "err")) as err,
                    ):
                        yield GateLayers(mount, ask, err)

                monkeypatch.setattr("stratum.mount.gate.gate_layers", ours)
                directory = self.place / "worktree"
                for name in ("upper", "work"):
                    (directory / name).mkdir(parents=True)
                ahead = self.place / "ahead"
                ahead.mkdir()
                gate = Gate(self.store.root, self.commit, self.landing, ahead, self.place, {}, {})
                layers = self.store.objects.layers
                plan = MountPlan(self.image, layers, directory / "upper", directory / "work", gate=gate)
                with build.closing(os.open(f"/proc/{namespace.pid}/ns/user", os.O_RDONLY)) as fd:
                    return build_idmapped(plan, IdMap(fd, HOST_ROOT, HOST_ROOT))

        for directory in (tmp_path, *tmp_path.parents[:3]):
            directory.chmod(directory.stat().st_mode | 0o111)
        gated = Idmapped(tmp_path, FILES)
        try:
            script = "stat -c %u a; cat a > /dev/null; echo more >> b; chown 7 c; stat -c %u:%s b c; cmp large large"
            command = [
                "nsenter",
                f"--user=/proc/{namespace.pid}/ns/user",
                "--setuid=0",
                "--setgid=0",
                "sh",
                "-ec",
                script,
            ]
            shown = subprocess.run(command, cwd=gated.view, stdout=subprocess.PIPE, check=True)
            assert shown.stdout.decode().split() == ["0", f"0:{len(FILES['b']) + 5}", f"7:{len(FILES['c'])}"]
            assert (gated.view / "a").stat().st_uid == HOST_ROOT
            assert (gated.view / "c").stat().st_uid == HOST_ROOT + 7
            assert (gated.view / "b").read_bytes() == FILES["b"] + b"more\n"
            assert (gated.view / "large").read_bytes() == LARGE
            assert sorted(gated.fetched) == sorted(gated.digest(name).hex() for name in "ab")
        finally:
            gated.close()


HOST_ROOT = 100000


@contextlib.contextmanager
def user_namespace() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a user namespace whose IDs 0 to 65535 are the host's from HOST_ROOT on."""
    command = ["unshare", "--user", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for kind in ("gid", "uid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {HOST_ROOT} 65536\n")
        try:
            yield process
        finally:
            process.kill()


def test_readers_of_another_pid_namespace_have_no_number_and_get_their_data(tmp_path: Path) -> None:
    class Apart(Gated):
        def make(self) -> tuple[int, int]:
            script = (
                "import os, socket, sys; from stratum.sys import fuse; "
                "socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b'x'], fuse.mount_detached())"
            )
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                command = ["unshare", "--pid", "--fork", sys.executable, "-c", script, str(theirs.fileno())]
                subprocess.run(command, pass_fds=(theirs.fileno(),), check=True)
                _, fds, _, _ = socket.recv_fds(ours, 1, 2)
            return fds[0], fds[1]

    gated = Apart(tmp_path, FILES)
    try:
        gated.remote_has(hold="")
        with gated.reader(f"signal.signal(signal.SIGURG, lambda *_: None); {READ}", "a") as reader:
            gated.waiting()
            assert [waits["pid"] for waits in gated.status()["waiting"]] == [0]
            reader.send_signal(signal.SIGURG)
            time.sleep(0.3)
            assert reader.poll() is None
            gated.remote_has(hold=None)
            assert reader.communicate() == (FILES["a"], b"")
        (gated.view / "b").chmod(0o600)  # nobody can tell what for: it is fetched
        assert (gated.view / "b").read_bytes() == FILES["b"]
        assert (gated.view / "large").read_bytes() == LARGE
        assert len(gated.fetched) == 2
    finally:
        gated.close()


def test_a_user_namespace_can_have_a_gate(tmp_path: Path) -> None:
    """Without privilege outside: the image is a directory there, with the attributes of the user's dialect."""
    script = tmp_path / "script.py"
    script.write_text(USER_SCRIPT)
    (tmp_path / "place").mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, script, tmp_path / "place"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout.decode().split() == ["True", "True", "True", "2"]


USER_SCRIPT = """
import os, sys
from pathlib import Path
from stratum.mount import build
from stratum.mount.plan import Layers, MountPlan
from stratum.tree.model import object_path
from stratum.tree.overlay import Dialect
from tests.support.gates import Gated

files = {"a": b"a" * 5000, "b": b"b" * 7000, "c": b"c" * 9000}

class ByUser(Gated):
    def build(self, mount):
        lower = self.place / "lower"
        lower.mkdir()
        for name, data in self.files.items():
            (lower / name).touch()
            os.truncate(lower / name, len(data))
            os.setxattr(lower / name, "user.overlay.metacopy", b"")
            os.setxattr(lower / name, "user.overlay.redirect", b"/" + object_path(self.digest(name)))
        data = [self.store.layout.objects, None, self.landing, None]
        fds = [os.open(path, os.O_PATH) if path else -1 for path in data]
        fds[1], fds[3] = self.gate_directory(mount, "ask"), self.gate_directory(mount, "err")
        upper = [os.open(self.place / name, os.O_PATH) for name in ("upper", "work")]
        image = os.open(lower, os.O_PATH)
        plan = MountPlan(lower, (self.landing,), self.place / "upper", self.place / "work", dialect=Dialect.USER)
        built = build.create_overlay(plan, Layers(image, tuple(fds), *upper), build.kernel_method())
        for fd in (*fds, *upper, image):
            os.close(fd)
        return built

gated = ByUser(Path(sys.argv[1]), files)
try:
    print((gated.view / "a").read_bytes() == files["a"])
    with (gated.view / "b").open("ab") as file:
        file.write(b"more")
    print((gated.view / "b").read_bytes() == files["b"] + b"more")
    print((gated.view / "c").stat().st_size == 9000)
    print(len(gated.fetched))
finally:
    gated.close()
"""
