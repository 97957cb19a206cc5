"""Cold modules: what takes longer to load than a mount takes to make.

Verbs of every day (``stratum mount``, ``status``, ``unmount``) and a container's start never load one, so modules on
these paths import a cold one inside the function that needs it.
"""

from __future__ import annotations

COLD = {
    "backports",
    "blake3",
    "difflib",
    "fsspec",
    "grpc",
    "jsonschema",
    "oras",
    "prometheus_client",
    "requests",
    "rich",
    "starlette",
    "subprocess",
    "tomli_w",
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

COLD_FOR_HOOKS = COLD | {"click", "dataclasses", "inspect", "stratum.cli", "stratum.plugin"}
"""The command line itself is one, and so is what only the command line's library needs."""
