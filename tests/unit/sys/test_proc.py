"""Processes that are still the same, and mount tables as the kernel writes them."""

from __future__ import annotations

import os
import subprocess
import sys

from stratum.sys import mountinfo, proc

LINE = (
    b"36 35 98:0 /mnt1\\040x /mnt2\\011tab\\012nl\\134bs\xff rw,noatime master:1 shared:7 - "
    b"ext3 /dev/root\\043 rw,errors=continue\n"
)


def test_a_process_is_known_by_its_start_time() -> None:
    pid = os.getpid()
    started = proc.start_time(pid)
    assert started is not None
    assert proc.alive(pid, started)
    assert not proc.alive(pid, started + 1)


def test_a_command_with_spaces_and_parentheses_does_not_confuse() -> None:
    code = "open('/proc/self/comm', 'w').write('a) 1 (b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        started = proc.start_time(child.pid)
        assert started is not None
        assert proc.alive(child.pid, started)
        child.communicate(b"\n")
    assert proc.start_time(child.pid) is None
    assert not proc.alive(child.pid, started)


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        started = proc.start_time(child.pid)
        assert started is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert proc.start_time(child.pid) == started
        assert not proc.alive(child.pid, started)


def test_command_name_is_short_and_printable() -> None:
    arguments = ["sleep", "100", "\x1b[31m" + "x" * 200]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", *arguments[2:]]) as child:
        name = proc.command_name(child.pid)
        child.kill()
    assert len(name) <= 60
    assert name.isprintable()
    assert proc.command_name(child.pid) == "?"


def test_mountinfo_fields_are_unescaped() -> None:
    (entry,) = mountinfo.parse(LINE)
    assert entry.mountpoint == "/mnt2\ttab\nnl\\bs\udcff"
    assert entry.root == "/mnt1 x"
    assert entry.source == "/dev/root#"
    assert (entry.id, entry.parent, entry.device, entry.fstype) == (36, 35, "98:0", "ext3")


def test_a_carriage_return_in_a_name_ends_no_line() -> None:
    (entry,) = mountinfo.parse(LINE.replace(b"\\011", b"\r"))
    assert entry.mountpoint.startswith("/mnt2\rtab")


def test_the_mounts_of_a_process_that_is_gone_are_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert mountinfo.read(child.pid) == []
    assert mountinfo.read()[0].mountpoint
