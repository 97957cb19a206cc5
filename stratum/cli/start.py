"""Where ``stratum`` starts.

Loading the command line takes as long as what short verbs do. So those of every day, given nothing but what they are
about, go without (``cli/everyday.py``), and so does ``stratum status --short``, just as it stands in the prompts of
shells; whatever else is given, and what fails, is the command line's.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

from stratum.sys.loading import load_pathlib


def main() -> NoReturn:
    """Run the command line."""
    # Modules and trees are many small objects and no cycles: looking for some costs a fifth, and a short command ends
    # before the first look.
    gc.set_threshold(200_000, 20, 50)
    load_pathlib()
    _open_standard_files()
    code = run(sys.argv[1:])
    from stratum.sys.ending import end

    end(code)


def run(args: list[str]) -> int:
    """Run ``args`` and return the exit code; every failure is printed here and nowhere else."""
    if args == ["status", "--short"] and _prompt():
        return 0
    from stratum.cli.everyday import plain
    from stratum.config import is_completing
    from stratum.errors import StratumError

    verb = None if is_completing() else plain(args)
    if verb is None:
        from stratum.cli.main import run as parse_and_run

        return parse_and_run(args)
    try:
        verb()
        sys.stdout.flush()
    except (StratumError, OSError, MemoryError, KeyboardInterrupt) as exc:
        from stratum.cli.main import failed

        return failed(args, exc)
    return 0


def _open_standard_files() -> None:
    """Give a process that was started with standard files closed ``/dev/null`` for them, so that no file of the store
    that is opened next gets a number that something else prints to."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            break
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _prompt() -> bool:
    """Print the line of a prompt; whether that was possible."""
    from stratum.api.session import Session
    from stratum.cli.entering import enter_session
    from stratum.cli.output import Output
    from stratum.cli.prompt import print_prompt
    from stratum.config import load_config
    from stratum.errors import StratumError

    try:
        config, out = load_config(), Output()
        print_prompt(Session(enter_session(config, "", out.warn)), out, ".")
        sys.stdout.flush()
    except (StratumError, OSError):
        return False
    return True
