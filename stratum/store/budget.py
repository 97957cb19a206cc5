"""How much room content may take that can be fetched again, and images, which can be made again: ``cache.toml`` of a
store.

::

    [cache]  max (bytes, where there is a limit), min_free (percent of the file system, where it is not the default),
             images (bytes, likewise)
    [check]  tells changed bytes (``store.tables``)

There is no file where nobody set a limit. What the settings (``config``) say comes first.
"""

from __future__ import annotations

import os

from stratum.config import NO_LIMIT, Config
from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.store.layout import Layout, storage_error
from stratum.store.tables import Tables, read_tables, write_tables
from stratum.store.transaction import Transactions

BUDGET = "cache.toml"
MIN_FREE = 15
"""Percent. Kubelets begin to throw pods out at 10."""
IMAGES_MAX, IMAGES_PERCENT = 2 << 30, 5
"""What images may take where nobody chose: so many bytes, or so large a part of the file system if that is less."""
MARGIN = 20
"""Where a limit is passed, so large a part of it (1 / 20) goes besides."""


@frozen
class Budget:
    """``max`` is in bytes, ``min_free`` in percent of the file system; ``is_set`` says whether anybody chose either.
    ``images`` is in bytes, None where nobody chose it."""

    max: int = NO_LIMIT
    min_free: int = MIN_FREE
    is_set: bool = False
    images: int | None = None

    def images_max(self, layout: Layout) -> int:
        """The bytes that images, and the trees that stand in for them, may take. ``StratumError``."""
        if self.images is not None:
            return self.images
        disk = _disk(layout)
        return min(IMAGES_MAX, disk.f_blocks * disk.f_frsize * IMAGES_PERCENT // 100)

    def excess(self, layout: Layout, held: int, coming: int = 0) -> int:
        """The bytes that must go for ``coming`` more to fit in, where content that can be fetched again takes ``held``;
        0 where they do. More than just enough, so that not each little thing makes something go. Raises
        ``StratumError``."""
        disk = _disk(layout)
        free, kept = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize * self.min_free // 100
        above, below = held + coming - self.max, kept + coming - free
        return max(
            above + self.max // MARGIN if above > 0 else 0,
            below + kept // MARGIN if below > 0 else 0,
        )


def read_budget(layout: Layout, config: Config) -> Budget:
    """The budget of the store. ``DamagedError``."""
    noted = _noted(layout)
    limit = config.cache_max if config.cache_max is not None else noted.get("max", NO_LIMIT)
    free = config.cache_min_free if config.cache_min_free is not None else noted.get("min_free", MIN_FREE)
    images = config.cache_images if config.cache_images is not None else noted.get("images")
    chosen = bool(noted.keys() & {"max", "min_free"}) or config.cache_max is not None
    return Budget(limit, free, chosen or config.cache_min_free is not None, images)


def set_budget(
    layout: Layout,
    transactions: Transactions,
    *,
    limit: int | None = None,
    min_free: int | None = None,
    images: int | None = None,
) -> None:
    """Note a ``limit`` (bytes), ``min_free`` (percent), a limit of ``images`` (bytes), or several, in the store,
    durably."""
    with transactions.begin("setting the limits of the cache") as tx:
        try:
            noted = _noted(layout)
        except DamagedError:
            noted = {}
        given = {"max": limit, "min_free": min_free, "images": images}
        noted.update({key: value for key, value in given.items() if value is not None})
        tx.place_file(write_tables({"cache": noted}, "the limits of the cache"), layout.root / BUDGET)


def parse_budget(data: bytes, where: str) -> dict[str, int]:
    """What the file ``where`` notes. ``DamagedError``."""
    tables = Tables(read_tables(data, where), where)
    noted = {key: tables.count("cache", key) for key in ("max", "min_free", "images") if tables.has("cache", key)}
    if max(noted.get("max", 0), noted.get("images", 0)) > NO_LIMIT or noted.get("min_free", 0) > 99:
        raise DamagedError(f"{where} has a limit that cannot be", hint="set it again with 'stratum cache limit'")
    return noted


def _noted(layout: Layout) -> dict[str, int]:
    path = layout.root / BUDGET
    data = layout.content_of(path)
    if data is None:
        return {}
    return parse_budget(data, str(path))


def _disk(layout: Layout) -> os.statvfs_result:
    try:
        return os.statvfs(layout.root)
    except OSError as exc:
        raise storage_error(exc, f"look at the file system of {layout.root}") from None
