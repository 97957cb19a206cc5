"""The room that images of commits, and the trees that stand in for them, may take, and which of them are mounted."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.errors import StratumError
from stratum.store.imageroom import Room, Shown

if TYPE_CHECKING:
    from stratum.config import Config
    from stratum.mount.state import State
    from stratum.store import Store


def image_room(store: Store, state: State, config: Config) -> Room:
    """What holds for the images of the store. ``DamagedError`` where the limits cannot be read."""
    from stratum.store.budget import read_budget

    limit = read_budget(store.layout, config).images_max(store.layout)
    return Room(limit, lambda: shown(store, state), config.runtime_dir / "images")


def room_beside(room: Room, store: Store, going: Collection[str]) -> Room:
    """``room`` for the images of all commits but those that are ``going``, whether theirs are there still or not."""
    size = sum(store.images.remove_all(commit, dry_run=True) for commit in going)
    if not size:
        return room

    def others() -> Shown:
        found = room.shown()
        return Shown({*found.commits, *going}, found.unknown)

    return Room(room.limit + size, others, room.spare)


def shown(store: Store, state: State) -> Shown:
    """What mounts of the store show, or are to show at every start. Those that are on no record here, as mounts of
    another runtime directory, make it unknown. ``DamagedError`` where the record cannot be read."""
    from stratum.mount.record import PREFIX, is_of_another_store, is_source, mounts_of, store_mark

    ids = {record.id for record in state.records()}
    commits = {record.commit for record in state.of_store(store.root)}
    for mount in store.boot_mounts.scan()[0]:
        with suppress(StratumError):  # of what is gone there is no image either
            commits.add(store.resolve_mountable(mount.parsed()).commit)
    mark = store_mark(store.root)
    unknown = any(
        is_source(entry.source)
        and entry.source.removeprefix(PREFIX).partition(":")[0] not in ids
        and not is_of_another_store(entry, mark)
        for _, entry in mounts_of()
    )
    return Shown(commits, unknown)
