"""Podman's containers, by its own command: make, start, attach, signal, remove.

``CONTAINER_HOST`` (podman(1)) names a service to use instead of this machine's storage; set to nothing, it names none.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UnsupportedError, os_error_text

if TYPE_CHECKING:
    from stratum.podman.commandline import Line

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

_NOT_STARTED = ("created", "initialized")
_ANSWER = 30.0
_PAUSE = 0.1
_KILL_TRIES = 5

_PODMANS_OWN = (125, 126, 127)
"""Exit codes that Podman has for failures of its own; a container may end with them too."""


@dataclass(frozen=True, slots=True)
class Request:
    """The container to make: the image and its command (nothing for the image's own), and further options of
    ``podman create``. ``stdin`` and ``tty`` are ``--interactive`` and ``--tty``; ``detach_keys`` what leaves the
    container's terminal, None for what Podman's settings say."""

    command: Sequence[str]
    annotations: Mapping[str, str]
    options: Sequence[str] = ()
    stdin: bool = False
    tty: bool = False
    detach_keys: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """What a container is doing, in Podman's words (created, running, paused, exited ...), and its last exit code."""

    state: str
    exit_code: int


class PodmanError(StratumError):
    """Podman could not run a container; the exit codes are those of ``podman run``."""

    exit_code = 125
    id = "podman"


class NotExecutableError(PodmanError):
    """The program that the container is to run cannot be run."""

    exit_code = 126


class NoSuchProgramError(PodmanError):
    """The program that the container is to run is not in it."""

    exit_code = 127


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

    def read_line(self, words: Sequence[str]) -> Line:
        """Read what could follow ``podman run``, by the grammar of this very Podman and with ``--format VALUE``.

        Raises as ``parse_line``.
        """
        from stratum.podman.commandline import parse_line, read_grammar

        try:
            grammar = read_grammar(self._ask("run", "--help", timeout=_ANSWER)).with_valued("format")
        except ValueError:
            raise UnsupportedError("cannot learn from 'podman run --help' which options there are") from None
        return parse_line(words, grammar, self._takes_value)

    def _takes_value(self, option: str) -> bool:
        """Whether an option that ``--help`` does not show, as some old spellings, takes a value."""
        try:
            self._ask("create", option, timeout=_ANSWER)
        except StratumError as exc:
            if "unknown" in exc.message:
                raise PodmanError(
                    exc.message.partition(" See ")[0], hint="see 'stratum run --help' and 'podman run --help'"
                ) from None
            return "needs an argument" in exc.message
        return False

    def has_volume(self, name: str) -> bool:
        """Whether Podman has a named volume of this name."""
        found = json.loads(self._ask("volume", "ls", "--format=json", timeout=_ANSWER) or "[]")
        return any(volume.get("Name") == name for volume in found)

    def create(self, request: Request, *, remove: bool = False) -> str:
        """Make a container, pulling its image where it is missing; its ID. With ``remove`` its end removes it."""
        flags = {"--interactive": request.stdin, "--tty": request.tty, "--rm": remove}
        annotations = [f"--annotation={key}={value}" for key, value in request.annotations.items()]
        chosen = [flag for flag, wanted in flags.items() if wanted]
        said = self._make("create", *request.options, *annotations, *chosen, "--", *request.command)
        return said.split()[-1]

    def init(self, container: str) -> None:
        """Let the runtime set the container up, hooks included; nothing of it runs yet."""
        self._make("init", container)

    def start(self, container: str) -> None:
        """Start what the container runs, and leave it running."""
        self._make("start", container)

    def run_attached(self, container: str, request: Request) -> int | None:
        """Start a container that ``create`` made, with our standard streams (input as requested) and signals; its exit
        code, None where the detach keys were typed and it goes on.

        A signal that comes before the container runs is passed on once it does.
        """
        # Podman's own passing on begins some time after the container does; until then it would die of SIGTERM, with
        # exit code 0 and the container running on.
        options = ["--attach", "--sig-proxy=false", *self._detach_keys(request)]
        options += ["--interactive"] if request.stdin else []
        stdin = None if request.stdin or request.tty else subprocess.DEVNULL
        # In a session of its own Podman gets none of the terminal's signals.
        process = self._popen([*self.line, "start", *options, container], stdin)
        with _terminal_kept(), passed_on(FORWARDED, lambda number: self._signal(container, process, number)):
            code = process.wait()
            if code > 0 and code not in _PODMANS_OWN:
                return code
            # Nothing of Podman's own end says for certain that the container's was before it.
            found = self.condition(container)
            if found is None or found.state in _NOT_STARTED:
                how = f"exit status {code}" if code >= 0 else f"signal {-code}"
                raise _podman_error(f"podman start ended with {how} before container {container[:12]} ran", code)
            if code == 0 and found.state == "running" and _at_terminal(request):
                return None
            return found.exit_code if found.state == "exited" else int(self._ask("wait", container, apart=True))

    def _detach_keys(self, request: Request) -> list[str]:
        """The keys that leave the container's terminal; none where what is read is not typed."""
        if _at_terminal(request):
            return [] if request.detach_keys is None else [f"--detach-keys={request.detach_keys}"]
        return [f"--detach-keys={_UNTYPED if '--url' in self.line else ''}"]

    def _signal(self, container: str, attached: subprocess.Popen[bytes], number: int) -> None:
        """Send a signal to a container that ``attached`` starts and stays with, as soon as it runs."""
        if number == signal.SIGWINCH:
            attached.send_signal(number)  # it gives the container's terminal the size of ours
        tries = _KILL_TRIES
        while tries:
            try:
                self._ask("kill", f"--signal={number}", container, timeout=_ANSWER, apart=True)
                return
            except StratumError:
                tries -= 1
            with contextlib.suppress(StratumError):
                found = self.condition(container, timeout=_ANSWER)
                if found is None or found.state == "exited":
                    return
                if found.state in _NOT_STARTED and attached.poll() is None:
                    tries = _KILL_TRIES
            time.sleep(_PAUSE)

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

    def _make(self, verb: str, *args: str) -> str:
        """``_ask``, with ``PodmanError`` for what keeps a container from running."""
        try:
            return self._ask(verb, *args)
        except UnsupportedError:
            raise
        except StratumError as exc:
            raise _podman_error(exc.message) from None

    def _ask(self, verb: str, *args: str, timeout: float | None = None, apart: bool = False) -> str:
        """The output of a Podman command; ``apart`` keeps the terminal's signals from it."""
        try:
            done = subprocess.run(
                [*self.line, verb, *args],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                start_new_session=apart,
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


def _podman_error(message: str, code: int = 125) -> PodmanError:
    """The error for Podman's words, or for its exit code."""
    if code == NoSuchProgramError.exit_code or "attempted to invoke a command that was not found" in message:
        return NoSuchProgramError(message)
    if code == NotExecutableError.exit_code or "OCI permission denied" in message:
        return NotExecutableError(message)
    return PodmanError(message)


def _at_terminal(request: Request) -> bool:
    return request.stdin and request.tty and sys.stdin.isatty()


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Give the terminal its mode back after the block, in case that Podman was killed in it."""
    if not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    mode = termios.tcgetattr(fd)
    try:
        yield
    finally:
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        termios.tcsetattr(fd, termios.TCSANOW, mode)
        signal.signal(signal.SIGTTOU, before)


def own_words(stderr: str) -> str:
    """The error in what a Podman command wrote, in one line, without what it told of its progress before."""
    text = f"\n{stderr}".rpartition("\nError: ")[2]
    return " ".join(text.split())


@contextlib.contextmanager
def passed_on(numbers: Iterable[int], send: Callable[[int], None]) -> Iterator[None]:
    """Call ``send`` with the number of each of these signals that this process gets during the block.

    It is called in a thread, once after the other, in the order in which they came. Those that wait when the block ends
    are dropped.
    """
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended = threading.Event()

    def pass_on() -> None:
        while (number := came.get()) and not ended.is_set():
            send(number)

    def note(number: int, _frame: FrameType | None) -> None:
        came.put(number)

    sender = threading.Thread(target=pass_on, name="signals", daemon=True)
    sender.start()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ended.set()
        came.put(0)
        sender.join()
