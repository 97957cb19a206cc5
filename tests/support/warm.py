"""Commands of the suite without the start of an interpreter: one that has loaded the command line forks for each.

Most of what thousands of short commands cost is loading the same modules. A server, one for each process of the suite,
has them loaded; a fork of it becomes the command: with the arguments, the environment, the working directory, the
standard files and the limit on address space that a new process would have, and ends as one does. It inherits what the
server inherited, so it stands for a new process only where that is what this process would hand down now
(``inheritance``); ``tests.support.command`` starts the real script everywhere else, and where a test asks for it.
"""

from __future__ import annotations

import array
import atexit
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

_OF_INTERPRETER = ("PYTHON", "LC_", "LANG", "MALLOC_", "LD_")
"""Variables that an interpreter heeds when it starts, by how they begin."""
_STATUS = ("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "CapAmb", "SigIgn", "SigBlk")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts")
_MESSAGE_MAX = 1 << 20


def inheritance(environment: Mapping[str, str]) -> tuple[object, ...]:
    """What a process with this environment gets from this one that a fork of another process does not get anew."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return (
        tuple(sorted(item for item in environment.items() if item[0].startswith(_OF_INTERPRETER))),
        tuple(status.get(field) for field in _STATUS),
        tuple(os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES),
        os.stat("/"),
        Path("/proc/self/limits").read_text("ascii"),
        Path("/proc/self/cgroup").read_text("ascii"),
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getaffinity(0),
    )


class Warm:
    """The server of this process of the suite, started when it is first needed."""

    def __init__(self, script: Path, environment: Mapping[str, str]) -> None:
        """``script`` is the command that its forks stand for, ``environment`` one that is like theirs."""
        self._stands_for = inheritance(environment)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            line = [sys.executable, "-c", "from tests.support.warm import serve; serve()", str(script)]
            env = {**environment, "STRATUM_TEST_WARM": str(theirs.fileno())}
            root = Path(__file__).parents[2]
            self._process = subprocess.Popen(line, cwd=root, env=env, pass_fds=[theirs.fileno()])
        self._socket = ours

    def stands_for(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork of the server is what a new process with this environment would be."""
        return inheritance(environment) == self._stands_for

    def run(
        self,
        args: Sequence[str | bytes | Path],
        *,
        cwd: Path | None,
        environment: Mapping[str, str],
        stdin: bytes,
        address_space: int,
        timeout: float,
    ) -> tuple[int, bytes, bytes]:
        """(exit code, or minus the signal's number; stdout; stderr) of a command; as ``subprocess.run`` does it."""
        request = json.dumps(
            {
                "args": [os.fsdecode(arg) for arg in args],
                "cwd": str(cwd or Path.cwd()),
                "environment": dict(environment),
                "address_space": address_space,
            }
        )
        given = os.memfd_create("stdin")
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                os.write(given, stdin)
                os.lseek(given, 0, os.SEEK_SET)
                text = os.memfd_create("request")
                os.write(text, request.encode("utf-8", "surrogateescape"))
                fds = [text, given, out_end, err_end, theirs.fileno()]
                _send_fds(self._socket, fds)
                os.close(text)
        finally:
            for fd in (given, out_end, err_end):
                os.close(fd)
        with ours:
            return _collect(ours, out, err, time.monotonic() + timeout, args, timeout)

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._process.wait()


def _send_fds(connection: socket.socket, fds: Sequence[int]) -> None:
    rights = array.array("i", fds)
    connection.sendmsg([b"run"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def _collect(
    ours: socket.socket, out: int, err: int, deadline: float, args: Sequence[object], timeout: float
) -> tuple[int, bytes, bytes]:
    """Read what a command prints until nobody can print any more, and then how it ended."""
    printed: dict[int, list[bytes]] = {out: [], err: []}
    with selectors.DefaultSelector() as waiting:
        for fd in printed:
            waiting.register(fd, selectors.EVENT_READ)
        try:
            while waiting.get_map():
                ready = waiting.select(max(0.0, deadline - time.monotonic()))
                if not ready and time.monotonic() >= deadline:
                    ours.send(b"kill")
                    raise subprocess.TimeoutExpired(list(map(str, args)), timeout)
                for key, _ in ready:
                    piece = os.read(key.fd, 1 << 16)
                    printed[key.fd].append(piece)
                    if not piece:
                        waiting.unregister(key.fd)
        finally:
            os.close(out)
            os.close(err)
    ours.settimeout(max(0.1, deadline - time.monotonic()))
    code = ours.recv(64)
    assert code, "the server of warm commands ended"
    return int(code), b"".join(printed[out]), b"".join(printed[err])


# What runs in the server.


def serve() -> NoReturn:
    """Fork for each request, until the suite's process has gone."""
    script = sys.argv[1]
    sys.path[0] = os.path.dirname(script)  # as the script has it
    listening = socket.socket(fileno=int(os.environ.pop("STRATUM_TEST_WARM")))
    _load()
    running: dict[int, tuple[int, int, socket.socket]] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is listening:
                    started = _start(script, listening)
                    if started is None:
                        os._exit(0)
                    pidfd, pid, client = started
                    for what in (pidfd, client):
                        ready.register(what, selectors.EVENT_READ, pidfd)
                    running[pidfd] = started
                elif key.fd == key.data:
                    _, pid, client = running.pop(key.fd)
                    ready.unregister(key.fd)
                    if client in ready.get_map():
                        ready.unregister(client)
                    os.close(key.fd)
                    _tell(client, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                else:  # it is to be killed, or nobody waits for it any more
                    ready.unregister(key.fileobj)
                    signal.pidfd_send_signal(key.data, signal.SIGKILL)


def _tell(client: socket.socket, code: int) -> None:
    with client, suppress(OSError):  # nobody waits
        client.send(str(code).encode())


def _load() -> None:
    """Load what commands load, so that it is the same in all of them whatever was loaded first."""
    for room in (
        "cli",
        "api",
        "store",
        "tree",
        "mount",
        "ingest",
        "transfer",
        "oci",
        "composefs",
        "history",
        "volumes",
    ):
        package = importlib.import_module(f"stratum.{room}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    for late in ("encodings.ascii", "stratum.zstd", "tomli_w", "tomllib" if sys.version_info >= (3, 11) else "tomli"):
        importlib.import_module(late)
    _run_in()
    gc.collect()
    gc.freeze()  # what is never looked at again need not be copied


def _run_in() -> None:
    """Run a few commands where there is no store, so that what the interpreter makes of code that has run some times is
    made once and not in every fork. Nothing of it is remembered."""
    from stratum.cli.start import run

    nowhere = ["--store", "/proc/no-such-store", "--runtime-dir", "/proc/no-such-directory"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for words in (["list"], ["show", "app:v1"], ["commit", "app+dev", "v2"], ["--version"]) * 8:
            run([*nowhere, *words])
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "stratum"]:
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()


def _start(script: str, listening: socket.socket) -> tuple[int, int, socket.socket] | None:
    """Start what is asked for next: a descriptor of the process, its ID, who waits for it. None at the end."""
    data, rights, _, _ = listening.recvmsg(16, socket.CMSG_SPACE(5 * 4), socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    fds = array.array("i")
    fds.frombytes(rights[0][2])
    text, *files, waiting = fds
    with open(text, "rb") as file:
        file.seek(0)
        request = json.loads(file.read())
    pid = os.fork()
    if pid == 0:
        _become(script, request, files)
    for fd in files:
        os.close(fd)
    return os.pidfd_open(pid), pid, socket.socket(fileno=waiting)


def _become(script: str, request: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """Be what ``script`` is when it is started anew, in a fork of the server."""
    from stratum.cli.start import main

    for number, fd in enumerate(files):
        os.dup2(fd, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (request["address_space"], most))
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write("stratum")
    time.tzset()
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        old = getattr(sys, name)
        new = open(number, mode, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.argv[:] = [script, *request["args"]]
    try:
        main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except BaseException:  # as an interpreter does
        traceback.print_exc()
        code = 1
    # Ended as an interpreter ends, but for taking apart what it has loaded, which is the server's.
    threading._shutdown()  # type: ignore[attr-defined]  # the interpreter's own way to wait for threads
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
