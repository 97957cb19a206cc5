"""Mounts for containers with a user namespace: idmapped layers.

The files of a stratum keep IDs that mean the same on every host (0 is root). Inside a user namespace whose 0 is, say,
100000 outside, they would belong to nobody; so every layer is idmapped by that namespace: the detached mount of the
image, a detached clone of each data layer, and one of the worktree's directory, cloned once because upperdir and
workdir must be on the same mount. A gate's directories stay as they are: nobody sees who owns what is in them.

The overlay must be made with the filesystem IDs of the namespace's root, because the kernel makes the workdir's files
by them, and with all capabilities effective, which the change of IDs takes away: else it silently mounts read-only.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.frozen import frozen
from stratum.mount.build import (
    attach_layer,
    closing,
    create_overlay,
    data_layers,
    kernel_method,
    mount_image,
    opened_layer,
    run_build,
)
from stratum.mount.plan import Layers, Method, MountPlan
from stratum.sys import mountapi, namespaces
from stratum.sys.syscalls import open_beneath

if TYPE_CHECKING:
    from stratum.mount.gate import GateLayers


@frozen
class IdMap:
    """A user namespace (an fd of ``/proc/PID/ns/user``) and the host's IDs of its user and group 0."""

    user_namespace: int
    uid: int
    gid: int


def build_idmapped(plan: MountPlan, idmap: IdMap, method: Method | None = None) -> int:
    """As ``build.build_detached``, with every file owned as the user namespace of ``idmap`` sees it.

    ``plan.upperdir`` and ``plan.workdir`` must be entries of one directory (``ValueError``). Needs Linux >= 5.19 and a
    filesystem below the store that can be idmapped.
    """
    if plan.upperdir is not None and plan.workdir is not None and plan.upperdir.parent != plan.workdir.parent:
        raise ValueError("an idmapped upperdir and workdir must be in one directory")
    chosen = method or kernel_method()

    def build(gate: GateLayers | None) -> int:
        with ExitStack() as opened:
            image = opened.enter_context(opened_layer(plan.image, os.O_RDONLY))
            image_mount = opened.enter_context(closing(mount_image(image, chosen)))
            layers = [image_mount]

            def cloned(directory: Path) -> int:
                layers.append(opened.enter_context(closing(_clone(directory))))
                return layers[-1]

            data = data_layers(plan, gate, chosen, cloned)
            upper = work = None
            if plan.upperdir is not None and plan.workdir is not None:
                worktree = opened.enter_context(closing(_clone(plan.upperdir.parent)))
                layers.append(worktree)
                upper = opened.enter_context(closing(_entry(worktree, plan.upperdir)))
                work = opened.enter_context(closing(_entry(worktree, plan.workdir)))
            for layer in layers:
                mountapi.mount_setattr(layer, user_namespace=idmap.user_namespace)
            for layer in layers:
                attach_layer(layer, plan, chosen)
            namespaces.set_filesystem_ids(idmap.uid, idmap.gid)
            namespaces.raise_effective_capabilities()
            return create_overlay(plan, Layers(image_mount, data, upper, work), chosen)

    # In a thread of its own in any case: the IDs and capabilities are the thread's.
    return namespaces.in_own_thread(lambda: run_build(build, plan, chosen))


def _clone(directory: Path) -> int:
    with opened_layer(directory) as fd:
        return mountapi.open_tree_clone(fd)


def _entry(worktree: int, path: Path) -> int:
    return open_beneath(worktree, os.fsencode(path.name), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
