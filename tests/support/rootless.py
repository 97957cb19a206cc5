"""Ordinary users, made for the tests: with IDs of their own and a Podman of their own, in places that they can read.

::

    def test_something(user: User) -> None:
        user.ok("mount", "app+dev", user.home / "app")
        user.run("ls", user.home / "app")

They are known in the mount namespace of this test process alone, where /etc has a layer over it with an /etc/passwd of
its own: test processes side by side have users each, and none stays on the machine when one is killed. There /dev/fuse
and /dev/net/tun are for everybody, as udev has them on machines where people work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stratum.sys.namespaces import CLONE_NEWNS, unshare
from tests.support.capabilities import CHECKOUT
from tests.support.command import SCRIPT, close_servers
from tests.support.leftovers import unmount_below
from tests.support.schemas import of_command, problems
from tests.support.small import limited, programs_first

NAMES = ("stratum-test", "stratum-other", "stratum-single")
"""Of the users: two with subordinate IDs, and one without."""
RANGE = 65536
FIRST_SUBID = 10_000_000
FIRST_UID = 2_000_000_000
"""Far from what people and machines use."""
DEVICES = (Path("/dev/fuse"), Path("/dev/net/tun"))
BUSYBOX_IMAGE = "localhost/stratum-test:latest"


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """One of them, in one test: HOME and XDG_RUNTIME_DIR are empty at its start and gone at its end.

    ``subids`` is the first of its ``RANGE`` subordinate IDs, 0 where it has none. ``uid`` is its group, too.
    """

    name: str
    uid: int
    subids: int
    home: Path
    runtime: Path

    @property
    def store(self) -> Path:
        """Where the store is that commands use unless told otherwise."""
        return self.home / ".local/share/stratum"

    @property
    def environment(self) -> dict[str, str]:
        """What a login would give it, nearly."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PATH": programs_first("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
            "STRATUM_CACHE_MIN_FREE": "0",  # however full the disk is that tests run on
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
            "NO_COLOR": "1",
        }

    def start(
        self,
        *argv: str | bytes | Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        umask: int = 0o022,
        **kwargs: Any,
    ) -> subprocess.Popen[str]:
        """Start a program as this user, in a session of its own. A value None in ``env`` takes a variable away."""
        environment = {key: value for key, value in {**self.environment, **(env or {})}.items() if value is not None}
        ids = {"user": self.uid, "group": self.uid, "extra_groups": []}
        own = {"cwd": cwd or self.home, "umask": umask, "start_new_session": True}
        text = {"encoding": "utf-8", "errors": "surrogateescape"}
        return subprocess.Popen(list(argv), env=environment, **{**ids, **own, **text, **kwargs})

    def run(
        self,
        *argv: str | bytes | Path,
        check: bool = True,
        timeout: float = 40,
        input: str | None = None,  # noqa: A002  (as in subprocess.run)
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this user to its end, and to that of all that keep its output open."""
        pipe = subprocess.PIPE
        with self.start(*argv, stdin=pipe, stdout=pipe, stderr=pipe, **kwargs) as process:
            try:
                out, err = process.communicate(input or "", timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if check and process.returncode != 0:
            raise AssertionError(f"{argv}: exit {process.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def stratum(
        self, *args: str | bytes | Path, check: bool = False, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run ``stratum ARGS``, as on a small machine; it may fail."""
        return self.run(*limited([SCRIPT, *args]), check=check, **kwargs)

    def ok(self, *args: str | bytes | Path, **kwargs: Any) -> str:
        """Run ``stratum ARGS``, which must succeed; its stdout without the last line break."""
        return self.stratum(*args, check=True, **kwargs).stdout.removesuffix("\n")

    def json(self, *args: str | bytes | Path, **kwargs: Any) -> Any:
        """The document that ``stratum --format json ARGS`` prints, which is as the schema of the verb says."""
        document = json.loads(self.ok("--format", "json", *args, **kwargs))
        assert not (wrong := problems(of_command(list(map(os.fsdecode, args))), document)), wrong
        return document

    def inside(self, *argv: str | bytes | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in the user's session namespace, where its mounts are and its user is 0."""
        return self.run(SCRIPT, "unshare", "--", *argv, **kwargs)

    def podman(self, *args: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run ``podman ARGS`` with the user's own storage, without waiting longer than for one that is stuck."""
        places = ["--root", self.home / "containers", "--runroot", self.runtime / "containers"]
        line = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"]
        return self.run(*line, "--events-backend", "file", *places, *args, **kwargs)

    def import_image(self) -> str:
        """Make an image of busybox with all its applets in the user's storage; its name."""
        script = "set -e; mkdir -p bin etc root tmp; cp /usr/bin/busybox bin; for name in $(busybox --list); do "
        script += "[ $name = busybox ] || ln -s busybox bin/$name; done; tar --owner=0 --group=0 -cf ../image.tar ."
        directory = self.home / "image"
        self.run("mkdir", directory)
        self.run("sh", "-c", script, cwd=directory)
        self.podman("import", self.home / "image.tar", BUSYBOX_IMAGE)
        return BUSYBOX_IMAGE

    def processes(self) -> dict[int, str]:
        """What runs as this user or as one of its subordinate users: PID -> command line."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                uid = int(_status(entry, "Uid")[0])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            subordinate = self.subids > 0 and self.subids <= uid < self.subids + RANGE
            if (uid == self.uid or subordinate) and _status(entry, "State")[0] != "Z":
                found[int(entry.name)] = command
        return found

    def end(self) -> None:
        """End all that runs as this user, and with it its namespaces and the mounts in them."""
        assert self.uid >= FIRST_UID, "nobody else's processes are ended"
        deadline = time.monotonic() + 20
        while left := self.processes():
            assert time.monotonic() < deadline, f"processes that cannot be killed: {left}"
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def _status(process: Path, key: str) -> list[str]:
    """The words after ``key`` in the status of a process in /proc."""
    for line in (process / "status").read_text("utf-8", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return line.split()[1:]
    raise FileNotFoundError(process)


class Users:
    """The users of this test process, below ``directory``. Their IDs follow from its PID."""

    def __init__(self, temporary: Path) -> None:
        self.directory = temporary / f"stratum-users.{os.getpid()}"
        self.made = 0
        for old in temporary.glob("stratum-users.*"):
            _remove_users(old)

    def make(self) -> None:
        """Make them known, and have what they need where they can reach it."""
        if "PYTEST_XDIST_WORKER" not in os.environ:  # such have a mount namespace of their own (conftest.py)
            close_servers()  # of commands, in the old one
            unshare(CLONE_NEWNS)
            _mount("--make-rprivate", "/")
        self.directory.mkdir(mode=0o755)
        files = self.directory / "etc"
        files.mkdir()
        _mount("-t", "tmpfs", "-o", "mode=755", "stratum-test", files)  # with devices, wherever the directory is
        for place in DEVICES:
            node = files / place.name
            os.mknod(node, stat.S_IFCHR | 0o666, place.stat().st_rdev)
            node.chmod(0o666)
            _mount("--bind", node, place)
        lines: dict[str, list[str]] = {"passwd": [], "group": [], "subuid": [], "subgid": []}
        for number, name in enumerate(NAMES):
            uid, subids = _ids(os.getpid(), number)
            lines["passwd"].append(f"{name}:x:{uid}:{uid}::{self.directory}:/bin/sh\n")
            lines["group"].append(f"{name}:x:{uid}:\n")
            for kind in ("subuid", "subgid"):
                lines[kind] += [f"{name}:{subids}:{RANGE}\n"] if subids else []
        for name in ("upper", "work"):
            (files / name).mkdir()
        layers = f"lowerdir=/etc,upperdir={files}/upper,workdir={files}/work"
        _mount("-t", "overlay", "-o", layers, "stratum-test", "/etc")
        for kind, added in lines.items():
            place = Path("/etc", kind)
            before = place.read_text("utf-8") if place.exists() else ""
            place.write_text(before + "".join(added), "utf-8")
            place.chmod(0o644)
        for path in (CHECKOUT, Path(sys.prefix)):
            _make_reachable(path, files)

    def user(self, name: str) -> User:
        """The user ``name`` with an empty home and an empty runtime directory."""
        uid, subids = _ids(os.getpid(), NAMES.index(name))
        self.made += 1
        place = self.directory / str(self.made)
        place.mkdir(mode=0o755)
        user = User(name, uid, subids, place / "home", place / "run")
        for directory, mode in ((user.home, 0o755), (user.runtime, 0o700)):
            directory.mkdir(mode=mode)
            os.chown(directory, uid, uid)
        return user

    def remove(self, user: User) -> None:
        """End what runs as ``user``, and remove its files."""
        user.end()
        unmount_below(user.home.parent)
        shutil.rmtree(user.home.parent)
        _remove_podmans(user.uid)

    def close(self) -> None:
        """Take everything away."""
        for place in (Path(sys.prefix), CHECKOUT):
            if (hidden := _hidden(place, self.directory / "etc")) is not None:
                subprocess.run(["umount", "--recursive", "--lazy", hidden], check=True)
        subprocess.run(["umount", "--lazy", "/etc"], check=True)
        for device in DEVICES:
            subprocess.run(["umount", "--lazy", device], check=True)
        unmount_below(self.directory)
        shutil.rmtree(self.directory)


def _ids(pid: int, number: int) -> tuple[int, int]:
    """(user ID, first subordinate ID or 0) of the user ``NAMES[number]`` of the test process ``pid``."""
    subids = FIRST_SUBID + (2 * (pid % 15_000) + number) * RANGE if number < 2 else 0
    return FIRST_UID + len(NAMES) * pid + number, subids


def _remove_users(directory: Path) -> None:
    """Remove what a test process left that was killed."""
    pid = int(directory.name.rpartition(".")[2])
    if Path(f"/proc/{pid}").exists():
        return
    for number, name in enumerate(NAMES):
        User(name, *_ids(pid, number), directory, directory).end()
        _remove_podmans(_ids(pid, number)[0])
    shutil.rmtree(directory, ignore_errors=True)


def _remove_podmans(uid: int) -> None:
    """Remove what Podman makes for who has no XDG_RUNTIME_DIR, where it chooses."""
    for name in ("podman-run", "containers-user"):
        shutil.rmtree(f"/tmp/{name}-{uid}", ignore_errors=True)


def _mount(*args: str | Path) -> None:
    subprocess.run(["mount", *args], check=True)


def _make_reachable(path: Path, scratch: Path) -> None:
    """Have everybody reach ``path``: a directory above it that is not everybody's gets one over it that is, with the
    same things in it."""
    for directory in reversed([path, *path.parents]):
        if directory.stat().st_mode & 0o005 == 0o005:
            continue
        copy = scratch / f"reach.{len(directory.parts)}"
        copy.mkdir()
        _mount("-t", "tmpfs", "-o", "mode=755", copy.name, copy)
        for entry in directory.iterdir():
            target = copy / entry.name
            if entry.is_symlink():
                target.symlink_to(os.readlink(entry))
                continue
            target.mkdir() if entry.is_dir() else target.touch()
            _mount("--bind", entry, target)
        _mount("--rbind", copy, directory)


def _hidden(path: Path, scratch: Path) -> Path | None:
    """The directory above ``path`` that has such a copy over it, if one has."""
    for directory in reversed([path, *path.parents]):
        if (scratch / f"reach.{len(directory.parts)}").exists() and directory.is_mount():
            return directory
    return None


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    """The users of this session, on the disk of its other files."""
    parents = tmp_path_factory.getbasetemp().parents  # pytest has made those below the temporary directory root's alone
    made = Users(next(place for place in parents if place.stat().st_mode & 0o005 == 0o005))
    made.make()
    yield made
    made.close()


def _fixture(name: str, user: str) -> Any:
    @pytest.fixture(name=name)
    def fixture(users: Users) -> Iterator[User]:
        made = users.user(user)
        yield made
        users.remove(made)

    return fixture


user = _fixture("user", "stratum-test")
other_user = _fixture("other_user", "stratum-other")
single_user = _fixture("single_user", "stratum-single")
"""Without subordinate IDs."""
