"""Words that several messages of the driver have in them. Pure."""

from __future__ import annotations


def in_units(size: int) -> str:
    """Bytes in binary units with one decimal: ``1.5 MiB``."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
