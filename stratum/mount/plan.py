"""What to mount: the layers of one commit or worktree and the filesystem parameters that say so. Pure.

A commit is shown by two filesystems (composefs): its image is an EROFS with names and metadata, and an overlay takes
file contents from its data layers through the image's attributes ``metacopy`` and ``redirect``. An object is taken from
the first data layer that has it; a file whose object is in none of them cannot be opened. A worktree adds an upperdir
and a workdir. Each parameter is handed to the kernel by itself, and each layer as an open file, so no character in a
path has a meaning.

That is a mount by root. The kernel lets nobody else mount an EROFS, so in a user namespace something else stands in for
it (``Lower``), and the overlay keeps its attributes where users may write them (``Dialect.USER``).

A commit that is not here whole gets a **gate** (``mount.gate``): a FUSE filesystem whose directory ``ask``, as a data
layer after the objects, lets who opens a file wait until its object is in the directory ``landing``, the layer after
that. The last layer, ``err``, has the error where that failed. What was fetched and nobody had asked for is in the
directory ``ahead``, the layer before ``ask``: no layer can be there twice.

``index=off`` is always said: with an index, a worktree could not be mounted over another base (ESTALE).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import UnsupportedError
from stratum.frozen import field, frozen, replace
from stratum.sys.mountapi import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from stratum.sys.syscalls import fd_path
from stratum.tree.overlay import Dialect

if TYPE_CHECKING:
    from stratum.metafs.ids import IdTable


@frozen
class Gate:
    """What fetches the objects of ``commit`` that the store at ``store`` does not have yet, for one mount.

    ``landing`` and ``ahead`` are the directories where they wait for their names, those that were asked for and those
    that were not; ``runtime_dir`` is that of the socket of who fetches them. ``settings`` is the part of the
    environment by which registries are reached, ``options`` what was asked for this mount. Neither is for other users'
    eyes.
    """

    store: Path
    commit: str
    landing: Path
    ahead: Path
    runtime_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def gate_starts_keeper(options: Mapping[str, str]) -> bool:
    """Whether a gate with these options starts a keeper where none runs, or leaves that to others."""
    return options.get("start") != "never"


@frozen
class MountPlan:
    """One mount: ``image`` (a commit's EROFS image) over ``data``, writable where there is an upperdir.

    ``data`` are directories of objects (``ab/cdef...``), at least one. ``upperdir`` and ``workdir`` come together and
    are on one filesystem. ``read_only`` refuses writes also where there is an upperdir. ``source`` is what ``findmnt``
    shows as the source; ``context`` is an SELinux label for all files. ``extra`` are ``MOUNT_ATTR_*`` of this mount
    besides those that every mount gets. ``dialect`` is that of upperdir and overlay. ``gate`` is there where objects of
    the commit may be missing; it needs Linux 6.5.

    ``method`` is the way to make it, where that is not the running kernel's for root. ``tree`` is the commit as
    directories and files without content, which ``Lower.DIRECTORY`` needs. ``ids`` are the owners of its files for a
    container whose users have other IDs; there is no upperdir then, and a server (``METADATA``, ``DATA``) translates.
    ``shared`` is whether another mount of the upperdir may be there, as the one that this is to take the place of.
    """

    image: Path
    data: tuple[Path, ...]
    upperdir: Path | None = None
    workdir: Path | None = None
    read_only: bool = False
    source: str = "stratum"
    context: str | None = None
    extra: int = 0
    dialect: Dialect = Dialect.TRUSTED
    gate: Gate | None = None
    method: Method | None = None
    tree: Path | None = None
    ids: IdTable | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if (self.upperdir is None) != (self.workdir is None):
            raise ValueError("an upperdir and a workdir go together")
        if not self.data:
            raise ValueError("a commit's files need a data layer")

    @property
    def writable(self) -> bool:
        """Whether the mount takes writes."""
        return self.upperdir is not None and not self.read_only

    @property
    def attributes(self) -> int:
        """The ``MOUNT_ATTR_*`` of the mount: set-user-ID programs and device files in a stratum mean nothing."""
        return self.extra | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (0 if self.writable else MOUNT_ATTR_RDONLY)


class LayerSyntax(Enum):
    """How a kernel's overlay filesystem takes its layers."""

    FD = "as open files, mounted or detached (Linux 6.15)"
    APPENDED = "lowerdir+ and datadir+ (Linux 6.7)"
    DATA_ONLY = "lowerdir=image::data::data (Linux 6.5)"
    LIST = "lowerdir=image:data:data; the image's whiteouts hide the names in the data layers"


class Lower(Enum):
    """What shows the names and metadata of a commit below the overlay."""

    EROFS = "the image, mounted by the kernel"
    METADATA = "a FUSE server for names and metadata; contents by the kernel, from the data layers (Linux 6.16)"
    DATA = "a FUSE server for all of it, contents too (Linux 5.11)"
    DIRECTORY = "a directory of files without content; contents by the kernel, from the data layers (Linux 6.16)"


@frozen
class Method:
    """Which of the kernel's ways a mount is made by.

    ``attached_layers``: the overlay refuses layers that are mounted nowhere, so they are attached in a throw-away mount
    namespace. ``loop_device``: an EROFS image has to be a block device. ``lower`` shows names and metadata.
    """

    syntax: LayerSyntax = LayerSyntax.FD
    attached_layers: bool = False
    loop_device: bool = False
    lower: Lower = Lower.EROFS


_METHODS = (
    ((6, 15), Method()),
    ((6, 12), Method(LayerSyntax.APPENDED, attached_layers=True)),
    ((6, 7), Method(LayerSyntax.APPENDED, attached_layers=True, loop_device=True)),
    ((6, 5), Method(LayerSyntax.DATA_ONLY, attached_layers=True, loop_device=True)),
    ((0, 0), Method(LayerSyntax.LIST, attached_layers=True, loop_device=True)),
)


def method_for(release: str) -> Method:
    """The best way that the kernel ``release`` (as uname(2) tells it) is known to have.

    A kernel with features brought back from later ones, or of an unreadable release, gets an older way, which every
    later kernel still takes.
    """
    version = kernel_version(release)
    return next(method for least, method in _METHODS if version >= least)


def user_method(release: str, lower: Lower) -> Method:
    """The way of the kernel ``release`` for who is not root, by ``lower``."""
    return replace(method_for(release), loop_device=False, lower=lower)


def kernel_version(release: str) -> tuple[int, int]:
    """The first two numbers of a kernel's ``release``; (0, 0) where it is unreadable."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_lazy(release: str) -> None:
    """``UnsupportedError`` where the kernel ``release`` cannot fetch files when they are first read."""
    if method_for(release).syntax is LayerSyntax.LIST:
        raise UnsupportedError(
            f"files that are fetched when they are first read need Linux 6.5, and this is {release}: older kernels"
            " look for the content of a file already when it is listed",
            hint="pull the commit whole",
        )


@frozen
class Layers:
    """The open files of a plan's layers: the image's mount, then the directories, ``data`` in the plan's order.

    An ``upperdir`` without a ``workdir`` is the topmost of the layers that are only read. ``empty`` is a directory
    without entries below the image: the kernel takes no overlay of one layer.
    """

    image: int
    data: tuple[int, ...]
    upperdir: int | None = None
    workdir: int | None = None
    empty: int | None = None


@frozen
class Fd:
    """A parameter value that is an open file."""

    number: int


Parameter = tuple[str, "str | Fd | None"]
"""A name and its value; None for one that has none."""


def overlay_parameters(plan: MountPlan, layers: Layers, syntax: LayerSyntax, *, alone: bool = False) -> list[Parameter]:
    """The parameters of the plan's overlay filesystem, in the order in which to give them. With ``alone`` the kernel
    refuses an upperdir that another overlay has (EBUSY), which it does where an index is wanted; in a user namespace
    it makes none for all that."""
    parameters: list[Parameter] = [("source", plan.source)]
    lower = [layers.image]
    if layers.upperdir is not None and layers.workdir is None:
        lower.insert(0, layers.upperdir)
    if layers.empty is not None:
        lower.append(layers.empty)
    value = Fd if syntax is LayerSyntax.FD else fd_path
    if syntax in (LayerSyntax.FD, LayerSyntax.APPENDED):
        parameters += [("lowerdir+", value(fd)) for fd in lower]
        parameters += [("datadir+", value(fd)) for fd in layers.data]
    else:
        separator = "::" if syntax is LayerSyntax.DATA_ONLY else ":"
        names = [":".join(map(fd_path, lower)), *map(fd_path, layers.data)]
        parameters.append(("lowerdir", separator.join(names)))
    if layers.upperdir is not None and layers.workdir is not None:
        parameters += [("upperdir", value(layers.upperdir)), ("workdir", value(layers.workdir))]
    if plan.dialect is Dialect.USER:  # the kernel takes neither of the others then; an image's redirects it follows
        parameters.append(("userxattr", None))
    else:
        parameters += [("metacopy", "on"), ("redirect_dir", "on")]
    parameters.append(("index", "on" if alone else "off"))
    if plan.context is not None:
        parameters.append(("context", plan.context))
    return parameters
