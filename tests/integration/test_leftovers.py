"""The suite's own check for leftovers sees what it is there to see."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import leftovers
from tests.support.leftovers import MARK, Session, unmount_below


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv(MARK, "replaced by the session")
    monkeypatch.setattr(leftovers, "PATIENCE", 0.2)
    return Session(tmp_path, alone=False)


def test_a_clean_session(session: Session) -> None:
    assert session.leftovers() == []


def test_a_process(session: Session) -> None:
    process = subprocess.Popen(["cat", "/proc/self/comm", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"cat\n"  # from here on its environment can be read
        assert session.leftovers() == [f"processes: {process.pid}: cat /proc/self/comm -"]
    finally:
        process.kill()
        process.communicate()
    assert session.leftovers() == []


@pytest.mark.root
def test_a_mount(session: Session, tmp_path: Path) -> None:
    target = tmp_path / "a b"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
    try:
        [left] = session.leftovers()
        assert left.startswith("mounts: ")
        assert "tmpfs" in left
    finally:
        unmount_below(tmp_path)
    assert session.leftovers() == []


@pytest.mark.root
def test_a_loop_device(session: Session, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    device = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        assert session.leftovers() == [f"loops: {Path(device).name} of {image}"]
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert session.leftovers() == []
