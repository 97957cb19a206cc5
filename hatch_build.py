"""Build step: the Python modules of ``stratum/csi/*.proto``, and for the wheel what is installed beside the package.

The modules are written next to the ``.proto`` files, also in editable installs, and not kept in version control;
``*_pb2.pyi`` are for type checkers. Man pages and completion are made from the command line's own help.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = ("stratum/csi/cri.proto", "stratum/csi/csi.proto")


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs with the checkout as its directory, so that the generated modules import one another by full name."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        self._compile_proto()
        if self.target_name == "wheel" and version != "editable":
            build_data["shared_data"].update(self._shared())

    def _compile_proto(self) -> None:
        from grpc_tools import protoc

        well_known = Path(protoc.__file__).parent / "_proto"
        outputs = [f"--{kind}_out={self.root}" for kind in ("python", "pyi", "grpc_python")]
        arguments = [f"-I{self.root}", f"-I{well_known}", *outputs, *(str(Path(self.root) / path) for path in PROTOS)]
        status = protoc.main(["protoc", *arguments])
        if status != 0:
            raise RuntimeError(f"protoc ended with status {status} for {', '.join(PROTOS)}")

    def _shared(self) -> dict[str, str]:
        """File -> its place in the wheel's data."""
        sys.path.insert(0, self.root)
        from tools import share

        made = Path(self.directory) / "share"
        shutil.rmtree(made, ignore_errors=True)
        # In a process of its own: this one has loaded other modules by the same names.
        subprocess.run([sys.executable, "-m", "tools.share", str(made)], check=True, cwd=self.root)
        files = {str(path): str(path.relative_to(made)) for path in sorted(made.rglob("*")) if path.is_file()}
        files |= {str(path): place for place, path in share.kept().items()}
        return {source: f"share/{place}" for source, place in files.items()}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called by hatchling when all is built."""
        shutil.rmtree(Path(self.directory) / "share", ignore_errors=True)
