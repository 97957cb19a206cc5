"""Where ``stratum`` starts.

A shell waits for the line of its prompt each time, and loading the command line takes as long as finding out what is in
that line. So ``stratum status --short``, just as it stands in prompts, goes without; whatever else is given, and what
fails, is the command line's.
"""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Print the line of a prompt, or run the command line."""
    # Modules and trees are many small objects and no cycles: looking for some costs a fifth, and a short command ends
    # before the first look.
    gc.set_threshold(200_000, 20, 50)
    if sys.argv[1:] == ["status", "--short"] and sys.stdout is not None and _prompt():
        from stratum.sys.ending import end

        end(0)
    from stratum.cli.main import main as run

    run()


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
