"""Gates as they are sent to the keeper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stratum.mount.gate import gate_from_json, gate_to_json
from stratum.mount.plan import Gate
from stratum.sys.packets import GarbageError

GATE = Gate(
    Path("/s"), "ab" * 32, Path("/s/landing"), Path("/s/ahead"), Path("/run/x"), {"HOME": "/root"}, {"prefetch": "all"}
)


def test_a_gate_arrives_as_it_was_sent() -> None:
    assert gate_from_json(json.loads(json.dumps(gate_to_json(GATE)))) == GATE


@pytest.mark.parametrize(
    "change",
    [{"store": ""}, {"store": 1}, {"commit": None}, {"settings": {"a": 1}}, {"options": []}, {"landing": "\0"}],
)
def test_a_gate_with_a_wrong_field_is_garbage(change: dict[str, object]) -> None:
    with pytest.raises(GarbageError):
        gate_from_json({**gate_to_json(GATE), **change})
