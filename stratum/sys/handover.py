"""What threads hand over to one thread that waits for descriptors."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from contextlib import suppress


class Handover:
    """Tasks for the thread that has ``fd`` among the descriptors that it polls: where that can be read, something is to
    be done."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def put(self, task: Callable[[], None]) -> None:
        """Have the other thread do something, after what was put before. For any thread."""
        self._tasks.put(task)
        os.eventfd_write(self.fd, 1)

    def do(self) -> None:
        """Do all that was handed over by now, the first first. What a task raises is raised; the others stay, and
        ``fd`` with them, where there are some."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        try:
            while True:
                self._tasks.get_nowait()()
        except queue.Empty:
            return
        except BaseException:
            os.eventfd_write(self.fd, 1)
            raise
