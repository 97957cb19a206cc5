"""What was found of how an object store is reached: for ``bucketkeys``, by ``awskeys``, ``gcskeys`` and ``azurekeys``.

An ``Access`` that is not ``ambient`` was put together from what somebody else gave: of its environment only keys count.
No file or program that it names is read or run, and the role that this machine has is not its own.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratum.config import PlaceSettings
from stratum.errors import DeniedError, StratumError, os_error_text, quoted
from stratum.oci.access import Access
from stratum.oci.bucketname import Bucket, parse_endpoint, parse_region
from stratum.sys.smallfile import read_regular

FILE_MAX = 1 << 20
USUAL_REGION = "us-east-1"
"""That of S3 where nobody says another."""

_PROGRAM_TIMEOUT = 60
_METADATA = ("169.254.169.254", 80)
_METADATA_TIMEOUT = 1.0

ANONYMOUS_HINT = 'for what everybody may read, anonymous = true in [places."{root}"] of the settings'


@dataclass(frozen=True, slots=True)
class Found:
    """``config`` is obstore's, ``provider`` gives keys that end, ``secrets`` are all texts that no error may show,
    ``endpoint`` is the URL that is spoken to, ``known`` whether that is a service which heeds conditions."""

    config: dict[str, Any] = field(repr=False)
    endpoint: str
    known: bool
    provider: Callable[[], Any] | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def settings_of(bucket: Bucket, access: Access) -> PlaceSettings:
    """What the settings say of the bucket."""
    return access.places.get(bucket.root, PlaceSettings())


def first(*values: str | None) -> str | None:
    """The first that says something."""
    return next(filter(None, values), None)


def endpoint_from(bucket: Bucket, *given: str | None) -> str | None:
    """The endpoint of the reference, else the first that is ``given``. ``UsageError``."""
    if bucket.endpoint is not None:
        return bucket.endpoint
    text = first(*given)
    return parse_endpoint(text, str(bucket)) if text is not None else None


def region_from(bucket: Bucket, *given: str | None) -> str | None:
    """The region of the reference, else the first that is ``given``. ``UsageError``."""
    text = first(bucket.region, *given)
    return parse_region(text, str(bucket)) if text is not None else None


def home_file(environment: Mapping[str, str], *parts: str) -> Path | None:
    """A file below the home directory; None where there is none."""
    home = environment.get("HOME")
    return Path(home, *parts) if home and home.startswith("/") else None


def read_file(path: Path, what: str, *, needed: bool) -> str | None:
    """A file with credentials as text; None where it is not there and is not ``needed``. ``StratumError``."""
    try:
        return read_regular(path, FILE_MAX)[1].decode("utf-8")
    except (FileNotFoundError, NotADirectoryError, PermissionError) as exc:
        if not needed and not isinstance(exc, PermissionError):
            return None
        raise StratumError(f"cannot read {what} in {path}: {os_error_text(exc)}") from None
    except OSError as exc:
        raise StratumError(f"cannot read {what} in {path}: {os_error_text(exc)}") from None
    except ValueError:
        raise StratumError(f"{what} in {path} is not UTF-8, or is too large") from None


def json_of(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object; ``StratumError`` names ``where`` it came from, and shows nothing of it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise StratumError(f"{where} is not a JSON object")
    return value


def run_program(command: list[str], environment: Mapping[str, str], what: str) -> bytes:
    """What a program that gives credentials prints. ``DeniedError`` where it fails; it tells why on its own."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PROGRAM_TIMEOUT, env=dict(environment), check=False, stdin=-3
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        reason = os_error_text(exc) if isinstance(exc, OSError) else "no answer"
        raise DeniedError(f"{what} failed: {quoted(command[0])}: {reason}") from None
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DeniedError(f"{what} failed: {words[:200] or f'exit status {done.returncode}'}")
    return done.stdout[:FILE_MAX]


def has_metadata_service() -> bool:
    """Whether this is a machine in a cloud, which may have a role: whether its metadata service can be reached."""
    try:
        socket.create_connection(_METADATA, _METADATA_TIMEOUT).close()
    except OSError:
        return False
    return True


def no_keys(bucket: Bucket, endpoint: str, where: str) -> DeniedError:
    """The error for a store that there are no credentials for; ``where`` says where they were looked for."""
    return DeniedError(
        f"no credentials for {bucket.root} at {endpoint} were found: {where}",
        hint=ANONYMOUS_HINT.format(root=bucket.root),
    )


def keys_file(settings: PlaceSettings, access: Access) -> Path | None:
    """The file with credentials that the settings name; None for who comes with credentials of their own."""
    named = settings.credentials_file if access.ambient else None
    if named and named.startswith("~/"):
        return home_file(access.environment, named[2:])
    return Path(named) if named else None
