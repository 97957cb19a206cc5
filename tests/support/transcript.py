"""Sessions in documents: indented blocks in which a line that begins with ``# `` was typed as root, or with ``$ `` as
an ordinary user, and what follows it was printed.

``replay`` types a document's commands into one shell and compares what they print. Hashes, times, process IDs and
durations differ from run to run and are not compared; a line ``...`` stands for any lines.
"""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tests.support.rootless import User

_PROMPTS = ("# ", "$ ")
_MARK = "=====next====="
_DIFFERENT = [
    (re.compile(r"\b(today|yesterday) \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?Z?"), "TIME"),
    (re.compile(r"\b(just now|\d+ (s|min|h|d) ago)"), "AGO"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "HASH"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,12}\b"), "HASH"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "KEY"),
    (re.compile(r"\bprocess \d+"), "process N"),
    (re.compile(r"[ \t]+"), " "),
]


class Typed(NamedTuple):
    """A command, which may go over several lines, and what it printed."""

    command: str
    printed: list[str]


def sessions(document: str) -> Iterator[Typed]:
    """What is typed in the blocks of a Markdown document, in its order. Blocks that begin with no prompt are none."""
    block = False
    typed: Typed | None = None
    for line in [*document.splitlines(), ""]:
        if not line.startswith("    "):
            block, typed = False, None
        elif line[4:6] in _PROMPTS:
            block, typed = True, Typed(line[6:], [])
            yield typed
        elif block and typed is not None:
            typed.printed.append(line[4:])


def commands(document: str) -> list[Typed]:
    """All of them; a command that ends with a backslash or begins a here-document goes on in the next lines."""
    found = []
    for typed in list(sessions(document)):
        command, printed = typed.command, list(typed.printed)
        while printed and command.splitlines()[-1].endswith("\\"):
            command += "\n" + printed.pop(0).strip()
        if (here := re.search(r"<<'?(\w+)'?", command)) and here[1] in printed:
            end = printed.index(here[1]) + 1
            command, printed = "\n".join([command, *printed[:end]]), printed[end:]
        found.append(Typed(command, printed))
    return found


def same(expected: list[str], printed: list[str]) -> bool:
    """Whether that is what was printed, but for what differs from run to run."""
    pattern = [".*" if line.strip() == "..." else re.escape(_plain(line)) for line in expected]
    return re.fullmatch("\n".join(pattern), "\n".join(map(_plain, printed)), re.DOTALL) is not None


def _plain(line: str) -> str:
    for pattern, word in _DIFFERENT:
        line = pattern.sub(word, line)
    return line.strip()


def run(
    typed: list[Typed], before: str, environment: Mapping[str, str], cwd: Path, user: User | None = None
) -> list[list[str]]:
    """What each command prints on its terminal, typed into one shell in a mount namespace of its own, or into one of
    ``user``; ``before`` is done first. A command that fails stops it, and is an ``AssertionError``."""
    script = "".join(f"echo {_MARK}\n{command}\n" for command, _ in typed)
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
        line = ["bash", "-ec", f"{before}\n{script}"]
        own = {**environment, "TERM": "dumb", "COLUMNS": "120"}
        if user is None:
            line = ["unshare", "--mount", "--propagation", "private", *line]
            shell = subprocess.Popen(line, cwd=cwd, env={**os.environ, **own}, **files)
        else:
            shell = user.start(*line, cwd=cwd, env=own, **files)
        os.close(theirs)
        said = _all_of(terminal, shell)
    pieces = said.split(f"{_MARK}\n")[1:]
    assert shell.returncode == 0, (
        f"{typed[len(pieces) - 1].command if pieces else before}:\n{pieces[-1] if pieces else said}"
    )
    return [[line.rstrip() for line in piece.splitlines() if line.strip(" ─")] for piece in pieces]


def _all_of(terminal: io.FileIO, shell: subprocess.Popen[Any]) -> str:
    """What is printed until the shell has ended; what it started may live on."""
    said, deadline = b"", time.monotonic() + 240
    while True:
        ended = shell.poll() is not None
        if select.select([terminal], [], [], 0.0 if ended else 0.2)[0]:
            try:
                piece = terminal.read(1 << 16)
            except OSError:  # nobody has the other end any more
                piece = b""
            if piece:
                said += piece
                continue
            shell.wait()
            ended = True
        if ended:
            return said.decode("utf-8", "replace").replace("\r\n", "\n")
        if time.monotonic() > deadline:
            shell.kill()
            shell.wait()
            raise TimeoutError(said.decode("utf-8", "replace"))


def replay(
    document: Path, before: str, environment: Mapping[str, str], cwd: Path, user: User | None = None
) -> list[str]:
    """Commands of the document that print something else than it says, each with what it printed. It calls the home
    of ``user`` /home/ann."""
    typed = commands(document.read_text("utf-8"))
    assert typed
    printed = run(typed, before, environment, cwd, user)
    if user is not None:
        printed = [[line.replace(str(user.home), "/home/ann") for line in said] for said in printed]
    return [
        f"# {one.command}\n" + "\n".join(said)
        for one, said in zip(typed, printed, strict=True)
        if not same(one.printed, said)
    ]
