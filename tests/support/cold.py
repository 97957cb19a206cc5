"""Cold modules: what takes longer to load than a mount takes to make.

Verbs of every day (``stratum mount``, ``status``, ``unmount``) and a container's start never load one, so modules on
these paths import a cold one inside the function that needs it.
"""

from __future__ import annotations

COLD = {
    "backports",
    "blake3",
    "dataclasses",
    "difflib",
    "fsspec",
    "grpc",
    "hashlib",
    "jsonschema",
    "locale",
    "oras",
    "prometheus_client",
    "requests",
    "rich",
    "selectors",
    "shlex",
    "signal",
    "socket",
    "starlette",
    "subprocess",
    "tomli_w",
    "tomllib",
    "urllib3",
    "uvicorn",
    "yaml",
    "stratum.composefs.erofs.writer",
    "stratum.composefs.verity",
    "stratum.csi",
    "stratum.fs",
    "stratum.history",
    "stratum.hydrate",
    "stratum.ingest",
    "stratum.oci",
    "stratum.transfer",
    "stratum.zstd",
}

COLD_FOR_MOUNTS = COLD | {"stratum.store.commits", "stratum.store.transaction", "stratum.store.trees"}
"""A mount of a commit whose image is there reads and writes no tree."""

COLD_FOR_HOOKS = (COLD - {"signal"}) | {"click", "inspect", "stratum.cli", "stratum.plugin", "stratum.volumes.grant"}
"""The command line itself is one, and so is what only the command line's library needs, and what only worktrees need.
The hook's alarm is a signal."""
