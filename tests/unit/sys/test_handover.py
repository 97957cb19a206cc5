"""Tasks that threads hand over to one that polls."""

from __future__ import annotations

import select
import threading

import pytest

from stratum.sys.handover import Handover


def is_readable(handover: Handover) -> bool:
    return bool(select.select([handover.fd], [], [], 0)[0])


def test_what_threads_put_is_done_in_order() -> None:
    handover, done = Handover(), []
    assert not is_readable(handover)
    for number in range(3):
        thread = threading.Thread(target=handover.put, args=(lambda number=number: done.append(number),))
        thread.start()
        thread.join()
    assert is_readable(handover)
    handover.do()
    assert done == [0, 1, 2]
    assert not is_readable(handover)


def test_nothing_to_do() -> None:
    Handover().do()


def test_after_one_that_fails_the_others_are_still_there() -> None:
    handover, done = Handover(), []
    handover.put(lambda: done.append(1 // 0))
    handover.put(lambda: done.append("next"))
    with pytest.raises(ZeroDivisionError):
        handover.do()
    assert is_readable(handover)
    handover.do()
    assert done == ["next"]
