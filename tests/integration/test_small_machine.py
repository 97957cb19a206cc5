"""Machines with little memory, and kernels that refuse an allocation of more than there is."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import SCRIPT, Command
from tests.support.small import limited

pytestmark = pytest.mark.root

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
TINY = 200 << 20
TOO_LITTLE = 30 << 20


def every_verb(cli: Command, tmp_path: Path) -> None:
    """A life of a small stratum, with all verbs that read a commit, a history or a cache."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("first\n")
    for name in ("target", "out"):
        (tmp_path / name).mkdir()
    layout = f"oci:{tmp_path}/layout:v1"
    cli.ok("import", "--bare", tmp_path / "source", "app")
    cli.ok("import", "--bare", tmp_path / "source", "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    cli.ok("mount", "app+dev", tmp_path / "target")
    (tmp_path / "target" / "file").write_text("second\n")
    cli.ok("diff", "app+dev")
    cli.ok("commit", "app+dev", "v1")
    cli.ok("unmount", tmp_path / "target")
    for verb in (
        ("reset", "app+dev", "app:latest"),
        ("rebase", "app+dev", "app:v1"),
        ("diff", "app:latest", "app:v1"),
        ("verify", "app:v1"),
        ("log", "app:v1"),
        ("show", "app:v1"),
        ("status", "app"),
        ("restore", "app:v1", "file", "--to", tmp_path / "out"),
        ("export", "app:v1", tmp_path / "app.tar"),
        ("push", "app:v1", layout),
        ("pull", layout, "copy"),
        ("fsck",),
        ("gc",),
        ("remove", "--yes", "app"),
    ):
        cli.ok(*verb)


def test_every_verb_works_with_little_address_space(cli: Command, tmp_path: Path) -> None:
    cli.address_space = TINY
    every_verb(cli, tmp_path)


@pytest.fixture
def heuristic_overcommit() -> Iterator[None]:
    """Linux as it is by default: an allocation of more than the machine has is refused."""
    before = OVERCOMMIT.read_text()
    OVERCOMMIT.write_text("0\n")
    try:
        yield
    finally:
        OVERCOMMIT.write_text(before)


@pytest.mark.usefixtures("heuristic_overcommit")
def test_every_verb_works_where_the_kernel_refuses_what_it_does_not_have(cli: Command, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        mmap.mmap(-1, 2 * (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + swap_size()))
    cli.address_space = sys.maxsize
    every_verb(cli, tmp_path)


def swap_size() -> int:
    """The machine's swap space in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
    return int(fields["SwapTotal"].split()[0]) << 10


def test_too_little_memory_is_one_line(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(5000):
        (tmp_path / "source" / f"{number:0200}").touch()
    said = set()
    for space in range(TOO_LITTLE, TINY, 10 << 20):
        cli.address_space = space
        code, _, stderr = cli("import", "--bare", tmp_path / "source", "app")
        if "import" in stderr and "Error" in stderr:
            continue  # the interpreter itself does not start in so little
        assert code in (0, 1)
        last = stderr.strip().splitlines()[-1] if code else ""
        # What the kernel had no memory for is said with what it was to do.
        said.add("error: out of memory" if last.endswith(": Cannot allocate memory") else last)
        assert "Traceback" not in stderr
    assert said == {"", "error: out of memory"}


@pytest.mark.parametrize("stage", ["createRuntime", "poststop"])
def test_a_hook_without_memory_says_so_in_one_line(stage: str) -> None:
    # What it reads from standard input is the container's state, as large as the hook takes it, and all of it one list.
    state = b'{"ociVersion": "1.0.2", "id": "c", "annotations": {"a": [' + b"[]," * 300_000 + b"[]]}}"
    line = limited([sys.executable, "-I", "-m", "stratum.hook", stage], 24 << 20)
    done = subprocess.run(line, input=state, capture_output=True, check=False)
    assert done.returncode != 0
    assert done.stderr.decode().strip() == "stratum: out of memory"


def test_the_limit_is_there() -> None:
    done = subprocess.run(
        limited([sys.executable, "-c", "bytearray(1 << 30)"]), capture_output=True, text=True, check=False
    )
    assert "MemoryError" in done.stderr
    assert SCRIPT.exists()
