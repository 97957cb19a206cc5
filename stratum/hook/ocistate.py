"""What the container runtime tells a hook: the OCI runtime state on stdin and the bundle's ``config.json``.

Both are read with a size cap and checked before anything is done with them. The formats are those of the OCI Runtime
Specification 1.0 to 1.2 ("State", "Configuration"); members that Stratum does not use are ignored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from stratum.errors import StratumError, one_line, os_error_text
from stratum.frozen import frozen
from stratum.sys.smallfile import read_regular

MAX_STATE = 4 << 20
MAX_CONFIG = 16 << 20
MAX_CALLED = 200

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}")


class BadStateError(StratumError):
    """The runtime's state or bundle is not what the OCI specification says."""


@frozen
class ContainerState:
    """The OCI state. ``pid`` is the container's first process in the host's PID namespace, 0 where it is gone."""

    id: str
    status: str
    pid: int
    bundle: Path
    annotations: dict[str, str]


@frozen
class Bundle:
    """The parts of ``config.json`` that a mount depends on. ``rootfs`` is absolute.

    ``lists`` are files in which Podman's storage may list the container, by where the bundle is and what it mounts.
    """

    rootfs: Path
    mount_label: str | None
    lists: tuple[Path, ...] = ()


def read_state(fd: int) -> ContainerState:
    """Read the state JSON from ``fd`` to its end. Raises ``BadStateError``."""
    data = bytearray()
    while len(data) <= MAX_STATE:
        try:
            chunk = os.read(fd, 1 << 16)
        except OSError as exc:
            raise BadStateError(f"cannot read the runtime's state JSON: {os_error_text(exc)}") from None
        if not chunk:
            return parse_state(bytes(data))
        data += chunk
    raise BadStateError(f"the runtime's state JSON is larger than {MAX_STATE} bytes")


def parse_state(data: bytes) -> ContainerState:
    """Check and take apart the state JSON. Raises ``BadStateError``."""
    what = "the runtime's state JSON"
    if not data.strip():
        raise BadStateError(f"{what} is empty", hint="a container runtime starts this program, with the state on stdin")
    state = _object(_json(data, what), what)
    container_id = _string(state, "id", what)
    if not _CONTAINER_ID.fullmatch(container_id):
        raise BadStateError(f"{what}: {ascii(container_id)[:80]} is not a container ID")
    pid = state.get("pid", 0)
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 <= pid < 1 << 31:
        raise BadStateError(f"{what}: 'pid' is not a process ID")
    bundle = _string(state, "bundle", what)
    if not bundle.startswith("/") or "\0" in bundle:
        raise BadStateError(f"{what}: 'bundle' is not an absolute path")
    annotations = _object(state.get("annotations") or {}, f"{what}: 'annotations'")
    for key, value in annotations.items():
        if not isinstance(value, str):
            raise BadStateError(f"{what}: annotation {ascii(key)[:80]} is not a string")
    return ContainerState(container_id, _string(state, "status", what), pid, Path(bundle), annotations)


def read_bundle(bundle: Path) -> Bundle:
    """Read ``config.json`` of ``bundle``. Raises ``BadStateError``."""
    path = bundle / "config.json"
    try:
        _, data = read_regular(path, MAX_CONFIG)
    except OSError as exc:
        raise BadStateError(f"cannot read {path}: {os_error_text(exc)}") from None
    return parse_bundle(data, bundle)


def parse_bundle(data: bytes, bundle: Path) -> Bundle:
    """Check and take apart the text of ``config.json``; ``bundle`` is the folder it is in. Raises ``BadStateError``."""
    what = f"{bundle}/config.json"
    config = _object(_json(data, what), what)
    root = _string(_object(config.get("root"), f"{what}: 'root'"), "path", what)
    if not root or "\0" in root:
        raise BadStateError(f"{what}: 'root.path' is not a path")
    linux = _object(config.get("linux") or {}, f"{what}: 'linux'")
    label = linux.get("mountLabel") or None
    if label is not None and not isinstance(label, str):
        raise BadStateError(f"{what}: 'linux.mountLabel' is not a string")
    return Bundle(
        rootfs=bundle / root,
        mount_label=label,
        lists=_lists(bundle, config.get("mounts")),
    )


def _lists(bundle: Path, mounts: object) -> tuple[Path, ...]:
    """Podman has a bundle in DIR/ID/userdata, and makes files for the container in RUNDIR/ID/userdata."""
    if bundle.name != "userdata" or len(bundle.parts) < 4 or not isinstance(mounts, list):
        return ()
    own = f"/{bundle.parent.name}/userdata/"
    sources = [mount.get("source") for mount in mounts if isinstance(mount, dict)]
    found = (source.partition(own)[0] for source in sources if isinstance(source, str) and own in source)
    rundir = next((text for text in found if text.startswith("/") and "\0" not in text), None)
    volatile = (Path(rundir) / "volatile-containers.json",) if rundir is not None else ()
    return (bundle.parents[1] / "containers.json", *volatile)


def called(lists: Sequence[Path], container_id: str) -> str | None:
    """The name of a container and of its image, for people, where Podman's storage tells them; None where it does not.

    Podman is not asked: it has the container locked while it starts.
    """
    for path in lists:
        try:
            found = parse_called(read_regular(path, MAX_CONFIG)[1], container_id)
        except (OSError, BadStateError):
            found = None
        if found is not None:
            return found
    return None


def parse_called(data: bytes, container_id: str) -> str | None:
    """``called``, from the text of such a list. Raises ``BadStateError``."""
    listed = _json(data, "the list of containers")
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or entry.get("id") != container_id or not isinstance(entry.get("metadata"), str):
            continue
        about = _object(
            _json(entry["metadata"].encode("utf-8", "surrogatepass"), "the metadata of a container"),
            "the metadata of a container",
        )
        words = [about.get(key) for key in ("name", "image-name")]
        return one_line(", ".join(word for word in words if isinstance(word, str) and word))[:MAX_CALLED] or None
    return None


def _json(data: bytes, what: str) -> object:
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BadStateError(f"{what} is not valid JSON: {str(exc)[:200]}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadStateError(f"{what} is not a JSON object")
    return value


def _string(table: dict[str, Any], key: str, what: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise BadStateError(f"{what}: {key!r} is missing or not a string")
    return value
