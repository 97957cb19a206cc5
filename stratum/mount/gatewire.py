"""What is said at the socket of the gates' keeper, ``<runtime directory>/hydrate.sock``: one JSON object a packet.

Descriptors come with the packet (SCM_RIGHTS). A request has a field ``op``; the answers are packets until one without
``"more": true``. An answer with ``error`` says, as a ``StratumError`` does, what went wrong. The requests:

- ``serve``, with a descriptor of /dev/fuse: answer for this filesystem. ``source`` is that of the mount that it is a
  layer of, ``gate`` as ``mount.gate`` writes it. Answered when the filesystem is ready.
- ``list``: ``connections``, with ``id``, ``source``, ``store``, ``commit``, ``since`` and names of ``options`` of each
  that is served.
- ``status``: ``connections`` as above, each with what its fetcher says of itself.
- ``restart-worker``: have a new process of the code on disk take over. ``worker``: its ID.
- ``move``: where this is a child of the monitor of the ``container``, leave its place to another keeper. ``moves``:
  whether it does.
- ``stop``: end; refused while there are connections, unless ``force``.

What else is asked is passed on to the worker, which answers ``status`` too.

The keeper listens for its own user and root alone, and holds what it is sent in memory for as long as the mount is
there. It is small and loads little, and so does this module.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from stratum.sys import packets

SOCKET = "hydrate.sock"


def socket_path(runtime_dir: Path | str) -> str:
    """Where the keeper of a runtime directory listens."""
    return os.path.join(runtime_dir, SOCKET)


def reachable(runtime_dir: Path | str) -> AbstractContextManager[str]:
    """The same in a form that is short enough for a socket's address, during the block. ``OSError``."""
    return packets.reachable(runtime_dir, SOCKET)
