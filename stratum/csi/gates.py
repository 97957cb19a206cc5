"""What the gate of a volume's mount is told (``hydrate.reaching``), where the volume's commit is not here whole.

Secrets that came with the call are for the files too that pods read long after it. They go to the gate's keeper, which
has them in its memory as long as the mount is there, and are written nowhere; of them, those for hosts alone that the
commit can be fetched from. After a restart of the node the kubelet's call brings them again.
"""

from __future__ import annotations

import contextlib
import json

from stratum.csi.attributes import Attributes
from stratum.csi.driver import Driver
from stratum.csi.provisioning import volume_record
from stratum.csi.sources import Asker, auths_of, keys_of
from stratum.errors import StratumError, UsageError
from stratum.hydrate.reaching import AUTHORITIES, CREDENTIALS, ISOLATED, KEYS, keys_to_json
from stratum.oci.credentials import find_in
from stratum.oci.target import Target, parse_target
from stratum.store.resolve import Resolved, ResolvedWorktree


def gate_options(
    driver: Driver, commit: str, asker: Asker, prefetch: str | None, origin: Target | None
) -> dict[str, str]:
    """The options of a gate in front of ``commit``; none where that is here whole. ``origin`` is the place that the
    volume was made from, and the only one that a secret without a host in it is for."""
    if not driver.session.store.sources.is_partial(commit):
        return {}
    options = node_options(driver) | ({} if prefetch is None else {"prefetch": prefetch})
    if asker.isolated:
        options[ISOLATED] = "true"
    places = {origin} if origin is not None else set()
    with contextlib.suppress(StratumError):  # 'fsck' names what cannot be read; the mount shows what is here
        for source in driver.session.store.sources.of(commit):
            with contextlib.suppress(UsageError):
                places.add(parse_target(source.reference))
    auths = auths_of(asker.secrets, origin)
    found = {}
    for place in places:
        secret = find_in(auths, "the secret", place.api_host, place.repository) if place.api_host is not None else None
        if secret is not None:
            found[f"{place.api_host}/{place.repository}"] = {"auth": secret}
    if found:
        options[CREDENTIALS] = json.dumps(found)
    keys = keys_of(asker.secrets) if origin is not None and origin.bucket is not None else {}
    if origin is not None and keys:
        options[KEYS] = keys_to_json(origin, keys)
    return options


def node_options(driver: Driver) -> dict[str, str]:
    """What is the same for all gates of this driver."""
    options = {} if driver.options.ca_file is None else {AUTHORITIES: str(driver.options.ca_file)}
    return options | ({"start": "never"} if driver.options.external_keeper else {})


def base_of(driver: Driver, found: Resolved) -> str:
    """The commit that a mount of it shows, below what a worktree has changed."""
    if isinstance(found, ResolvedWorktree):
        return driver.session.store.worktrees.get(found.name, found.worktree).base_commit
    return found.commit


def origin_of(driver: Driver, volume_id: str, attributes: Attributes) -> Target | None:
    """The place in a registry that a volume was made from, as its attributes or its record say."""
    if isinstance(attributes.source, Target):
        return attributes.source
    record = volume_record(driver, volume_id)
    kind, _, text = record.origin.partition(" ") if record is not None else ("", "", "")
    if kind not in ("source", "snapshot") or "/" not in text:
        return None
    try:
        return parse_target(text)
    except UsageError:
        return None
