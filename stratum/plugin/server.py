"""The Docker Volume Plugin API over HTTP on a Unix socket, as Podman speaks it to the plugins of containers.conf.

Every call is a POST of a JSON object; the answer is a JSON object with ``Err``, which is empty where all went well and
comes with status 500 otherwise. https://docs.docker.com/engine/extend/plugins_volume/

Whoever can connect can mount strata, so the socket belongs to root alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from stratum.config import Config
from stratum.errors import NotFoundError, UsageError, foreseen
from stratum.plugin.volumes import PluginVolumes

MAX_BODY = 1 << 20
CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"
_PATIENCE = 60.0
"""Seconds that a call may take to arrive."""

_ASKING = {"/VolumeDriver.Get", "/VolumeDriver.Remove"}
"""Calls that Podman makes also to hear that there is no such volume: nothing went wrong then."""

Answer = dict[str, Any]


def plugin_app(config: Config, log: Callable[[str], None]) -> Starlette:
    """The plugin for the store in ``config``, which tells ``log`` what went wrong, a line each.

    Each call runs in a thread; calls on one volume wait for one another.
    """
    volumes = PluginVolumes(config, log)

    async def call(request: Request) -> Response:
        try:
            body = await asyncio.wait_for(_body(request), _PATIENCE)
            answer, status = {**await run_in_threadpool(_answer, volumes, log, request.url.path, body), "Err": ""}, 200
        except (ClientDisconnect, asyncio.TimeoutError):
            return Response(status_code=408, headers={"Connection": "close"})
        except Exception as exc:  # a defect too: Podman is told, and the other volumes go on
            text = f"stratum: {foreseen(exc).told}"
            if not (isinstance(exc, NotFoundError) and request.url.path in _ASKING):
                log(text)
            answer, status = {"Err": text}, 500
        return Response(json.dumps(answer), status, media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/{call:path}", call, methods=["POST"])])


def _answer(volumes: PluginVolumes, log: Callable[[str], None], path: str, body: Answer) -> Answer:
    """The answer to one call; raises ``StratumError``."""
    name = body.get("Name", "")
    if path == "/Plugin.Activate":
        return {"Implements": ["VolumeDriver"]}
    if path == "/VolumeDriver.Capabilities":
        return {"Capabilities": {"Scope": "local"}}
    if path == "/VolumeDriver.Create":
        volumes.create(name, _options(body.get("Opts")))
        return {}
    if path == "/VolumeDriver.Remove":
        volumes.remove(name)
        return {}
    if path == "/VolumeDriver.Mount":
        return {"Mountpoint": volumes.mount(name, str(body.get("ID", "")))}
    if path == "/VolumeDriver.Unmount":
        failure = volumes.unmount(name, str(body.get("ID", "")))
        if failure is not None:
            log(f"volume {name} was not committed: {failure}")
        return {}
    if path == "/VolumeDriver.Path":
        return {"Mountpoint": volumes.get(name)[1]}
    if path == "/VolumeDriver.Get":
        return {"Volume": _described(volumes, name)}
    if path == "/VolumeDriver.List":
        names, damaged = volumes.names()
        for error in damaged:
            log(error.message)
        return {"Volumes": [_described(volumes, one) for one in names]}
    raise UsageError(f"there is no call {ascii(path)[:80]}")


def _described(volumes: PluginVolumes, name: str) -> Answer:
    record, mountpoint = volumes.get(name)
    return {"Name": name, "Mountpoint": mountpoint, "CreatedAt": record.created, "Status": record.options}


async def _body(request: Request) -> Answer:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise UsageError(f"a body of more than {MAX_BODY} bytes is not accepted")
    try:
        body = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the body is not JSON: {exc}") from None
    if not isinstance(body, dict):
        raise UsageError("the body is not a JSON object")
    return body


def _options(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise UsageError("'Opts' is not an object of strings")
    return {str(key): item for key, item in value.items()}
