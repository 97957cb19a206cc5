"""Progress bars: on a terminal only, never with --quiet or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stratum import progress
from stratum.cli.output import human_size

if TYPE_CHECKING:
    from stratum.cli.work import Work

_EVERY = 0.05
"""Seconds between two movements of a bar: work may tell of each file, and is not to wait for the terminal."""


@contextmanager
def progress_bar(app: Work, label: str, *, late: bool = False) -> Iterator[progress.Progress | None]:
    """Yield what moves the bar, or None where no bar is shown. ``late``: it is shown when it is first moved."""
    with progress_bars(app, label, late=late) as bars:
        yield bars[0]


@contextmanager
def progress_bars(app: Work, *labels: str, late: bool = False) -> Iterator[list[progress.Progress | None]]:
    """As ``progress_bar`` for work that has steps, one after the other: a bar for each, of which the one that was moved
    last is shown; before that the first one, or none where they are ``late``."""
    out = app.out
    if out.quiet or out.json or not sys.stderr.isatty():
        yield [None for _ in labels]
        return
    _ = app.session  # bars make a thread, and a process with threads enters no user namespace
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Label(ProgressColumn):
        """What is done; with all of it read or written, what makes it durable is still to come."""

        def render(self, task: Task) -> Text:
            ends = task.total is not None and task.completed >= task.total > 0
            return Text(f"{task.description}, finishing" if ends else task.description)

    class Numbers(ProgressColumn):
        """Files and bytes so far, in the units that everything else is told in."""

        def render(self, task: Task) -> Text:
            files = task.fields["files"]
            words = [] if files is None else [f"{files:,} files"]
            size = human_size(int(task.completed))
            words.append(size if task.total is None else f"{size} of {human_size(int(task.total))}")
            if task.speed:
                words.append(f"{human_size(int(task.speed))}/s")
            return Text(", ".join(words))

    one_line = Column(no_wrap=True)
    columns = (Label(), BarColumn(bar_width=20), Numbers(table_column=one_line), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = [
            bar.add_task(label, total=None, visible=not (late or number), start=not (late or number), files=None)
            for number, label in enumerate(labels)
        ]

        def mover(task: TaskID) -> progress.Progress:
            told = 0.0

            def advance(done: int, total: int | None, /, files: int | None = None) -> None:
                nonlocal told
                now = time.monotonic()
                if now - told < _EVERY and done != total:
                    return
                told = now
                known = None if total is None else max(total, done)
                bar.start_task(task)
                bar.update(task, completed=done, total=known, visible=True, files=files)
                for other in tasks:
                    if other != task and bar.tasks[other].visible:
                        bar.update(other, visible=False)

            return advance

        yield [mover(task) for task in tasks]
