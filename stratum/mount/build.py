"""Carrying out a plan: a detached mount first, then one step that attaches it.

Nothing is attached to anybody's mount namespace until the mount is whole, so a failure or a kill in between leaves
nothing behind. Kernels that want layers to be attached get them in a mount namespace of one thread, which ends with
the thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import (
    BusyError,
    DamagedError,
    NotFoundError,
    StratumError,
    UnsupportedError,
    UsageError,
    os_error_text,
)
from stratum.frozen import replace
from stratum.mount.plan import (
    Fd,
    Layers,
    LayerSyntax,
    Lower,
    Method,
    MountPlan,
    Parameter,
    method_for,
    overlay_parameters,
)
from stratum.sys import loop, mountapi, mountinfo, proc, userns
from stratum.sys.copymark import check_mark
from stratum.sys.mountapi import MNT_DETACH, MOUNT_ATTR_RDONLY, UMOUNT_NOFOLLOW, FilesystemContext
from stratum.sys.namespaces import CLONE_NEWNS, in_own_thread, unshare
from stratum.sys.syscalls import (
    AT_FDCWD,
    RESOLVE_NO_SYMLINKS,
    fd_path,
    open_nofollow,
    openat2,
    statx_mount_id,
)
from stratum.tree.overlay import Dialect

if TYPE_CHECKING:
    from stratum.mount.gate import GateLayers

# EROFS answers ENOTBLK where it takes block devices only, EINVAL where it cannot read the file's filesystem.
_NEEDS_LOOP_DEVICE = (errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP)
_USES_NAMED = 8
_SECONDS_TO_END = 2.0
_MOUNT_AS_ROOT = "mounting needs CAP_SYS_ADMIN: run it as root, or in a user namespace, as 'stratum shell' has one"
NO_MOUNTS = "'stratum restore REF / --to DIR' writes the files out instead"
"""The hint where no mount can be made."""


@cache
def kernel_method() -> Method:
    """The way that root makes mounts by on the running kernel; ``mount.probe`` finds that of others."""
    return method_for(os.uname().release)


def build_detached(plan: MountPlan, method: Method | None = None) -> int:
    """Make the mount of ``plan``, attached nowhere; a mount fd that the caller closes.

    Raises ``UnsupportedError`` (no privilege, no such filesystem in the kernel), ``DamagedError`` (an image or
    directory of the store is missing) or ``StratumError`` with the kernel's words.
    """
    chosen = method or plan.method or kernel_method()
    if chosen.lower is not Lower.EROFS:
        plan = _as_users_mount(plan)

    def build(gate: GateLayers | None) -> int:
        with ExitStack() as opened:
            image = opened.enter_context(_opened_image(plan, chosen))
            data = data_layers(plan, gate, chosen, lambda path: opened.enter_context(opened_layer(path)))
            upper = opened.enter_context(opened_layer(plan.upperdir)) if plan.upperdir else None
            # On a read-only file system the kernel takes no upperdir, only a layer to read.
            reads_only = upper is not None and bool(os.fstatvfs(upper).f_flag & os.ST_RDONLY)
            if reads_only and plan.writable:
                raise UnsupportedError(
                    "cannot mount a worktree for writing: the store's file system is read-only",
                    hint="mount it read-only: --read-only, or the option ro of a container's volume",
                )
            work = opened.enter_context(opened_layer(plan.workdir)) if plan.workdir and not reads_only else None
            layers = Layers(image, data, upper, work)
            if chosen.lower is not Lower.EROFS:
                return create_overlay(plan, _users_layers(plan, chosen, layers, opened), chosen)
            image_mount = opened.enter_context(closing(mount_image(image, chosen)))
            attach_layer(image_mount, plan, chosen)
            return create_overlay(plan, replace(layers, image=image_mount), chosen)

    return run_build(build, plan, chosen)


def _as_users_mount(plan: MountPlan) -> MountPlan:
    """``plan`` for an overlay that keeps its attributes where users may write them."""
    if plan.dialect is not Dialect.USER and plan.upperdir is not None:
        raise UnsupportedError(
            "this worktree was written by root, in attributes that nobody else can read",
            hint="mount it as root, or a tag or commit of it",
        )
    return replace(plan, dialect=Dialect.USER)


def _opened_image(plan: MountPlan, method: Method) -> contextlib.AbstractContextManager[int]:
    """What there is of the commit's names on disk, open."""
    if method.lower is not Lower.DIRECTORY:
        return opened_layer(plan.image, os.O_RDONLY)
    if plan.tree is None:
        raise ValueError("without an image a commit's names are in a directory")
    return opened_layer(plan.tree)


def _users_layers(plan: MountPlan, method: Method, layers: Layers, opened: ExitStack) -> Layers:
    """``layers``, whose ``image`` is the open image or tree of the plan, as the overlay is to have them.

    A FUSE server answers from the image. It ends by itself when the last mount of it is gone, which the overlay keeps
    for as long as that is there; ``opened`` closes what is mounted here. Where it serves contents, too, the overlay
    needs no data layers, but another layer below where there is none above.
    """
    if method.lower is Lower.DIRECTORY:
        return layers
    from stratum.metafs.serving import serve_image

    whole = method.lower is Lower.DATA
    objects = layers.data if whole else ()
    mounts = [serve_image(layers.image, objects=objects, data=whole, ids=plan.ids, source=plan.source)]
    opened.callback(os.close, mounts[0])
    if whole and layers.upperdir is None:
        mounts.append(_nothing())
        opened.callback(os.close, mounts[1])
    for mount in mounts:
        attach_layer(mount, plan, method)
    data, empty = () if whole else layers.data, mounts[1] if mounts[1:] else None
    return replace(layers, image=mounts[0], data=data, empty=empty)


def _nothing() -> int:
    """A detached mount of an empty filesystem."""
    with FilesystemContext("tmpfs") as context:
        context.create()
        return context.mount(MOUNT_ATTR_RDONLY)


def run_build(build: Callable[[GateLayers | None], int], plan: MountPlan, method: Method) -> int:
    """Call ``build`` with the plan's gate, if it has one, in a throw-away mount namespace where ``method`` needs one,
    with errors put in words."""
    if plan.upperdir is not None:
        check_mark(plan.upperdir.parent)
    try:
        with opened_gate(plan, method) as gate:
            if method.attached_layers:
                return in_own_thread(lambda: _in_private_namespace(lambda: build(gate)))
            return build(gate)
    except OSError as exc:
        raise explained(exc, f"cannot mount {plan.image}") from None


@contextlib.contextmanager
def opened_gate(plan: MountPlan, method: Method) -> Iterator[GateLayers | None]:
    """The filesystem of the plan's gate during the block; None where it has no gate. It is made here, before anything
    is done in another namespace, as who serves it may have to be started."""
    if plan.gate is None:
        yield None
        return
    if method.syntax is LayerSyntax.LIST:
        raise UnsupportedError(
            "files of the commit are not here, and fetching them when they are read needs Linux 6.5",
            hint="fetch them first: stratum realize REF",
        )
    if method.lower is Lower.DATA:
        raise UnsupportedError(
            "files of the commit are not here, and to fetch them when they are read takes root or Linux 6.16",
            hint="fetch them first: stratum realize REF",
        )
    from stratum.mount.gate import gate_layers

    with gate_layers(plan.gate, plan.source) as gate:
        yield gate


def data_layers(
    plan: MountPlan, gate: GateLayers | None, method: Method, opened: Callable[[Path], int]
) -> tuple[int, ...]:
    """The data layers of the plan, with those of its gate: fds. ``opened`` opens a directory.

    An object that is neither there nor was fetched ahead is asked for in ``ask``, and then is in the landing; else
    ``err`` says why not.
    """
    data = tuple(opened(layer) for layer in plan.data)
    if gate is None or plan.gate is None:
        return data
    attach_layer(gate.mount, plan, method)
    return (*data, opened(plan.gate.ahead), gate.ask, opened(plan.gate.landing), gate.err)


def _in_private_namespace(build: Callable[[], int]) -> int:
    unshare(CLONE_NEWNS)
    mountapi.make_private()
    return build()


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close ``fd`` at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened_layer(path: Path, flags: int = os.O_PATH | os.O_DIRECTORY) -> Iterator[int]:
    """A file or directory of the store, opened for the block; ``DamagedError`` where it is missing or a symlink."""
    try:
        fd = open_nofollow(path, flags)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise DamagedError(
                f"{path} cannot be mounted: {os_error_text(exc)}", hint="check the store: stratum fsck"
            ) from None
        raise
    with closing(fd):
        yield fd


def mount_image(image: int, method: Method) -> int:
    """A detached EROFS mount of the open ``image``: of the file itself, else by way of a loop device."""
    if not method.loop_device:
        try:
            return _mount_erofs(image)
        except OSError as exc:
            if exc.errno not in _NEEDS_LOOP_DEVICE:
                raise
    with closing(loop.attach_read_only(image)) as device:
        return _mount_erofs(device)


def _mount_erofs(source: int) -> int:
    with FilesystemContext("erofs") as context:
        context.set_flag("ro")
        context.set_string("source", fd_path(source))
        context.create()
        return context.mount(MOUNT_ATTR_RDONLY)


def attach_layer(layer: int, plan: MountPlan, method: Method) -> None:
    """Attach the mount ``layer`` where the kernel wants layers attached; only ever in the namespace of ``run_build``.

    The place does not matter, as layers are used by their fds; the folder of objects is sure to be there.
    """
    if method.attached_layers:
        with closing(open_nofollow(plan.data[0], os.O_PATH | os.O_DIRECTORY)) as target:
            mountapi.move_mount(layer, target)


def create_overlay(plan: MountPlan, layers: Layers, method: Method) -> int:
    """The detached overlay of ``layers``. Raises ``OSError`` or, where the kernel gave up writing or another overlay
    has the upperdir of a user's, ``StratumError``."""
    users = plan.dialect is Dialect.USER and not userns.in_initial_namespace()
    alone = users and layers.workdir is not None and not plan.shared
    # The mounts of a namespace that has ended, and those without a name, are taken down a little later.
    deadline = time.monotonic() + _SECONDS_TO_END
    while True:
        try:
            mount = _overlay(plan, overlay_parameters(plan, layers, method.syntax, alone=alone))
            break
        except OSError as exc:
            if not alone or exc.errno != errno.EBUSY:
                raise
            if time.monotonic() > deadline:
                raise _taken(plan) from None
            time.sleep(0.02)
    if plan.writable and os.fstatvfs(mount).f_flag & os.ST_RDONLY:
        os.close(mount)
        raise _no_writable(plan)
    return mount


def _overlay(plan: MountPlan, parameters: list[Parameter]) -> int:
    with FilesystemContext("overlay") as context:
        for key, value in parameters:
            if value is None:
                context.set_flag(key)
            elif isinstance(value, Fd):
                context.set_fd(key, value.number)
            else:
                context.set_string(key, value)
        context.create()
        return context.mount(plan.attributes)


def _taken(plan: MountPlan) -> BusyError:
    return BusyError(
        f"another mount, which cannot be seen from here, writes to {plan.upperdir}",
        hint="it is in a container that has the store, or was unmounted while it was in use: end what uses it",
    )


def _no_writable(plan: MountPlan) -> StratumError:
    """Why the kernel mounted read-only what it was to mount writable. It only logs that (no space for what it makes in
    the workdir, no xattrs, no whiteouts), so the first is tried here."""
    from stratum.store.layout import storage_error

    assert plan.workdir is not None
    probe = plan.workdir / f"probe-{os.urandom(8).hex()}"
    try:
        probe.mkdir(0o700)
        probe.rmdir()
    except OSError as exc:
        return storage_error(exc, f"mount a worktree for writing: {plan.workdir}")
    kind = plan.dialect.name.lower()
    return StratumError(
        f"the kernel cannot use {plan.workdir} to write with and offered a read-only mount",
        hint=f"the store's filesystem must support {kind} xattrs and whiteouts (ext4, xfs, btrfs); see dmesg",
    )


def explained(exc: OSError, what: str) -> StratumError:
    """``exc`` from a mount call as the error to show; ``what`` says what could not be done."""
    about = f"{exc.filename}: " if exc.filename == "/dev/fuse" else ""
    text = f"{what}: {about}{os_error_text(exc)}"
    if exc.errno == errno.EPERM or (exc.errno == errno.EACCES and not userns.is_privileged()):
        return UnsupportedError(text, hint=_MOUNT_AS_ROOT if userns.in_initial_namespace() else NO_MOUNTS)
    if exc.errno == errno.ENODEV:
        return UnsupportedError(
            f"{what}: this kernel has no such filesystem: {exc.filename or 'overlay or erofs'}",
            hint="load it (modprobe overlay; modprobe erofs) or start a kernel that has it",
        )
    if exc.errno == errno.ENOSYS:
        return UnsupportedError(text, hint="this kernel is too old: Linux 5.15 or later is needed")
    # Filesystems tell most reasons to the kernel's log only.
    return StratumError(text, hint="the kernel log may say why: dmesg | tail" if exc.errno == errno.EINVAL else "")


def open_mountpoint(target: Path, *, follow: bool = True) -> int:
    """The directory ``target`` as an O_PATH fd; its last component may not be a symlink, without ``follow`` none.

    Raises ``NotFoundError`` or ``UsageError``.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return openat2(AT_FDCWD, os.fspath(target), flags, resolve=0 if follow else RESOLVE_NO_SYMLINKS)
    except FileNotFoundError:
        raise NotFoundError(f"{target} does not exist", hint=f"make the directory first: mkdir {target}") from None
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            if target.is_symlink():
                raise UsageError(f"{target} is a symbolic link", hint="name the directory that it leads to") from None
            what = "leads through a symbolic link" if exc.errno == errno.ELOOP else "is not a directory"
            raise UsageError(f"{target} {what}") from None
        raise StratumError(f"cannot open {target}: {os_error_text(exc)}") from None


def attach(mount: int, target: Path, *, follow: bool = True) -> int:
    """Attach the detached ``mount`` on the directory ``target``; returns its mount ID (see ``statx_mount_id``).

    Raises as ``open_mountpoint`` does, or ``StratumError``.
    """
    with closing(open_mountpoint(target, follow=follow)) as directory:
        try:
            mountapi.move_mount(mount, directory)
            return statx_mount_id(directory=mount)
        except OSError as exc:
            raise explained(exc, f"cannot mount on {target}") from None


def mount(plan: MountPlan, target: Path, *, follow: bool = True) -> int:
    """Build ``plan`` and attach it on ``target`` (see ``open_mountpoint``); returns the mount ID."""
    with closing(build_detached(plan)) as built:
        return attach(built, target, follow=follow)


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount what is mounted at ``mountpoint``; with ``lazy`` also while it is in use.

    Raises ``BusyError`` naming the processes that use it, ``NotFoundError`` where nothing is mounted there.
    """
    try:
        mountapi.umount2(mountpoint, UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise busy(mountpoint) from None
        if exc.errno in (errno.EINVAL, errno.ENOENT):
            raise NotFoundError(f"nothing is mounted at {mountpoint}") from None
        raise explained(exc, f"cannot unmount {mountpoint}") from None


def busy(mountpoint: Path) -> BusyError:
    """The error for a mount that is in use, with who uses it."""
    entry = mountinfo.topmost(mountpoint)
    nested = mountinfo.below(entry) if entry else []
    if nested:
        return BusyError(
            f"other filesystems are mounted on {mountpoint}: {', '.join(e.mountpoint for e in nested[:8])}",
            hint="unmount them first",
        )
    users = proc.users_of_device(entry.device) if entry else []
    users = [use for use in users if use.pid != os.getpid()] or users  # whose own directory is that of who called it
    return BusyError(
        f"{mountpoint} is in use: {named_uses(users) if users else 'by the kernel'}",
        hint="stop these processes or leave the directory, then try again",
    )


def named_uses(users: list[proc.ProcessUse]) -> str:
    """The first uses as text, the writing ones first, and how many more there are."""
    shown = [str(use) for use in sorted(users, key=lambda use: (not use.writing, use.pid))]
    more = [f"{len(shown) - _USES_NAMED} more"] if len(shown) > _USES_NAMED else []
    return ", ".join(shown[:_USES_NAMED] + more)
