"""What repositories a registry has, where it tells: ``GET /v2/_catalog`` of the Docker Registry API."""

from __future__ import annotations

import json
from contextlib import closing

from stratum.errors import DamagedError, StratumError, UnsupportedError
from stratum.oci.access import Access
from stratum.oci.carrier import Carrier
from stratum.oci.descriptor import MANIFEST_MAX
from stratum.oci.target import Target, is_repository
from stratum.oci.transport import resolve

_PAGES_MAX = 200
_AT_ONCE = 1000
_NOT_OFFERED = (400, 404, 405, 501)


def list_repositories(target: Target, access: Access) -> list[str]:
    """The repositories in the registry of ``target``, whose own repository does not matter, sorted.

    ``UnsupportedError`` where it has no catalog, ``DeniedError`` where it does not show it, ``DamagedError`` for
    something else than a list of them.
    """
    carrier = Carrier(target, access)
    found: set[str] = set()
    url = f"{carrier.base}_catalog?n={_AT_ONCE}"
    with closing(carrier.transport) as transport:
        for _ in range(_PAGES_MAX):
            response = carrier.send(url)
            if response.status_code in _NOT_OFFERED:
                raise UnsupportedError(
                    f"{carrier.host} does not tell which repositories it has", hint="name one: HOST/REPOSITORY"
                )
            carrier.expect(response, (200,), f"list the repositories of {carrier.host}")
            found.update(
                read_catalog(b"".join(transport.body(response, MANIFEST_MAX, "a list of repositories")), carrier.host)
            )
            following = response.links.get("next", {}).get("url")
            if not following:
                return sorted(found)
            url = resolve(response.url, following)
            if not carrier.is_home(url):
                break
    raise StratumError(f"{carrier.host} gave a list of its repositories that leads nowhere")


def read_catalog(body: bytes, host: str) -> list[str]:
    """The repositories in an answer of ``host``. ``DamagedError``."""
    try:
        names = json.loads(body)["repositories"] or []
        if isinstance(names, list) and all(isinstance(name, str) and is_repository(name) for name in names):
            return names
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DamagedError(f"{host} gave something that is not a list of its repositories")
