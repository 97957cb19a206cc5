"""Build step: the Python modules of ``stratum/csi/csi.proto``, written next to it, also in editable installs.

They are not kept in version control. ``csi_pb2.pyi`` is for type checkers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTO = "stratum/csi/csi.proto"


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs protoc with the checkout as its root, so that the generated modules import one another by full name."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        from grpc_tools import protoc

        root = Path(self.root)
        well_known = Path(protoc.__file__).parent / "_proto"
        outputs = [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
        status = protoc.main(["protoc", f"-I{root}", f"-I{well_known}", *outputs, str(root / PROTO)])
        if status != 0:
            raise RuntimeError(f"protoc ended with status {status} for {PROTO}")
