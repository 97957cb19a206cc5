"""Calls of obstore that Ctrl-C ends at once.

A call that waits does not look at signals. So in the main thread, to which they come, the same call is awaited in an
event loop: there a ``KeyboardInterrupt`` gives the request up. In every other thread, and in a program that has a loop
running in this one (a notebook), it is called as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_MOMENT = 0.05
_PIECES_MAX = 16


def call(library: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """The function ``name`` of obstore. Raises what it raises."""
    if not _interrupted_here():
        return getattr(library, name)(*arguments, **options)
    awaited: Callable[..., Any] = getattr(library, f"{name}_async")

    async def run() -> Any:
        return await awaited(*arguments, **options)

    with _loop() as loop:
        return _await(loop, run())


def each(stream: Any) -> Iterator[Any]:
    """What a stream of obstore gives, piece by piece."""
    if not _interrupted_here():
        yield from stream
        return

    async def some() -> tuple[list[Any], bool]:
        """What comes in a moment, at least one; whether that is all."""
        found: list[Any] = []
        until = time.monotonic() + _MOMENT
        try:
            while not found or (len(found) < _PIECES_MAX and time.monotonic() < until):
                found.append(await stream.__anext__())
        except StopAsyncIteration:
            return found, True
        return found, False

    with _loop() as loop:
        over = False
        while not over:
            found, over = _await(loop, some())
            yield from found


def _interrupted_here() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


@contextmanager
def _loop() -> Iterator[AbstractEventLoop]:
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


def _await(loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns; given up where this is interrupted."""
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    except BaseException:
        if not task.done():
            task.cancel()
            import asyncio

            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        raise
