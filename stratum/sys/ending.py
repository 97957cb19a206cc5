"""How a command ends: at once, where nothing waits for the interpreter to be taken apart.

That takes a short command a fifth of its time. Everything durable has been written by then, locks and descriptors go
with the process.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def end(status: int) -> NoReturn:
    """End the process with ``status``, as the interpreter does at its end: what was printed is out, threads have ended,
    and functions that are registered with ``atexit`` have run."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        threads = sys.modules.get("threading")
        if (threads is None or threads.active_count() == 1) and not atexit._ncallbacks():
            os._exit(status)
    except (OSError, ValueError):  # the interpreter tells of what cannot be printed any more
        pass
    sys.exit(status)
