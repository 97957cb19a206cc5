"""A peer whose key is known, and who lies, falters or sends one elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError
from stratum.oci.access import Access
from stratum.oci.descriptor import describe
from stratum.oci.peerclient import MOVES_MAX, PeerClient
from stratum.oci.places import open_source
from stratum.oci.remote import fetch
from stratum.oci.target import parse_target
from stratum.serve.peerlisten import listening_context
from stratum.serving import Limits, listen, serving
from stratum.store import Store
from stratum.store.peerbook import finder

WHEN = "2026-01-01T00:00:00Z"
BLOB = describe("application/x", b"a blob")


async def lying(request: Request) -> Response:
    path = request.url.path
    if "manifests" in path:
        return Response(b"{}", headers={"Docker-Content-Digest": BLOB.digest})
    if "other" in path:
        return Response(b"a bl0b")
    if "short" in path or "long" in path:
        return Response(b"a blo" if "short" in path else b"a blob and more")
    if "cut" in path:
        return StreamingResponse(cut(), headers={"Content-Length": str(BLOB.size)})
    if "moves" in path:
        return StreamingResponse(endless())
    if "away" in path:
        return RedirectResponse("https://example.invalid/")
    if path.endswith("/strata"):
        return Response(b'{"strata": [{"name": "../../etc", "may": "write"}]}')
    return Response(b"nothing", 404)


async def cut() -> AsyncIterator[bytes]:
    yield b"a"
    raise OSError("gone")


async def endless() -> AsyncIterator[bytes]:
    for _ in range(2 * MOVES_MAX >> 20):
        yield bytes(1 << 20)


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """How a host reaches it."""
    directory = tmp_path_factory.mktemp("liar")
    us, them = Store.create(directory / "us").peers, Store.create(directory / "them").peers
    them.add("us", us.own().certificate, None, WHEN)
    app = Starlette(routes=[Route("/{path:path}", lying, methods=["GET", "HEAD", "POST", "PUT"])])
    with listen(("127.0.0.1", 0), "test") as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        us.add("liar", them.own().certificate, address, WHEN)
        us.add("deaf", Store.create(directory / "deaf").peers.own().certificate, None, WHEN)
        us.add("wrong", Store.create(directory / "wrong").peers.own().certificate, address, WHEN)
        with serving(app, listener, Limits(100, 100), tls=listening_context(them, print)):
            yield Access(peer=finder(directory / "us"), read_timeout=20)


@pytest.mark.usefixtures("short_pauses")
def test_what_a_liar_says_is_not_believed(liar: Access) -> None:
    for name, kind in (("other", DamagedError), ("short", DamagedError), ("long", DamagedError), ("cut", StratumError)):
        with open_source(parse_target(f"peer://liar/{name}"), liar) as place, pytest.raises(kind):
            fetch(place, BLOB)
    with open_source(parse_target("peer://liar/x"), liar) as place, pytest.raises(DamagedError):
        place.get_manifest("v1")
    with open_source(parse_target("peer://liar/away"), liar) as place, pytest.raises(StratumError, match="elsewhere"):
        fetch(place, BLOB)
    client = PeerClient("liar", liar)
    for ask in (client.shared, lambda: client.moves("app"), lambda: client.send_moves("app", b"x")):
        with pytest.raises(DamagedError):
            ask()
    assert client.keep("app", BLOB.digest, 0) is False
    client.close()


def test_who_is_not_there_and_who_is_another(liar: Access) -> None:
    for name, kind, match in (
        ("nobody", NotFoundError, "not known here"),
        ("deaf", UsageError, "where peer deaf listens"),
        ("wrong", StratumError, "another key"),
    ):
        with pytest.raises(kind, match=match):
            PeerClient(name, liar).shared()
    with pytest.raises(NotFoundError):
        open_source(parse_target("peer://liar/x"), replace(Access(), read_timeout=1))
