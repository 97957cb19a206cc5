"""A private Podman: its own storage, state, locks and settings, so that no container of the machine is touched.

::

    with PodmanEnv() as podman:
        podman.run("--rm", podman.image, "echo", "hello")

Everything lives in one temporary directory, which ``close`` empties of containers and mounts and removes. The settings
are what an unprivileged virtual machine allows: runc, because Debian's crun refuses a cgroup v1/v2 hybrid; limits that
need no CAP_SYS_RESOURCE; cgroupfs, file events and file logs, because there may be no systemd; no network, because the
tests need none. The image is made from busybox-static, because there may be no registry to pull from.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.support.small import ADDRESS_SPACE, limit_hooks, programs_first

CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{directory}/tmp"
"""

STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{directory}/root"
runroot = "{directory}/run"
"""

IMAGE = "localhost/stratum-test:latest"
BUSYBOX = Path("/usr/bin/busybox")


class PodmanEnv:
    """One private Podman; ``image`` is a busybox image in it, ``hooks_dir`` (if set) is passed as ``--hooks-dir``.

    The hooks in it get ``address_space`` bytes, as on a small machine, or as much as they like.
    ``environment`` and ``prefix`` (the command line up to the verb) serve programs that call Podman themselves.
    """

    def __init__(
        self, *, runtime: str = "runc", hooks_dir: Path | None = None, address_space: int | None = ADDRESS_SPACE
    ) -> None:
        # Short, because Unix socket paths below it are limited to 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="stratum-podman."))
        self.directory.chmod(0o711)  # Podman 5 has the root of a user namespace walk through it
        self._address_space = address_space
        self.hooks_dir = hooks_dir
        self.image = IMAGE
        self._config = self.directory / "containers.conf"
        self._config.write_text(CONTAINERS_CONF.format(runtime=runtime, directory=self.directory), "utf-8")
        storage = self.directory / "storage.conf"
        storage.write_text(STORAGE_CONF.format(directory=self.directory), "utf-8")
        self.environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",  # of Podman 5, a line more beside every error
            "HOME": str(self.directory),
            "CONTAINERS_CONF": str(self._config),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "TMPDIR": str(self.directory),
        }

    def __enter__(self) -> PodmanEnv:
        try:
            self.import_image(IMAGE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def for_stratum(self) -> dict[str, str]:
        """The environment that leads Stratum to this Podman, and not to a service that the machine runs."""
        return self.environment | {"CONTAINER_HOST": "", "PATH": programs_first(self.environment["PATH"])}

    @property
    def hooks_dir(self) -> Path | None:
        """Where the hooks are."""
        return self._hooks_dir

    @hooks_dir.setter
    def hooks_dir(self, directory: Path | None) -> None:
        self._hooks_dir = directory
        if directory is not None and self._address_space is not None:
            limit_hooks(directory, self._address_space)

    @property
    def prefix(self) -> list[str]:
        """The command line up to the verb."""
        line = ["podman", "--root", f"{self.directory}/root", "--runroot", f"{self.directory}/run"]
        line += ["--tmpdir", f"{self.directory}/tmp"]
        if self.hooks_dir is not None:
            line += ["--hooks-dir", str(self.hooks_dir)]
        return line

    def podman(
        self, *args: str | Path, check: bool = True, stdin: bytes = b"", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run ``podman ARGS``; with ``check`` a failure shows Podman's own words."""
        done = subprocess.run(
            [*self.prefix, *map(str, args)],
            input=stdin,
            env=self.environment,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and args[0] == "rm" and "device or resource busy" in result.stderr and timeout > 0:
            # Podman's own cleanup, which says that it is done before it is, has a mount of the container's still.
            time.sleep(0.5)
            return self.podman("rm", "--ignore", *args[1:], timeout=timeout - 10)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(result.args)}: exit {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def run(self, *args: str | Path, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """``podman run ARGS``."""
        return self.podman("run", *args, check=check, timeout=timeout)

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start ``podman ARGS`` without waiting for it; its output goes nowhere."""
        nowhere = subprocess.DEVNULL
        line = [*self.prefix, *map(str, args)]
        return subprocess.Popen(line, env=self.environment, stdin=nowhere, stdout=nowhere, stderr=nowhere)

    def import_image(self, name: str, *, links: Mapping[str, str] | None = None) -> None:
        """Make the image ``name``: busybox with all its applets, the usual directories and the symlinks ``links``."""
        self.podman("import", "-", name, stdin=_busybox_tar(links or {}))

    def read_hooks_from(self, directory: Path) -> None:
        """Name ``directory`` in containers.conf: other than ``--hooks-dir``, that holds for restarts by Podman too."""
        if self._address_space is not None:
            limit_hooks(directory, self._address_space)
        kept = [line for line in self._config.read_text("utf-8").splitlines() if not line.startswith("hooks_dir")]
        self._config.write_text("\n".join([*kept, f'hooks_dir = ["{directory}"]', ""]), "utf-8")

    def use_volume_plugin(self, name: str, socket: Path) -> None:
        """Name a volume plugin in containers.conf."""
        kept = [line for line in self._config.read_text("utf-8").splitlines() if not line.startswith("volume_plugins")]
        self._config.write_text("\n".join([*kept, f'volume_plugins = {{ {name} = "{socket}" }}', ""]), "utf-8")

    def state(self, container: str) -> str:
        """Podman's word for what ``container`` is doing: created, running, exited ..."""
        return self.podman("inspect", "--format", "{{.State.Status}}", container).stdout.strip()

    def wait_stopped(self, container: str, timeout: float = 30) -> None:
        """Wait until the container named ``container`` has ended and Podman has cleaned up (its poststop hooks ran)."""
        deadline = time.monotonic() + timeout
        while self._busy(container):
            if time.monotonic() > deadline:
                raise AssertionError(f"{container} was not cleaned up within {timeout} s")
            time.sleep(0.05)

    def _busy(self, container: str) -> bool:
        """Whether the container's monitor runs, or a cleanup of any container (its command line has no names)."""
        monitor = f"\0-n\0{container}\0".encode()
        return any(
            monitor in line if b"conmon" in line.split(b"\0", 1)[0] else b"\0container\0cleanup\0" in line
            for _, line in self._processes()
        )

    def count_processes(self) -> int:
        """How many processes of this environment run: Podman, its monitors, its cleanups."""
        return len(self._processes())

    def _processes(self) -> list[tuple[int, bytes]]:
        """(pid, command line) of every process whose command line names this environment's directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                line = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(self.directory) in line:
                found.append((int(entry.name), line))
        return found

    def mounts(self) -> list[str]:
        """Mountpoints below this environment's directory in our mount namespace, innermost first."""
        points = []
        for line in Path("/proc/self/mountinfo").read_text("utf-8", errors="surrogateescape").splitlines():
            point = line.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            if point.startswith(f"{self.directory}/"):
                points.append(point)
        return points[::-1]

    def container_mounts(self) -> list[str]:
        """``mounts`` without that of Podman's storage on itself, which comes and goes with its commands."""
        return [point for point in self.mounts() if point != f"{self.directory}/root/overlay"]

    def remove_all(self) -> None:
        """Remove all containers and pods."""
        self.podman("pod", "rm", "--all", "--force", "--time", "0", check=False)
        self.remove("--all")

    def remove(self, container: str, timeout: float = 20) -> None:
        """Remove a container whatever it does. Podman needs a moment to notice that a killed one is dead."""
        deadline = time.monotonic() + timeout
        while (done := self.podman("rm", "--force", "--time", "0", container, check=False)).returncode != 0:
            if time.monotonic() > deadline:
                raise AssertionError(f"{container} cannot be removed: {done.stderr}")
            time.sleep(0.2)

    def close(self) -> None:
        """Remove every container, process and mount of this environment, and its directory."""
        try:
            self.remove_all()
            deadline = time.monotonic() + 10
            while self._processes() and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for point in self.mounts():
                subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
            shutil.rmtree(self.directory)


def _busybox_tar(links: Mapping[str, str]) -> bytes:
    """A root file system in a tar: busybox under all its names, and ``links``."""
    names = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"):
            archive.addfile(_directory(name, 0o1777 if name == "tmp" else 0o755))
        binary = tarfile.TarInfo("bin/busybox")
        binary.mode = 0o755
        binary.size = BUSYBOX.stat().st_size
        with BUSYBOX.open("rb") as stream:
            archive.addfile(binary, stream)
        for name in names:
            if name != "busybox":
                archive.addfile(_symlink(f"bin/{name}", "busybox"))
        for name, target in links.items():
            archive.addfile(_symlink(name, target))
    return buffer.getvalue()


def _directory(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE
    entry.mode = mode
    return entry


def _symlink(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.SYMTYPE
    entry.linkname = target
    return entry
