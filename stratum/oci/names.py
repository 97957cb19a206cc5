"""Lists of names that a registry gives page by page: the tags of a repository, its repositories."""

from __future__ import annotations

import json
from collections.abc import Callable, Container

from stratum.errors import DamagedError, StratumError
from stratum.oci.carrier import Carrier
from stratum.oci.descriptor import MANIFEST_MAX
from stratum.oci.transport import resolve

_PAGES_MAX = 200


def list_names(
    carrier: Carrier, url: str, key: str, is_name: Callable[[str], bool], what: str, *, absent: Container[int]
) -> set[str] | None:
    """The names that the pages from ``url`` on have under ``key``; None where the answer's status is in ``absent``.

    ``what`` names the list in errors, such as 'the tags of HOST/REPOSITORY'. ``DamagedError`` for something else than
    such a list, ``StratumError`` where its pages have no end or lead to another host.
    """
    found: set[str] = set()
    transport = carrier.transport
    for _ in range(_PAGES_MAX):
        response = carrier.send(url)
        if response.status_code in absent:
            transport.done(response)
            return None
        carrier.expect(response, (200,), f"list {what}")
        body = b"".join(transport.body(response, MANIFEST_MAX, f"a list of {what}"))
        found.update(read_names(body, key, is_name, carrier.host, what))
        following = response.links.get("next", {}).get("url")
        if not following:
            return found
        url = resolve(response.url, following)
        if not carrier.is_home(url):
            break
    raise StratumError(f"{carrier.host} gave a list of {what} that leads nowhere")


def read_names(body: bytes, key: str, is_name: Callable[[str], bool], host: str, what: str) -> list[str]:
    """The names in one page of ``host``. ``DamagedError``."""
    try:
        names = json.loads(body)[key] or []
        if isinstance(names, list) and all(isinstance(name, str) and is_name(name) for name in names):
            return names
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DamagedError(f"{host} gave something that is not a list of {what}")
