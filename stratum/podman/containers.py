"""Podman's containers, by its own command: make, start, attach, signal, remove.

``CONTAINER_HOST`` (podman(1)) names a service to use instead of this machine's storage; set to nothing, it names none.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from stratum.errors import StratumError, UnsupportedError, os_error_text

FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)
"""The signals that an attached container gets; those of the terminal as ``podman run`` does."""

_UNTYPED = "ctrl-^,ctrl-],ctrl-_,ctrl-b,ctrl-^,ctrl-z,ctrl-],ctrl-b"
"""For a service instead of no detach keys, which Podman 4.3 cannot tell one."""

_PODMANS_OWN = (125, 126, 127)
"""Exit codes that Podman has for failures of its own; a container may end with them too."""


@dataclass(frozen=True, slots=True)
class Request:
    """The container to make: the image and its command (nothing for the image's own), and further options of
    ``podman create``. ``stdin`` and ``tty`` are ``--interactive`` and ``--tty``."""

    command: Sequence[str]
    annotations: Mapping[str, str]
    options: Sequence[str] = ()
    stdin: bool = False
    tty: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """What a container is doing, in Podman's words (created, running, paused, exited ...), and its last exit code."""

    state: str
    exit_code: int


class Containers:
    """The containers of the Podman that ``environment`` leads to.

    Every method raises ``StratumError`` with Podman's words, or ``UnsupportedError`` where there is no Podman to ask.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        program = shutil.which("podman", path=environment.get("PATH"))
        if program is None:
            raise UnsupportedError("Podman is not installed", hint="install it: apt install podman")
        host = environment.get("CONTAINER_HOST")
        self.line = [program, "--url", host] if host else [program]
        # That the variable is there makes Podman use a service, whatever it says.
        self.environment = {key: value for key, value in environment.items() if key != "CONTAINER_HOST"}

    def create(self, request: Request, *, remove: bool = False) -> str:
        """Make a container, pulling its image where it is missing; its ID. With ``remove`` its end removes it."""
        flags = {"--interactive": request.stdin, "--tty": request.tty, "--rm": remove}
        annotations = [f"--annotation={key}={value}" for key, value in request.annotations.items()]
        chosen = [flag for flag, wanted in flags.items() if wanted]
        said = self._ask("create", *request.options, *annotations, *chosen, "--", *request.command)
        return said.split()[-1]

    def init(self, container: str) -> None:
        """Let the runtime set the container up, hooks included; nothing of it runs yet."""
        self._ask("init", container)

    def start(self, container: str) -> None:
        """Start what the container runs, and leave it running."""
        self._ask("start", container)

    def run_attached(self, container: str, request: Request) -> int:
        """Start a container that ``create`` made, with our standard streams (input as requested) and signals; its exit
        code."""
        keys = _UNTYPED if "--url" in self.line else ""
        options = ["--attach", "--sig-proxy", f"--detach-keys={keys}", *(["--interactive"] if request.stdin else [])]
        stdin = None if request.stdin or request.tty else subprocess.DEVNULL
        # In a session of its own Podman gets the terminal's signals from us alone, once.
        process = self._popen([*self.line, "start", *options, container], stdin)
        with _signals_to(process):
            code = process.wait()
        if code >= 0 and code not in _PODMANS_OWN:
            return code
        found = self.condition(container)
        if found is None or found.state in ("created", "initialized"):
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            raise StratumError(f"podman start ended with {how} before container {container[:12]} ran")
        return int(self._ask("wait", container))

    def condition(self, container: str, *, timeout: float | None = None) -> Condition | None:
        """What the container with this ID is doing; None where there is none. ``timeout`` is in seconds."""
        filters = ["--all", "--no-trunc", "--filter", f"id={container}"]
        try:
            found = json.loads(self._ask("ps", *filters, "--format", "json", timeout=timeout))
            return Condition(found[0]["State"], found[0]["ExitCode"]) if found else None
        except (StratumError, ValueError, LookupError) as exc:
            said = exc.message if isinstance(exc, StratumError) else "its list of containers cannot be read"
            raise UnsupportedError(said, hint="see what 'podman ps' says, or correct CONTAINER_HOST") from None

    def remove(self, container: str) -> None:
        """Kill it if it runs, and remove it with what it alone used."""
        self._ask("rm", "--force", "--time=0", "--volumes", container)

    def _ask(self, verb: str, *args: str, timeout: float | None = None) -> str:
        try:
            done = subprocess.run(
                [*self.line, verb, *args],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except OSError as exc:
            raise UnsupportedError(f"cannot run {self.line[0]}: {os_error_text(exc)}") from None
        except subprocess.TimeoutExpired:
            raise StratumError(f"podman {verb} did not end within {timeout:.0f} s") from None
        if done.returncode != 0:
            raise StratumError(f"podman {verb}: {own_words(done.stderr) or f'exit status {done.returncode}'}")
        return done.stdout

    def _popen(self, line: list[str], stdin: int | None) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(line, env=self.environment, stdin=stdin, start_new_session=True)
        except OSError as exc:
            raise UnsupportedError(f"cannot run {line[0]}: {os_error_text(exc)}") from None


def own_words(stderr: str) -> str:
    """The error in what a Podman command wrote, in one line, without what it told of its progress before."""
    text = f"\n{stderr}".rpartition("\nError: ")[2]
    return " ".join(text.split())


@contextmanager
def _signals_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
