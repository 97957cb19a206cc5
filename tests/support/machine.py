"""A small machine with another kernel: user-mode Linux, which runs as a program (``tools/setup/kernel.sh``).

It sees this machine's files, and may write to all of them: what it writes is in its memory, and gone at its end. So
what is tested in it is what is here, by the same paths, with a real kernel of Debian's that has what the running one
may be built without. It takes a second to start, runs as root, and has one processor and no network.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.capabilities import CHECKOUT

KERNEL = CHECKOUT / ".cache" / "kernel"
_ENDED = "this machine's command ended with"
_SECONDS = 280

_INIT = """#!/bin/sh
exec <"$here/null" >/dev/console 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CI="$CI" LC_ALL=C.UTF-8
mount -t proc proc /proc
for module in {modules}; do busybox insmod "$module"; done
mount -t tmpfs -o size=90% tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mkdir -p dev/shm
for place in run tmp dev/shm; do mount -t tmpfs tmpfs "$place"; done
pivot_root . mnt
cd {directory}
umount -l /mnt
{command}
echo "{ended} $?"
busybox poweroff -f
"""


def run_in_machine(command: list[str], directory: Path, *, megabytes: int = 1024) -> tuple[int, str]:
    """Run a command in a new machine, in the checkout; (exit status, what it printed). ``directory`` is this test's.

    Fails the test where the kernel is not here, or does not come to the command's end.
    """
    if not (KERNEL / "linux").exists():
        pytest.fail("user-mode Linux is not on this machine (amd64 only): run 'make setup-test'", pytrace=False)
    order = (KERNEL / "order").read_text("utf-8").split()
    modules = [path for name in order if (path := KERNEL / "modules" / f"{name}.ko").exists()]
    init = directory / "init"
    init.write_text(
        _INIT.format(
            modules=shlex.join(map(str, modules)),
            directory=shlex.quote(str(CHECKOUT)),
            command=shlex.join(command),
            ended=_ENDED,
        ),
        "utf-8",
    )
    init.chmod(0o755)
    (directory / "null").touch()
    arguments = [
        f"mem={megabytes}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "hostfs=/",
        "ro",
        "quiet",
        "con=null",
        "con0=fd:0,fd:1",
        "ssl=null",
        f"uml_dir={directory}",
        f"init={init}",
        f"here={directory}",
        f"CI={os.environ.get('CI', '')}",
    ]
    output = _run([str(KERNEL / "linux"), *arguments], directory / "console")
    ended = re.search(rf"^{_ENDED} (\d+)$", output, re.MULTILINE)
    if ended is None:
        pytest.fail(f"the machine did not come to the end of its command:\n{output}", pytrace=False)
    return int(ended[1]), output[: ended.start()]


def _run(command: list[str], console: Path) -> str:
    """What a kernel prints until it ends; what is in it are processes of this machine, and end with it."""
    with console.open("wb") as file:
        kernel = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            kernel.wait(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # what it printed by then tells more
        finally:
            with suppress(ProcessLookupError):
                os.killpg(kernel.pid, signal.SIGKILL)
            kernel.wait()
    return console.read_text("utf-8", "replace").replace("\r", "")
