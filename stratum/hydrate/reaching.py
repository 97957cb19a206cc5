"""How the sources of one mount are reached: by the settings of who mounted it, and what was said for this mount.

The options of a gate (``mount.plan``) that count here:

- ``credentials``: the ``auths`` table of a docker configuration, as JSON; asked before what the settings name.
- ``isolated``: ``true`` where no others than these count.
- ``authorities``: a file of certificate authorities that count besides the system's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stratum.config import Config
from stratum.errors import UsageError
from stratum.oci.access import Access, Credentials, access_of

CREDENTIALS = "credentials"
ISOLATED = "isolated"
AUTHORITIES = "authorities"


def access_for(config: Config, options: Mapping[str, str]) -> Access:
    """How a mount's sources are reached. The files that it names are read when a source is, not now.

    ``config`` are the settings of who mounted it. ``UsageError`` where the credentials are no such table.
    """
    access = access_of(config)
    if AUTHORITIES in options:
        from stratum.oci.tls import system_authorities

        known = access.authorities or tuple(filter(None, (system_authorities(),)))
        access = replace(access, authorities=(*known, Path(options[AUTHORITIES])))
    isolated = options.get(ISOLATED) == "true"
    if CREDENTIALS in options or isolated:
        found = _preferring(options.get(CREDENTIALS, "{}"), None if isolated else access.credentials)
        access = replace(access, credentials=found)
    return access


def _preferring(text: str, others: Credentials | None) -> Credentials:
    from stratum.oci.credentials import find_in

    try:
        auths = json.loads(text)
    except (ValueError, RecursionError):
        auths = None
    if not isinstance(auths, dict):
        raise UsageError("the credentials of a mount are no table of a docker configuration")

    def find(host: str, repository: str) -> str | None:
        found = find_in(auths, "what the mount was given", host, repository)
        return found if found is not None or others is None else others(host, repository)

    return find
