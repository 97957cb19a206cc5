"""pip, which says in one line when packages cannot be fetched: ``python3 -m tools.setup.pip PYTHON ARGUMENTS...``

PYTHON is the interpreter of an environment that has pip. pip's own configuration counts (index, proxy, certificates,
``PIP_NO_INDEX`` and ``PIP_FIND_LINKS``). Of an index that cannot be reached pip says dozens of lines, and at the end
that versions of packages contradict one another; here it says what it could not reach, why, and what can be set.
Runs with nothing but the standard library.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LOG = Path(__file__).parents[2] / "build/pip.log"
RETRIES = 3
HINT = (
    "set PIP_INDEX_URL to an index that can be reached from here, HTTPS_PROXY to the proxy that leads there, "
    "or PIP_NO_INDEX=1 and PIP_FIND_LINKS to a directory of wheels"
)
CERTIFICATE = "set PIP_CERT to the file of the authority that certifies it, or PIP_INDEX_URL to another index"


class SetupError(Exception):
    """What could not be set up; ``hint`` says what next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def pip(python: str | Path, *arguments: str | Path) -> None:
    """Run pip of the interpreter ``python``. Raises ``SetupError``; all that pip said is then in ``build/pip.log``."""
    quiet = ["--disable-pip-version-check", "--no-input", "--retries", str(RETRIES)]
    command = [str(python), "-m", "pip", *map(str, arguments), *quiet]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode == 0:
        return
    said = done.stdout.decode("utf-8", "replace")
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text(f"$ {' '.join(command)}\n{said}", "utf-8")
    message, hint = failure(said)
    raise SetupError(message, f"{hint}; all that pip said is in {LOG}" if hint else f"all that pip said is in {LOG}")


def failure(said: str) -> tuple[str, str]:
    """What went wrong by pip's output ``said``, and what can be done. Pure."""
    indexes = re.search(r"^Looking in indexes: (\S+)", said, re.MULTILINE)
    index = re.sub(r"//[^/@]*@", "//", indexes[1]) if indexes else "https://pypi.org/simple"
    broken = re.findall(r"after connection broken by '(.*)': /", said)
    if broken or "HTTPSConnectionPool" in said or "ReadTimeoutError" in said:
        reason = _reason(broken[-1] if broken else said)
        certificate = "certificate" in reason.lower()
        return f"Python packages cannot be fetched from {index}: {reason}", CERTIFICATE if certificate else HINT
    missing = re.search(
        r"^ERROR: Could not find a version that satisfies the requirement (.*) \(from", said, re.MULTILINE
    )
    if missing:
        wanted = missing[1].partition(" (from ")[0]
        return f"{index} has no Python package {wanted} that suits this machine", HINT
    errors = re.findall(r"^ *(?:ERROR|error): *(.*)$", said, re.MULTILINE)
    return f"pip failed: {errors[-1] if errors else said.strip().rpartition(chr(10))[2]}", ""


def _reason(text: str) -> str:
    """The innermost cause in the nested errors of ``text``."""
    causes = re.findall(r"\[Errno -?\d+\] ([^'\")\]]+)|(certificate verify failed[^'\")(]*)", text)
    if causes:
        cause = next(filter(None, causes[-1])).strip()
        return f"the proxy: {cause}" if "ProxyError" in text else cause
    words = re.findall(r"[A-Za-z]+Error\(.*?[\"']([^\"']+)[\"']", text) or [text.strip().rpartition("\n")[2]]
    return str(words[0])


def main() -> int:
    """The program; the exit status."""
    try:
        pip(sys.argv[1], *sys.argv[2:])
    except SetupError as exc:
        sys.stderr.write(f"error: {exc}\nhint: {exc.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
