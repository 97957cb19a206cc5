"""The volume plugin of an ordinary user: strata as named volumes of rootless Podman."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tomllib

from tests.support.command import SCRIPT
from tests.support.rootless import User

pytestmark = [pytest.mark.root, pytest.mark.podman]


@contextmanager
def plugin(user: User) -> Iterator[subprocess.Popen[str]]:
    """A running ``stratum volume-plugin``, and what it says; ended at the end of the block."""
    with user.start(SCRIPT, "volume-plugin", stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"listening at {user.runtime}/stratum/volume-plugin.sock\n"
            yield process
            process.terminate()
            process.wait(40)
        finally:
            process.kill()


def test_volumes_of_a_user_are_seen_by_containers_and_committed(user: User) -> None:
    assert "tells Podman of it" in user.stratum("volume-plugin", "--install").stderr
    settings = user.home / ".config/containers/containers.conf.d/stratum-volumes.conf"
    socket = user.runtime / "stratum/volume-plugin.sock"
    assert tomllib.loads(settings.read_text()) == {"engine": {"volume_plugins": {"stratum": str(socket)}}}
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
    with plugin(user):
        assert run("ls; stat -c %u:%g two; echo 3 >three") == "two\n5:6\n"
    assert "[volume vol was unmounted]" in user.ok("log", "app+dev")
    assert "/three" in {change["path"] for change in user.json("diff", "app:v1", "app+dev")}
