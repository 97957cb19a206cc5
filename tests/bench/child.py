"""Runs one command and prints what it took, as JSON, on the descriptor that the first argument names.

A program of its own that imports next to nothing: the kernel counts the memory of whoever starts a program to that
program's peak.
"""

import os
import sys
import time


def main() -> None:
    """Run ``sys.argv[2:]``."""
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    started = time.perf_counter()
    process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    _, status, usage = os.wait4(process, 0)
    wall = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    text = (
        f'{{"code": {code}, "wall": {wall}, "cpu": {usage.ru_utime + usage.ru_stime}, '
        f'"peak": {usage.ru_maxrss * 1024}, "written": {usage.ru_oublock * 512}}}'
    )
    os.write(report, text.encode())


if __name__ == "__main__":
    main()
