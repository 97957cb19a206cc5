"""Wheels of what this Python has installed, so that pip installs it elsewhere without the network."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = "stratum-oci"


def wheels_of_what_is_needed(directory: Path, extra: str) -> None:
    """Make a wheel in ``directory`` of everything that the project needs with ``extra``, but for itself."""
    wanted = [Requirement(f"{PROJECT}[{extra}]")]
    seen: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in seen and not requirement.extras:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        if name != PROJECT:
            _wheel(distribution, directory)
        extras = [*requirement.extras, ""]
        wanted.extend(
            needed
            for needed in map(Requirement, distribution.requires or ())
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        )


def _wheel(distribution: importlib.metadata.Distribution, directory: Path) -> None:
    """Put an installed distribution back into a wheel, stored, for this Python only."""
    name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"])
    tag = f"py{sys.version_info[0]}-none-any"
    path = directory / f"{name}-{distribution.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in distribution.files or ():
            if ".." in file.parts or "__pycache__" in file.parts or file.name in ("INSTALLER", "REQUESTED"):
                continue
            archive.write(file.locate(), str(file))
