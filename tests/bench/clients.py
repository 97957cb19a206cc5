"""Many clients of a registry at once: ``python -m tests.bench.clients HOST REPOSITORY CLIENTS BYTES``.

Each client asks for blobs of the tag ``latest``, one after another and each client from another one on, until it has
got BYTES. What comes is counted, and not kept: the server is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request

_PIECE = 1 << 18
_LARGE = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


async def client(host: str, repository: str, blobs: list[dict[str, object]], number: int, wanted: int) -> None:
    """One client."""
    name, _, port = host.rpartition(":")
    reader, writer = await asyncio.open_connection(name, int(port), limit=_LARGE)
    got = 0
    while got < wanted:
        blob = blobs[number % len(blobs)]
        number += 1
        writer.write(f"GET /v2/{repository}/blobs/{blob['digest']} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        left = int(str(blob["size"]))
        got += left
        while left:
            piece = await reader.read(min(left, _PIECE))
            assert piece, "the server hung up"
            left -= len(piece)
    writer.close()


async def main(host: str, repository: str, clients: str, wanted: str) -> None:
    """All of them."""
    request = urllib.request.Request(f"http://{host}/v2/{repository}/manifests/latest", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(request, timeout=60) as answer:
        layers = json.load(answer)["layers"]
    blobs = [layer for layer in layers if layer["size"] >= _LARGE] or layers
    await asyncio.gather(*(client(host, repository, blobs, number, int(wanted)) for number in range(int(clients))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
