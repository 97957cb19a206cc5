"""The gRPC server: endpoint, dispatch of calls to the services, and what is said about each call.

Every call is logged when it ends, as one line of JSON on stderr: time, level, method, code, seconds, and of the request
only names and paths; never secrets. What fails with ``StratumError`` is answered with its status and message.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from stratum.csi import csi_pb2
from stratum.csi.attributes import POD_NAME, POD_NAMESPACE
from stratum.csi.controller import Controller
from stratum.csi.driver import Driver
from stratum.csi.errors import code_of
from stratum.csi.groups import GroupController
from stratum.csi.identity import Identity
from stratum.csi.node import Node
from stratum.errors import StratumError, UsageError, os_error_text
from stratum.serving import socket_place

THREADS = 64
"""Calls at the same time of those that may wait for a registry; ``jobs`` bounds how many of them do."""

QUICK_THREADS = 8
"""The same for calls that ask who the driver is and whether it lives."""

ENDING_THREADS = 24
"""The same for calls that take something away. They wait for nobody's pull, so that pods can end."""

LOOKING_THREADS = 8
"""The same for calls that count what is in volumes."""

_ENDING = {"NodeUnpublishVolume", "NodeUnstageVolume", "DeleteVolume", "DeleteSnapshot", "DeleteVolumeGroupSnapshot"}
_LOOKING = {"NodeGetVolumeStats", "ListVolumes", "ControllerGetVolume", "GetCapacity"}

SOCKET_PATH_MAX = 107

_LOGGED = {
    "volume_id": "volume",
    "source_volume_id": "volume",
    "snapshot_id": "snapshot",
    "group_snapshot_id": "group",
    "name": "name",
    "target_path": "target",
    "staging_target_path": "staging",
}
_QUIET = {
    "Probe",
    "NodeGetCapabilities",
    "ControllerGetCapabilities",
    "GroupControllerGetCapabilities",
    "NodeGetVolumeStats",
    "GetCapacity",
}
_log = logging.getLogger("stratum.csi")


def serve(driver: Driver, endpoint: str) -> grpc.Server:
    """A started server. A socket that an earlier driver left is replaced.

    Raises ``UsageError`` for an endpoint that is no ``unix://PATH``, and what ``socket_place`` does.
    """
    path = _socket_path(endpoint)
    pools = _Pools()
    server = grpc.server(pools.calls)
    services: dict[str, object] = {"Identity": Identity(driver), "Node": Node(driver)}
    if driver.options.controller:
        services |= {"Controller": Controller(driver), "GroupController": GroupController(driver)}
    for name, service in services.items():
        server.add_generic_rpc_handlers((_handler(driver, name, service, pools),))
    with socket_place(path, "driver"):
        before = os.umask(0o177)  # the socket is root's, from its first moment
        try:
            server.add_insecure_port(f"unix:{path}")
            server.start()
        except RuntimeError as exc:
            raise StratumError(f"cannot listen at {path}: {exc}") from None
        finally:
            os.umask(before)
    return server


def _socket_path(endpoint: str) -> Path:
    path = endpoint.removeprefix("unix://") if endpoint.startswith("unix://") else endpoint.removeprefix("unix:")
    if not endpoint.startswith("unix:") or not path.startswith("/") or len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise UsageError(
            f"endpoint {endpoint!r} is not unix:///PATH", hint=f"the path has at most {SOCKET_PATH_MAX} bytes"
        )
    return Path(path)


class _Pools:
    """The threads that answer calls, apart so that no kind of call queues behind another."""

    def __init__(self) -> None:
        self.calls = ThreadPoolExecutor(THREADS, thread_name_prefix="call")
        self._quick = ThreadPoolExecutor(QUICK_THREADS, thread_name_prefix="quick")
        self._ending = ThreadPoolExecutor(ENDING_THREADS, thread_name_prefix="ending")
        self._looking = ThreadPoolExecutor(LOOKING_THREADS, thread_name_prefix="looking")

    def of(self, service: str, method: str) -> ThreadPoolExecutor:
        """The pool that a method's calls run in."""
        if service == "Identity" or method.endswith(("GetCapabilities", "GetInfo")):
            return self._quick
        if method in _LOOKING:
            return self._looking
        return self._ending if method in _ENDING else self.calls


def _handler(driver: Driver, name: str, service: object, pools: _Pools) -> grpc.GenericRpcHandler:
    """The methods of csi.v1.NAME that ``service`` has; the others are answered with UNIMPLEMENTED."""
    methods = {}
    for method in csi_pb2.DESCRIPTOR.services_by_name[name].methods:
        function = getattr(service, method.name, None)
        if function is not None:
            answer = _answered(driver, method.name, function)
            answer.experimental_thread_pool = pools.of(name, method.name)  # type: ignore[attr-defined]  # gRPC's way
            methods[method.name] = grpc.unary_unary_rpc_method_handler(
                answer,
                request_deserializer=getattr(csi_pb2, method.input_type.name).FromString,
                response_serializer=getattr(csi_pb2, method.output_type.name).SerializeToString,
            )
    return grpc.method_handlers_generic_handler(f"csi.v1.{name}", methods)


def _answered(driver: Driver, method: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        started, code, message = time.monotonic(), "UNKNOWN", "failed unexpectedly"
        try:
            try:
                response = function(request, context)
                code, message = "OK", "done"
                return response
            except StratumError as exc:
                failure, message = exc, exc.told
            except OSError as exc:
                failure, message = StratumError(os_error_text(exc)), f"{method}: {os_error_text(exc)}"
            status = code_of(failure)
            code = status.name
            context.abort(status, message)
        finally:
            seconds = time.monotonic() - started
            driver.metrics.operation(method, code, seconds)
            _say(method, request, code, message, seconds)

    return answer


def _say(method: str, request: Any, code: str, message: str, seconds: float) -> None:
    fields: dict[str, object] = {"method": method, "code": code, "seconds": round(seconds, 3)}
    for field, name in _LOGGED.items():
        if value := getattr(request, field, ""):
            fields[name] = value
    context = getattr(request, "volume_context", {})
    if POD_NAME in context:
        fields["pod"] = f"{context.get(POD_NAMESPACE, '')}/{context[POD_NAME]}"
    level = logging.DEBUG if method in _QUIET else logging.INFO
    if code != "OK":
        level = logging.WARNING
    _log.log(level, message, extra={"fields": fields})
