"""The volume plugin of an ordinary user: strata as named volumes of rootless Podman."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from socket import AF_UNIX, socket

import pytest
import tomllib

from tests.support.command import SCRIPT
from tests.support.lazily import LARGE, Far
from tests.support.rootless import User

pytestmark = [pytest.mark.root, pytest.mark.podman]


@contextmanager
def plugin(user: User, *, passed: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A running ``stratum volume-plugin``, ended with the block. Its socket may be ``passed``, as by systemd."""
    place = user.runtime / "stratum/volume-plugin.sock"
    with socket(AF_UNIX) as listener:
        line, fds = f"exec {SCRIPT} volume-plugin", []
        if passed:
            listener.bind(str(place))
            listener.listen()
            os.chown(place, user.uid, user.uid)
            line, fds = f"exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ {line}", [listener.fileno()]
        process = user.start("bash", "-c", line, stderr=subprocess.PIPE, pass_fds=fds)
    with process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"listening at {place}\n"
            yield process
            process.terminate()
            process.wait(40)
        finally:
            process.kill()


def test_volumes_of_a_user_are_seen_by_containers_and_committed(user: User) -> None:
    assert "tells Podman of it" in user.stratum("volume-plugin", "--install").stderr
    settings = user.home / ".config/containers/containers.conf.d/stratum-volumes.conf"
    plugins = {"stratum": f"{user.runtime}/stratum/volume-plugin.sock"}
    assert tomllib.loads(settings.read_text()) == {"engine": {"volume_plugins": plugins}}
    user.run("sh", "-ec", "mkdir src; echo first >src/one")
    user.ok("import", "src", "app:v1")
    image = user.import_image()

    def run(script: str) -> str:
        line = ["run", "--rm", "--network", "none", "-v", "vol:/data", image, "sh", "-ec", f"cd /data; {script}"]
        return user.podman(*line).stdout

    with plugin(user) as process:
        user.podman("volume", "create", "--driver", "stratum", "--opt", "ref=app+dev", "--opt", "create=app:v1", "vol")
        assert run("cat one; echo two >two; chown 5:6 two; rm one") == "first\n"
        assert {(c["kind"], c["path"]) for c in user.json("diff", "app:v1", "app+dev")} >= {
            ("added", "/two"),
            ("deleted", "/one"),
        }
        assert "[volume vol was unmounted]" in user.ok("log", "app+dev")
        assert run("stat -c %u:%g two") == "5:6\n"
        assert user.json("status", "app+dev")[0]["worktrees"][0]["mounts"] == []

        os.kill(process.pid, signal.SIGSTOP)  # it learns it later than Podman
        (keeper,) = [pid for pid, line in user.processes().items() if "catatonit" in line]
        os.kill(keeper, signal.SIGKILL)
        user.podman("ps")
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(40) == 0, "it has nothing to do where Podman is no more"
    with plugin(user, passed=True):
        assert run("ls; stat -c %u:%g two; echo 3 >three") == "two\n5:6\n"
    assert "[volume vol was unmounted]" in user.ok("log", "app+dev")
    assert "/three" in {change["path"] for change in user.json("diff", "app:v1", "app+dev")}


def test_containers_read_what_is_not_here(user: User, far: Far) -> None:
    user.run("mkdir", "-p", ".config/stratum", ".config/containers")
    user.run("tee", ".config/stratum/config.toml", input=f'registry = "{far.slow.host}/team"\nprefetch = "none"\n')
    user.run("tee", ".config/containers/storage.conf", input='[storage]\ndriver = "overlay"\n')
    user.ok("volume-plugin", "--install")
    user.ok("hook", "install", "--force")
    image = user.import_image()
    look = ["--rm", "--network", "none", image, "sh", "-ec", f"cd /data; sha256sum d0/f07 {LARGE}"]
    right = f"{far.sums['d0/f07']}  d0/f07\n{far.sums[LARGE]}  {LARGE}\n"
    annotation = "stratum.dev/volume.a=app:v1:/data:lazy"
    assert user.podman("run", "--annotation", annotation, *look).stdout == right
    user.ok("remove", "app:v1")
    user.ok("gc")
    with plugin(user):
        user.podman("volume", "create", "--driver", "stratum", "--opt", "ref=app:v1", "--opt", "lazy=", "vol")
        assert user.podman("run", "-v", "vol:/data", *look).stdout == right
    assert far.slow.ranges()
