"""``copy-up``: a new, empty worktree begins with what the container's image has at the destination.

What is read is the image alone: a clone of the mount of the container's root file system, without anything that is
mounted below it, be it another volume or a directory of the host. The destination is looked up in it as the container
would, so a link of the image leads nowhere else. The image is somebody else's: what is read is bounded in number by
``MAX_ENTRIES`` and in bytes by the time that the hook has, device nodes are refused, and nothing is written but objects
of the store.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UsageError, os_error_text
from stratum.mount.container import ContainerProcess
from stratum.sys.mountapi import open_tree_clone
from stratum.sys.namespaces import enter_mount_namespace, in_own_thread
from stratum.sys.syscalls import open_in_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from stratum.store import Store
    from stratum.store.transaction import Transaction
    from stratum.tree.model import Directory

MAX_ENTRIES = 500_000


def image_tree(
    store: Store,
    tx: Transaction,
    process: ContainerProcess,
    rootfs: Path,
    destination: str,
    warn: Callable[[str], None],
) -> Directory | None:
    """What the image of a container has at ``destination``, owned as the container sees it; None where it has nothing.

    The objects are in ``tx``; ``warn`` gets a line for what was left out. Raises ``UsageError`` where no directory is
    there, ``StratumError`` for what cannot be copied.
    """
    from stratum.ingest.directory import import_opened
    from stratum.tree.owners import translate_owners, translation

    directory = _open(process, rootfs, destination)
    if directory is None:
        return None
    try:
        tree, warnings = import_opened(store, tx, directory, os.fsencode(destination), max_entries=MAX_ENTRIES)
    except StratumError as exc:
        raise StratumError(f"copy-up from the image: {exc.message}") from None
    finally:
        os.close(directory)
    for warning in warnings:
        warn(f"copy-up from the image: {warning}")
    if process.has_user_namespace:
        translate_owners(tree, translation(process.id_ranges("uid_map")), translation(process.id_ranges("gid_map")))
    return tree


def _open(process: ContainerProcess, rootfs: Path, destination: str) -> int | None:
    def work() -> int:
        enter_mount_namespace(process.mount_namespace)
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            image = open_tree_clone(root)
        finally:
            os.close(root)
        try:
            return open_in_root(image, destination.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(image)

    try:
        return in_own_thread(work)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            raise UsageError(f"destination {destination} is not a directory in the container") from None
        raise StratumError(f"cannot read {destination} in the container's image: {os_error_text(exc)}") from None
