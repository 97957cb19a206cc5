"""Progress bars: on a terminal only, never with --quiet or JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stratum import progress
from stratum.cli.output import Output


@contextmanager
def progress_bar(
    out: Output, label: str, *, unit: str = "bytes", late: bool = False
) -> Iterator[progress.Progress | None]:
    """Yield a callable that moves the bar, or None where no bar is shown. ``unit`` is ``bytes`` or ``files``; ``late``:
    it is shown when it is first moved."""
    if out.quiet or out.json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    columns += [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    columns.append(TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, visible=not late)

        def advance(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield advance
