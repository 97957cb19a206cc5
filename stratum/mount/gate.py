"""A mount's gate: the FUSE filesystem that two data layers of a mount are in, made here and served elsewhere.

Who mounts opens /dev/fuse, makes the filesystem, attached nowhere, and hands the descriptor to the keeper
(``mount.gatewire``); where none listens, it starts one. The overlay alone holds the filesystem from then on, so the
gate ends by itself with the mount, in whatever namespaces that was copied to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stratum.mount.gatewire import GarbageError
from stratum.mount.plan import Gate


def gate_to_json(gate: Gate) -> dict[str, Any]:
    """A gate as it is sent."""
    return {
        "store": str(gate.store),
        "commit": gate.commit,
        "landing": str(gate.landing),
        "runtime_dir": str(gate.runtime_dir),
        "settings": dict(gate.settings),
        "options": dict(gate.options),
    }


def gate_from_json(table: object) -> Gate:
    """The gate in a message; ``GarbageError``."""
    if not isinstance(table, dict):
        raise GarbageError("a gate is not an object")
    texts = [table.get(key) for key in ("store", "commit", "landing", "runtime_dir")]
    maps = [table.get(key) for key in ("settings", "options")]
    if not all(isinstance(text, str) and text and "\0" not in text for text in texts) or not all(map(_is_texts, maps)):
        raise GarbageError("a gate lacks a field, or one is of the wrong kind")
    store, commit, landing, runtime_dir = map(str, texts)
    return Gate(Path(store), commit, Path(landing), Path(runtime_dir), *(dict(table or {}) for table in maps))


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
