"""Whose file an event is about: the kernel tells of a file under the name that it looked it up by first, also when the
file has other names only; and events are read at any time between what is done."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.overlay_ops import KINDS
from tests.support.recorded import Recorded, begun

pytestmark = pytest.mark.root


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Recorded]:
    yield from begun(tmp_path)


def test_a_file_that_has_lost_the_name_it_was_known_by(app: Recorded) -> None:
    (app.view / "first").write_text("1")
    app.check()
    os.link(app.view / "first", app.view / "second")
    (app.view / "first").unlink()
    app.check()
    os.utime(app.view / "second", ns=(-1, -1))
    app.check()
    os.setxattr(app.view / "second", "user.x", b"1")
    app.check()
    os.truncate(app.view / "second", 0)
    app.check()
    (app.view / "second").write_text("2")
    (app.view / "second").chmod(0o600)
    app.check()
    assert app.versions(b"/second") == [b"1", b"1", b"", b"2"], "times, attributes, a cut, a save"


@pytest.mark.parametrize("seed", range(4))
def test_operations_are_recorded_exactly_whenever_it_is_listened(app: Recorded, seed: int) -> None:
    operations, chosen = app.operations(), random.Random(seed)
    for _ in range(15):
        for _ in range(20):
            operations.run((chosen.choice(KINDS), *(chosen.randrange(1 << 16) for _ in range(3))))
            if chosen.random() < 0.5:
                app.watcher.listen()
        app.check()
    assert app.told == []
