"""How the programs of the driver start and end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from stratum.errors import StratumError


def run_program(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], argv: list[str] | None
) -> int:
    """``run`` with the options in ``argv`` (None: of the command line); the exit status. What fails is on stderr."""
    args = parser.parse_args(argv)
    try:
        return run(args)
    except StratumError as exc:
        sys.stderr.write(f"error: {exc.message}\n" + (f"hint: {exc.hint}\n" if exc.hint else ""))
        return exc.exit_code
