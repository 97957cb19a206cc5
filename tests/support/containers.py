"""Containers made by hand: all that the OCI hook sees of one, without an engine."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

HOST_ROOT = 100000
"""The host's ID of user and group 0 in a container with a user namespace."""
_IDS = itertools.count(1)


class Container:
    """A process in a mount namespace of its own, perhaps in a user namespace too, with a bundle beside it, in
    ``directory``."""

    def __init__(self, directory: Path, *, user_namespace: bool = False) -> None:
        self.user_namespace = user_namespace
        self.id = f"{next(_IDS):064x}"
        self.bundle = directory / f"bundle-{self.id[-6:]}"
        self.rootfs = self.bundle / "rootfs"
        self.rootfs.mkdir(parents=True)
        (self.bundle / "config.json").write_text(json.dumps({"root": {"path": "rootfs"}, "linux": {}}))
        namespaces = ["--mount", "--user"] if user_namespace else ["--mount"]
        self.process = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        if user_namespace:
            os.chown(self.rootfs, HOST_ROOT, HOST_ROOT)
            for kind in ("gid", "uid"):
                Path(f"/proc/{self.process.pid}/{kind}_map").write_text(f"0 {HOST_ROOT} 65536\n")

    def state(self, volumes: dict[str, str] | None = None, **changes: Any) -> bytes:
        """The state JSON that a runtime would hand over."""
        annotations = {f"stratum.dev/volume.{key}": value for key, value in (volumes or {}).items()}
        table = {
            "ociVersion": "1.0.2",
            "id": self.id,
            "status": "creating",
            "pid": self.process.pid,
            "bundle": str(self.bundle),
            "annotations": {"io.container.manager": "libpod", **annotations},
        }
        return json.dumps(table | changes).encode()

    def inside(self, *command: str) -> str:
        """The output of a command that the container's root runs."""
        user = ["--user", "--setuid", "0", "--setgid", "0"] if self.user_namespace else []
        line = ["nsenter", "--mount", "--target", str(self.process.pid), *user, *command]
        done = subprocess.run(line, check=False, capture_output=True, text=True)
        if done.returncode:  # shown where it fails a test
            print(done.stderr, Path(f"/proc/{self.process.pid}/mountinfo").read_text())
        done.check_returncode()
        return done.stdout

    def stop(self) -> None:
        """Kill the container."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()
