"""How work that takes long tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called again and again, with numbers that do not go down."""

    def __call__(self, done: int, total: int | None, /, files: int | None = None) -> None:
        """``done`` of ``total`` bytes, None while that is not known or guessed; in so many ``files``, where that says
        something."""
