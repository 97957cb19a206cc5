"""Pages with Python in them: what they show runs as it is written, and prints what they say.

Each block of a page that is marked ``python`` runs after those before it, in an empty directory with an empty store of
its own, by an ordinary user where the tests can become one. What it prints is in the block marked ``text`` right behind
it; a line ``...`` there stands for any lines. A block without one prints nothing. Blocks of other kinds are not run.

To have a page tested, add it to ``PAGES``, with a function that prepares the directory where it needs something.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stratum

CHECKOUT = Path(__file__).parents[2]
PAGES: dict[str, Callable[[Path], None] | None] = {
    "docs/content-stores.md": None,
    "docs/fsspec.md": None,
    "docs/python.md": None,
}
"""Page -> what prepares the directory that it runs in."""

NOBODY = 65534
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUNNER = """
import contextlib, io, json, sys, traceback
blocks = json.load(sys.stdin)
names = {"__name__": "__main__"}
for line, code in blocks:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile("\\n" * line + code, sys.argv[1], "exec"), names)
    except BaseException:
        traceback.print_exc(file=printed)
    print(json.dumps(printed.getvalue()))
"""


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, code, what it is to print) of each block of Python in a page."""
    found = list(_BLOCK.finditer(text))
    for number, match in enumerate(found):
        if match[1] != "python":
            continue
        behind = found[number + 1] if number + 1 < len(found) else None
        told = behind is not None and behind[1] == "text" and not text[match.end() : behind.start()].strip()
        yield text.count("\n", 0, match.start(2)), match[2], behind[2] if behind is not None and told else ""


def printed_by(page: str, text: str, directory: Path) -> list[str]:
    """What each block of Python of a page prints."""
    environment = {
        "HOME": str(directory),
        "PATH": os.environ["PATH"],
        "STRATUM_STORE": str(directory / "store"),
        "STRATUM_RUNTIME_DIR": str(directory / "run"),
        "XDG_CONFIG_HOME": str(directory / "config"),
        "PYTHONPATH": str(CHECKOUT),
    }
    user: dict[str, object] = {}
    if os.geteuid() == 0 and reaches(directory.parent, Path(sys.executable).resolve(), CHECKOUT):
        for path in (directory, *directory.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", _RUNNER, page],
        input=json.dumps([(line, code) for line, code, _ in blocks(text)]),
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=environment,
        timeout=200,
        **user,  # type: ignore[call-overload]
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def reaches(*paths: Path) -> bool:
    """Whether everybody can go to all of the paths."""
    above = {parent for path in paths for parent in (path, *path.parents)}
    return all(path.stat().st_mode & 0o001 for path in above if path.is_dir())


def fits(printed: str, told: str) -> bool:
    """Whether what was printed is what the page says."""
    pattern = "".join("(?:.*\n)*" if line == "...\n" else re.escape(line) for line in told.splitlines(keepends=True))
    return re.fullmatch(pattern, printed) is not None


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that everybody can go to, as those of pytest are its user's own."""
    with tempfile.TemporaryDirectory(prefix="stratum-page-", dir="/var/tmp") as path:
        yield Path(path)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows(page: str, directory: Path) -> None:
    text = (CHECKOUT / page).read_text("utf-8")
    prepare = PAGES[page]
    if prepare is not None:
        prepare(directory)
    expected = list(blocks(text))
    assert expected, f"{page} has no Python in it"
    for (line, _, told), printed in zip(expected, printed_by(page, text, directory), strict=True):
        assert fits(printed, told), f"{page}:{line}: this was printed:\n{printed}"


def test_a_page_that_is_wrong_is_found(directory: Path) -> None:
    text = "```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\nprint(2)\n```\n```python\nnone\n```\n"
    told = [each for _, _, each in blocks(text)]
    assert told == ["1\n", "", ""]
    first, second, third = printed_by("page.md", text, directory)
    assert fits(first, told[0])
    assert not fits(second, told[1])
    assert 'File "page.md", line 13' in third
    assert fits("a\nb\nc\nd\n", "a\n...\nd\n")
    assert not fits("a\nb\n", "a\n...\nd\n")


def test_every_public_name_is_on_its_page() -> None:
    text = (CHECKOUT / "docs/python.md").read_text("utf-8")
    records = {"Change", "Entry", "Pushed", "Worktree", "__version__"}
    assert not [name for name in stratum.__all__ if name not in text and name not in records]
