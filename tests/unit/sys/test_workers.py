"""Worker processes: messages of any size both ways at once, descriptors, and ends that are no surprise."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from stratum.errors import StratumError
from stratum.sys.workers import MAX_DESCRIPTORS, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("tests.support.echo", "tells it again", ("tests",))
    yield made
    made.close()


def test_neither_end_waits_for_the_other_to_read(worker: Worker) -> None:
    for number in range(20):
        worker.post([number, bytes(1 << 20)])
    assert [worker.next()[0] for _ in range(20)] == list(range(20))
    assert not worker.has_unsent
    assert worker.arrived() == []


def test_descriptors_come_with_their_message_and_are_closed(worker: Worker) -> None:
    pipes = [os.pipe() for _ in range(MAX_DESCRIPTORS)]
    for number, (_, end) in enumerate(pipes):
        os.write(end, b"%d" % number)
        os.close(end)
    worker.post("first")
    worker.post("read", [fd for fd, _ in pipes])
    assert worker.next() == "first"
    assert worker.next() == [b"%d" % number for number in range(MAX_DESCRIPTORS)]
    for fd, _ in pipes:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_answers_that_came_before_the_end_are_there(worker: Worker) -> None:
    worker.post("last words")
    worker.post("too much")
    assert worker.next() == "last words"
    with pytest.raises(StratumError, match="a process that tells it again ended with code 1") as caught:
        worker.next()
    assert "memory" in caught.value.hint
    worker.post("is anybody there")
    with pytest.raises(StratumError):
        worker.arrived()


def test_who_waits_is_told_of_a_kill(worker: Worker) -> None:
    timer = threading.Timer(0.2, worker.kill)
    timer.start()
    with pytest.raises(StratumError, match="was killed by signal 9"):
        worker.next()
    timer.join()


def test_a_worker_has_the_packages_that_it_is_to_have() -> None:
    from stratum.zstd import PACKAGES

    for names in (["blake3"], ["click.core"], [*PACKAGES]):
        made = Worker("tests.support.echo", "tells it again", ("tests", *names))
        made.post(["import", *names])
        assert made.next() == names
        made.close()
