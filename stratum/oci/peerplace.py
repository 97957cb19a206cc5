"""A stratum of a peer as a place, ``peer://PEER/STRATUM``: a peer is a registry for those whom it knows."""

from __future__ import annotations

from stratum.oci.access import Access
from stratum.oci.client import RegistryClient
from stratum.oci.peerlink import PeerCarrier
from stratum.oci.target import Target


class PeerPlace(RegistryClient):
    """What a peer shares as ``target``."""

    def __init__(self, target: Target, access: Access) -> None:
        super().__init__(target, access, PeerCarrier(target, access))
