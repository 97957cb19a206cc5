"""Programs that outlive who starts them."""

from __future__ import annotations

import os

import pytest

from stratum.sys.spawn import spawn


@pytest.mark.parametrize("below", [False, True])
def test_descriptors_are_passed_from_number_3_on_in_their_order(below: bool) -> None:
    """Also those whose own numbers are among those that others get; what is close-on-exec is not passed."""
    reading, writing = os.pipe()
    files = [os.memfd_create(f"file{number}") for number in range(3)]
    for number, fd in enumerate(files):
        os.write(fd, f"{number}".encode())
    passed = [*reversed(files)] if below else files
    pid = spawn("tests.support.passed", len(files), stderr=writing, passing=passed)
    os.close(writing)
    text = b""
    while data := os.read(reading, 4096):
        text += data
    assert os.waitpid(pid, 0)[1] == 0
    contents, *others = text.decode().split()
    assert contents == "".join(os.pread(fd, 1, 0).decode() for fd in passed)
    assert not {reading, *files} & ({int(number) for number in others} - {0, 1, 2, 3, 4, 5})
    for fd in (reading, *files):
        os.close(fd)
