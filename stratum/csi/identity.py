"""The Identity service: who this is and what it offers."""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import BoolValue

import stratum
from stratum.csi import csi_pb2 as csi
from stratum.csi import sizes
from stratum.csi.driver import NAME, Driver
from stratum.csi.jobs import Caller

_Service = csi.PluginCapability.Service
_Expansion = csi.PluginCapability.VolumeExpansion


class Identity:
    """csi.v1.Identity."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def GetPluginInfo(self, request: csi.GetPluginInfoRequest, caller: Caller) -> csi.GetPluginInfoResponse:
        """Name and version."""
        return csi.GetPluginInfoResponse(name=NAME, vendor_version=stratum.__version__)

    def GetPluginCapabilities(
        self, request: csi.GetPluginCapabilitiesRequest, caller: Caller
    ) -> csi.GetPluginCapabilitiesResponse:
        """Volumes are local to a node. They are expanded while they are in use, where anything holds them to a size."""
        services = [_Service.VOLUME_ACCESSIBILITY_CONSTRAINTS]
        if self._driver.options.controller:
            services += [_Service.CONTROLLER_SERVICE, _Service.GROUP_CONTROLLER_SERVICE]
        capabilities = [csi.PluginCapability(service=_Service(type=kind)) for kind in services]
        if sizes.are_enforced(self._driver):
            capabilities.append(csi.PluginCapability(volume_expansion=_Expansion(type=_Expansion.ONLINE)))
        return csi.GetPluginCapabilitiesResponse(capabilities=capabilities)

    def Probe(self, request: csi.ProbeRequest, caller: Caller) -> csi.ProbeResponse:
        """Ready while the store can be read; the store's own error otherwise."""
        self._driver.session.store.names()
        return csi.ProbeResponse(ready=BoolValue(value=True))
