"""What repositories a registry has, where it tells (``GET /v2/_catalog`` of the Docker Registry API), and what prefixes
of a bucket are places."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace

from stratum.errors import UnsupportedError, UsageError
from stratum.oci.access import Access
from stratum.oci.bucketname import Bucket
from stratum.oci.names import list_names
from stratum.oci.peerlink import carrier_to
from stratum.oci.target import Target, is_repository, is_shared_name

STRANGERS_MAX = 1_000_000
"""So many keys of a bucket that belong to no place are passed over."""

_PART = re.compile(r"(?P<place>.*?)/?(?P<part>(?<![^/])(?:tags|blobs/sha256|gc)/)")
_END = "~"
"""What no tag and no digest begins with, and what comes after all of them."""
_AT_ONCE = 1000
_NOT_OFFERED = (400, 404, 405, 501)


def list_repositories(target: Target, access: Access) -> list[str]:
    """The repositories in the registry of ``target``, whose own repository does not matter, sorted.

    ``UnsupportedError`` where it has no catalog, ``DeniedError`` where it does not show it, ``DamagedError`` for
    something else than a list of them.
    """
    carrier = carrier_to(target, access)
    url = f"{carrier.base}_catalog?n={_AT_ONCE}"
    what = f"the repositories of {carrier.host}"
    with closing(carrier.transport):
        found = list_names(
            carrier, url, "repositories", is_shared_name if target.peer else is_repository, what, absent=_NOT_OFFERED
        )
    if found is None:
        raise UnsupportedError(
            f"{carrier.host} does not tell which repositories it has", hint="name one: HOST/REPOSITORY"
        )
    return sorted(found)


def list_prefixes(bucket: Bucket, access: Access) -> list[Bucket]:
    """The places in an object store, at the prefix of ``bucket`` or below, that have a tag, sorted.

    What belongs to a place is not gone through: each costs a few requests, whatever is in it. ``UsageError`` where the
    bucket is mostly full of something else, ``StratumError`` in the store's words.
    """
    from stratum.oci.bucket import open_bucket

    found: dict[str, Bucket] = {}
    strangers, after, more = 0, "", True
    with open_bucket(bucket, access) as store:
        while more:
            more = False
            for entry in store.list("", after=after):
                match = _PART.match(entry.key)
                if match is not None:
                    if match["part"] == "tags/":
                        found[match["place"]] = _below(bucket, match["place"])
                    after, more = match[0] + _END, True
                    break
                strangers += 1
                if strangers > STRANGERS_MAX:
                    raise UsageError(
                        f"{bucket} has more than {STRANGERS_MAX:,} objects that are of no commit",
                        hint=f"name a part of it: {bucket}/PREFIX",
                    )
    return [found[name] for name in sorted(found)]


def _below(bucket: Bucket, name: str) -> Bucket:
    if not name:
        return bucket
    if bucket.scheme == "file":
        return replace(bucket, name=f"{bucket.name}/{name}")
    return replace(bucket, prefix=f"{bucket.prefix}/{name}".lstrip("/"))
