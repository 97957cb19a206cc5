"""Stands between the driver's socket and those who call it, and writes down each call: one JSON object a line.

    python3 record.py LISTEN-SOCKET DRIVER-SOCKET FILE
    python3 record.py LISTEN-SOCKET EVENT    # has a running one write down that something happened, such as killed

A line has ``from`` and ``to`` (two numbers of one count of all beginnings and ends, so that it is seen which calls
overlapped), ``at`` (seconds since the start), ``method``, ``request``, ``code``, ``message`` and ``response``. Secrets
are not written. A line ``{"started": ...}`` is written at each start, from which on counts begin anew.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

import grpc
from google.protobuf import message_factory
from google.protobuf.json_format import MessageToDict

from stratum.csi import csi_pb2

PATIENCE = 600.0
"""Seconds for a call that has no deadline of its own: what is left is huge then."""

EVENTS = "/recorder/"
"""Methods that the recorder itself answers."""

SOON = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
"""A driver that was killed is found again soon."""


class Recorder(grpc.GenericRpcHandler):
    """Passes on whatever is called, byte for byte."""

    def __init__(self, channel: grpc.Channel, out: TextIO) -> None:
        self._channel = channel
        self._out = out
        self._count = itertools.count(1)
        self._started = time.monotonic()
        self._writing = threading.Lock()
        self._write({"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Any method."""
        method = details.method
        if method.startswith(EVENTS):
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: self._event(method))
        forward: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            line: dict[str, Any] = {"from": next(self._count), "at": round(time.monotonic() - self._started, 3)}
            line |= {"method": method, "request": _told(method, request, "input_type")}
            left = context.time_remaining() or PATIENCE
            try:
                response: bytes = forward(request, timeout=min(PATIENCE, left))
            except grpc.RpcError as exc:
                self._end(line | {"code": exc.code().name, "message": exc.details()})
                context.abort(exc.code(), exc.details() or "")
            self._end(line | {"code": "OK", "response": _told(method, response, "output_type")})
            return response

        return grpc.unary_unary_rpc_method_handler(answer)

    def _event(self, method: str) -> bytes:
        self._write({"event": method.removeprefix(EVENTS), "from": next(self._count)})
        return b""

    def _end(self, line: dict[str, Any]) -> None:
        self._write({**line, "to": next(self._count)})

    def _write(self, line: dict[str, Any]) -> None:
        with self._writing:
            self._out.write(json.dumps(line) + "\n")
            self._out.flush()


def _told(method: str, data: bytes, side: str) -> Any:
    """A request or response as JSON has it, without secrets; nothing for services that are not known here."""
    service, _, name = method.lstrip("/").partition("/")
    found = csi_pb2.DESCRIPTOR.services_by_name.get(service.removeprefix("csi.v1."))
    if found is None or not service.startswith("csi.v1."):
        return None
    message = message_factory.GetMessageClass(getattr(found.methods_by_name[name], side)).FromString(data)
    if "secrets" in message.DESCRIPTOR.fields_by_name:
        message.ClearField("secrets")
    return MessageToDict(message, preserving_proto_field_name=True)


def main() -> None:
    """Serve until killed, or tell the one that serves of an event."""
    if len(sys.argv) == 3:
        with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
            tell: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{EVENTS}{sys.argv[2]}")
            tell(b"", timeout=10)
        return
    listen, driver, path = sys.argv[1:]
    if os.path.exists(listen):
        os.unlink(listen)
    with open(path, "a", encoding="utf-8") as out, grpc.insecure_channel(f"unix:{driver}", SOON) as channel:
        server = grpc.server(ThreadPoolExecutor(64), [Recorder(channel, out)])
        server.add_insecure_port(f"unix:{listen}")
        server.start()
        server.wait_for_termination()


if __name__ == "__main__":
    main()
