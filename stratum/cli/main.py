"""Entry point of ``stratum``: the verb that the arguments name, errors turned into exit codes.

Exit codes: 0 done; 1 failed; 2 usage; 3 not found; 4 exists, busy or conflict; 5 damage found; 6 not possible here;
130 interrupted.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from typing import Any

from stratum.cli import usual
from stratum.cli.output import JSON, print_error
from stratum.errors import StratumError, os_error_text


def main() -> None:
    """Run the command line; never returns."""
    _open_standard_files()
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run ``args`` and return the exit code; every failure is printed here and nowhere else."""
    as_json = _json_wanted(args)
    gc.set_threshold(50_000, 20, 50)  # trees are many small objects and no cycles: looking for some costs a fifth
    try:
        result = _execute(args, as_json=as_json)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print_error(130, "interrupted", "interrupted", "", as_json=as_json)
        return 130
    except StratumError as exc:
        print_error(exc.exit_code, exc.id, exc.message, exc.hint, as_json=as_json)
        return exc.exit_code
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except OSError as exc:
        where = f"{os.fsdecode(exc.filename)}: " if isinstance(exc.filename, (str, bytes)) else ""
        print_error(1, "failed", f"{where}{os_error_text(exc)}", "", as_json=as_json)
        return 1
    except MemoryError:
        print_error(1, "failed", "out of memory", "", as_json=as_json)
        return 1
    return result if isinstance(result, int) else 0


def _execute(args: list[str], *, as_json: bool) -> Any:
    """Call the verb: the usual ones in the usual way without click, which takes longer to load than they to run."""
    call = usual.read(args)
    if call is not None:
        return call.run()
    from stratum.cli.group import invoke

    return invoke(args, as_json=as_json)


def _json_wanted(args: list[str]) -> bool:
    """Whether errors go out as JSON, known even where the options themselves do not parse."""
    return "--format=json" in args or any(pair == ("--format", JSON) for pair in itertools.pairwise(args))


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


def _silence_stdout() -> None:
    """The reader of stdout has gone: keep the interpreter from writing what is left at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
