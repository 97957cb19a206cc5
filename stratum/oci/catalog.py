"""What repositories a registry has, where it tells: ``GET /v2/_catalog`` of the Docker Registry API."""

from __future__ import annotations

from contextlib import closing

from stratum.errors import UnsupportedError
from stratum.oci.access import Access
from stratum.oci.carrier import Carrier
from stratum.oci.names import list_names
from stratum.oci.target import Target, is_repository

_AT_ONCE = 1000
_NOT_OFFERED = (400, 404, 405, 501)


def list_repositories(target: Target, access: Access) -> list[str]:
    """The repositories in the registry of ``target``, whose own repository does not matter, sorted.

    ``UnsupportedError`` where it has no catalog, ``DeniedError`` where it does not show it, ``DamagedError`` for
    something else than a list of them.
    """
    carrier = Carrier(target, access)
    url = f"{carrier.base}_catalog?n={_AT_ONCE}"
    what = f"the repositories of {carrier.host}"
    with closing(carrier.transport):
        found = list_names(carrier, url, "repositories", is_repository, what, absent=_NOT_OFFERED)
    if found is None:
        raise UnsupportedError(
            f"{carrier.host} does not tell which repositories it has", hint="name one: HOST/REPOSITORY"
        )
    return sorted(found)
