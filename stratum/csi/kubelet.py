"""What the kubelet has on disk of pods and their volumes, below its directory.

::

    pods/UID/                                              a pod that it runs, or has not cleaned up after
    pods/UID/volumes/kubernetes.io~csi/NAME/vol_data.json  a volume of it: written before it is published, removed after
                                                           it was unpublished; without it the kubelet can do neither
    pods/UID/volumes/kubernetes.io~csi/NAME/mount          where it is published

A ``vol_data.json`` is an object of texts, of which ``driverName`` and ``volumeHandle`` count here. These files are the
kubelet's; pods have no access to them. Links are not followed all the same.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from stratum.csi.driver import NAME
from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.sys.smallfile import read_regular

VOLUMES = "volumes/kubernetes.io~csi"
NOTE = "vol_data.json"
_NOTE_MAX = 1 << 16


@frozen
class Known:
    """What the kubelet knows: the UIDs of ``pods``, and the ``handles`` of this driver's volumes that they have."""

    pods: frozenset[str]
    handles: frozenset[str]


def read_known(kubelet_dir: Path) -> Known | None:
    """What the kubelet knows; None where that cannot be said, as a file or directory cannot be read, or as there is no
    pod at all: the driver's own is one."""
    pods, handles = set[str](), set[str]()
    try:
        with os.scandir(kubelet_dir / "pods") as entries:
            pods.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for pod in pods:
            for volume in _volumes(kubelet_dir / "pods" / pod / VOLUMES):
                handle = read_note(volume / NOTE)
                if handle is not None:
                    handles.add(handle)
    except (OSError, DamagedError):
        return None
    return Known(frozenset(pods), frozenset(handles)) if pods else None


def _volumes(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def read_note(path: Path) -> str | None:
    """The handle in the note of a volume of this driver's; None for another driver's, and where there is none. Raises
    ``OSError``, ``DamagedError`` for what cannot be read."""
    try:
        data = read_regular(path, _NOTE_MAX, follow=False)[1]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_note(data)


def parse_note(data: bytes) -> str | None:
    """The handle in a note's text; None in another driver's. ``DamagedError``."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise DamagedError(f"the kubelet's note of a volume is no JSON: {str(exc)[:100]}") from None
    if not isinstance(found, dict):
        raise DamagedError("the kubelet's note of a volume is no object")
    if found.get("driverName") != NAME:
        return None
    handle = found.get("volumeHandle")
    if not isinstance(handle, str) or not handle:
        raise DamagedError("the kubelet's note of a volume has no volumeHandle")
    return handle


def pod_volume_of(kubelet_dir: Path, mountpoint: str) -> Path | None:
    """The directory of the pod's volume that is published at ``mountpoint``; None where that is no such place."""
    path = Path(mountpoint)
    try:
        parts = path.relative_to(kubelet_dir).parts
    except ValueError:
        return None
    ends = len(parts) == 6 and parts[0] == "pods" and "/".join(parts[2:4]) == VOLUMES and parts[5] == "mount"
    return path.parent if ends else None
