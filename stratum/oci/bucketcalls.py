"""Calls of obstore that Ctrl-C ends at once.

A call that waits does not look at signals. So in the main thread, to which they come, another thread makes the call,
and this one waits: there a ``KeyboardInterrupt`` leaves the other behind. In every other thread it is called as it is.

obstore's own futures are not awaited instead: what these leave in Rust's threads took the interpreter down with SIGABRT
where it ended a moment later. For the same reason a thread has ended before its answer is given on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_MOMENT = 0.05
_LOOK = 0.5
_PIECES_MAX = 16
_T = TypeVar("_T")


def call(library: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """The function ``name`` of obstore. Raises what it raises."""
    function: Callable[..., Any] = getattr(library, name)
    return _apart(lambda: function(*arguments, **options))


def each(stream: Any) -> Iterator[Any]:
    """What a stream of obstore gives, piece by piece."""
    pieces = iter(stream)

    def some() -> tuple[list[Any], BaseException | None]:
        """What comes in a moment, at least one, and how it ended."""
        found: list[Any] = []
        until = time.monotonic() + _MOMENT
        try:
            while not found or (len(found) < _PIECES_MAX and time.monotonic() < until):
                found.append(next(pieces))
        except BaseException as exc:  # for who waits
            return found, exc
        return found, None

    ended: BaseException | None = None
    while ended is None:
        found, ended = _apart(some)
        yield from found
    if not isinstance(ended, StopIteration):
        raise ended


def _apart(function: Callable[[], _T]) -> _T:
    """What ``function`` returns; called in another thread where this is the main one."""
    if threading.current_thread() is not threading.main_thread():
        return function()
    answers: SimpleQueue[tuple[list[_T], BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(([function()], None))
        except BaseException as exc:  # for who waits
            answers.put(([], exc))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while True:
        try:
            answer, error = answers.get(timeout=_LOOK)
            break
        except Empty:  # a signal that another thread was given wakes nobody here: it is looked for
            continue
    thread.join()
    if error is not None:
        raise error
    return answer[0]
