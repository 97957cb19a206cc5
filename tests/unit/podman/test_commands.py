"""How a command in a container ended, in words."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from stratum.podman import commands

NOTHING = subprocess.DEVNULL


def ended(script: str) -> str | None:
    return commands._Command(["/bin/sh", "-c", script], os.environ, NOTHING).failure()


def test_words_and_exit_code_of_a_failure() -> None:
    assert ended("echo fine") is None
    assert ended("echo one; echo two >&2; exit 3") == "ended with exit code 3: one two"
    assert ended("exit 4") == "ended with exit code 4"


def test_of_much_output_the_end_is_kept() -> None:
    found = ended("head -c 300000 /dev/zero | tr '\\0' x; echo the end; exit 1")
    assert found is not None
    assert found.endswith("xxxthe end")
    assert len(found) < 1100


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TIMEOUT", 0.3)
    begun = time.monotonic()
    assert ended("exec sleep 1000") == "did not end within 0 s"
    assert time.monotonic() - begun < 60
