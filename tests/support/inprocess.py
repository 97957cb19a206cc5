"""The command line in this process, for tests that run it hundreds of times: its exceptions are those of the test."""

from __future__ import annotations

import contextlib
import io

from stratum.cli.start import run
from tests.support.command import Result


def stratum(*args: object) -> Result:
    """Run ``stratum ARGS`` with this process's environment and working directory."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(map(str, args)))
        out.flush()
    printed = out.buffer.getvalue()  # type: ignore[attr-defined]
    return Result(code, printed.decode("utf-8", "surrogateescape"), err.getvalue())
