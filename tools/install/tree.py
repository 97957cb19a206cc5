"""The program's own tree: a virtual environment that pip knows nothing of, for one version of Python or for several.

It is made at one place for another, where it will be renamed to or unpacked. ``lib/python3`` holds the packages;
``lib/pythonX.Y`` is a link to it for each Python that they suit, as compiled modules of several versions have names of
their own. The interpreter is a link to the system's, so it stays what the system keeps it at; nothing that a
user sets (``PYTHONPATH``, a site of their own) reaches the programs.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tools.setup.pip import SetupError, pip
from tools.share import CHECKOUT

CONSTRAINTS = CHECKOUT / "tools/constraints.txt"
EXTRAS = "archives,metrics,places,serve"
"""Those of the project that a host has a use for; the driver for Kubernetes has an image."""
NEEDED_BY = {"stratum-csi": "grpc", "stratum-csi-populator": "kubernetes"}
"""Programs that are for those alone who installed an extra: what comes with it."""
SCRIPT = """#!{place}/bin/python3 -I
import sys

from {module} import {function}

sys.exit({function}())
"""
PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))
"""Up to the C library of Debian 12, the oldest first: wheels for several machines are not all for the same one."""
NOT_KEPT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""Of an installed distribution: what pip needs to remove it, and where it came from on the building machine."""
OF_ONE_PYTHON = ("WHEEL", *NOT_KEPT)

_MISSING = """
import importlib.metadata, json, sys
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name
found = list(importlib.metadata.distributions(path=[sys.argv[1]]))
there = {canonicalize_name(dist.metadata["Name"]) for dist in found}
missing = set()
for dist in found:
    for requirement in map(Requirement, dist.requires or ()):
        for version in sys.argv[3:]:
            about = {"python_version": version, "python_full_version": version + ".0", "extra": ""}
            about["platform_machine"] = sys.argv[2]
            if requirement.marker is None or requirement.marker.evaluate(about):
                missing.add(canonicalize_name(requirement.name))
print(json.dumps(sorted(missing - there)))
"""


@dataclass(frozen=True)
class Builder:
    """``python`` has pip. ``isolated``: pip fetches what the wheel is built with; else ``python`` has it. ``extras``
    are those of the project that are installed. ``built`` is its wheel, where that is there already. ``machine`` is the
    one that packages for given versions of Python are for."""

    python: Path
    isolated: bool = True
    extras: str = EXTRAS
    built: Path | None = None
    machine: str = field(default_factory=lambda: os.uname().machine)

    def wheel(self, directory: Path) -> Path:
        """The project's wheel, built in ``directory``."""
        if self.built is not None:
            return self.built
        isolation = [] if self.isolated else ["--no-build-isolation"]
        os.environ["PIP_CONSTRAINT"] = str(CONSTRAINTS)  # the only way to those that pip builds with
        pip(self.python, "wheel", "--no-deps", *isolation, "--wheel-dir", directory, CHECKOUT)
        del os.environ["PIP_CONSTRAINT"]
        (found,) = directory.glob("stratum_oci-*.whl")
        return found

    def packages(self, site: Path, wanted: list[str], version: str | None = None) -> None:
        """Install ``wanted`` and what they need into the directory ``site``: for this Python, or for ``version``."""
        other: list[str] = []
        if version is not None:
            other = ["--python-version", version, "--implementation", "cp", "--only-binary", ":all:"]
            other += [word for name in PLATFORMS for word in ("--platform", f"{name}_{self.machine}")]
        pip(self.python, "install", "--no-compile", "--target", site, "--constraint", CONSTRAINTS, *other, *wanted)

    def missing(self, site: Path, versions: tuple[str, ...]) -> list[str]:
        """What packages in ``site`` want and is not there, for any of ``versions`` of Python."""
        command = [str(self.python), "-c", _MISSING, str(site), self.machine, *versions]
        found: list[str] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found


def builder_for(python: Path, extras: str = EXTRAS) -> Builder:
    """An environment of ``python`` in ``.cache`` that has pip."""
    place = CHECKOUT / ".cache/install-venv"
    ours = place / "bin/python"
    about = f"{python} {subprocess.run([python, '--version'], check=True, capture_output=True, text=True).stdout}"
    mark = place / "made-of"
    if not (mark.exists() and mark.read_text() == about):
        done = subprocess.run([python, "-m", "venv", "--clear", place], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            raise SetupError(f"{python} cannot make a virtual environment: {last}", "apt-get install python3-venv")
        mark.write_text(about)
    return Builder(ours, extras=extras)


def version_of(python: Path) -> str:
    """``X.Y`` of an interpreter; ``SetupError`` where it cannot run the project."""
    command = [str(python), "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        said = str(subprocess.run(command, check=True, capture_output=True, text=True).stdout).strip()
    except (OSError, subprocess.CalledProcessError) as exc:
        raise SetupError(f"{python} does not run: {exc}", "PYTHON=... chooses another interpreter") from None
    if tuple(map(int, said.split("."))) < (3, 10):
        raise SetupError(
            f"{python} is Python {said}; 3.10 or later is needed", "PYTHON=... chooses another interpreter"
        )
    return said


def make_tree(
    tree: Path, place: str, python: Path, builder: Builder, versions: tuple[str, ...] = ()
) -> tuple[list[str], Path]:
    """Make the tree in the empty directory ``tree``, for the place ``place``: its programs, and a directory with what
    the wheel has below ``share/``, which is the caller's.

    ``python`` is the interpreter of the machine it is for. ``versions`` are those of Python that the packages are to
    suit; without any, that of ``python``.
    """
    site = tree / "lib/python3/site-packages"
    site.parent.mkdir(parents=True)
    for version in versions or (version_of(python),):
        (tree / f"lib/python{version}").symlink_to("python3")
    (tree / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
    (tree / "bin").mkdir()
    (tree / "bin/python3").symlink_to(python)
    with tempfile.TemporaryDirectory(prefix="stratum-install-") as work:
        wanted = [f"{builder.wheel(Path(work))}[{builder.extras}]"]
        if versions:
            _packages_of_all(site, wanted, builder, versions, Path(work))
        else:
            builder.packages(site, wanted)
    shutil.rmtree(site / "bin", ignore_errors=True)
    for path in site.glob("*/tests"):  # of others, who put them into their packages
        shutil.rmtree(path)
    shutil.rmtree(site / "kubernetes/aio", ignore_errors=True)  # 64 MB: the client once more, for asyncio
    for name in NOT_KEPT:
        for path in site.glob(f"*.dist-info/{name}"):
            path.unlink()
    share = tree / "share"
    (site / "share").rename(share)
    return _scripts(tree, site, place), share


def _packages_of_all(site: Path, wanted: list[str], builder: Builder, versions: tuple[str, ...], work: Path) -> None:
    """Packages for all of ``versions`` in one directory. pip reads conditions on Python for the one that runs it, so
    what others want besides is asked for by name."""
    while True:
        for version in versions:
            builder.packages(work / version, wanted, version)
        missing = {name for version in versions for name in builder.missing(work / version, versions)}
        if not missing:
            break
        wanted = [*wanted, *sorted(missing)]
        for version in versions:
            shutil.rmtree(work / version)
    for version in versions:
        merge(work / version, site)


def merge(source: Path, target: Path) -> None:
    """Move what is in ``source`` to ``target``, where the same packages may be of another Python.

    Raises ``SetupError`` where a file differs that is for all Pythons.
    """
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        elif not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            path.rename(there)
        elif path.read_bytes() != there.read_bytes() and path.name not in OF_ONE_PYTHON:
            raise SetupError(f"{path.relative_to(source)} is not the same for all Pythons", "see tools/install/tree.py")


def _scripts(tree: Path, site: Path, place: str) -> list[str]:
    """Write the programs that the project's metadata names; their names."""
    (about,) = site.glob("stratum_oci-*.dist-info")
    parser = configparser.ConfigParser(delimiters="=")
    parser.read(about / "entry_points.txt")
    written = []
    for name, target in parser["console_scripts"].items():
        module, _, function = target.partition(":")
        if not (site / NEEDED_BY.get(name, "stratum")).exists():
            continue
        path = tree / "bin" / name
        path.write_text(SCRIPT.format(place=place, module=module, function=function))
        path.chmod(0o755)
        written.append(name)
    return written


def make_working_tree(tree: Path, place: str, python: Path, builder: Builder) -> tuple[list[str], Path]:
    """As ``make_tree``, for this machine: with what Python compiles, and tried."""
    made = make_tree(tree, place, python, builder)
    _compile(tree, place)
    _try(tree)
    return made


def _compile(tree: Path, place: str) -> None:
    """Write what Python compiles, so that each start need not; with the paths that files have in ``place``."""
    site = tree / "lib/python3/site-packages"
    moved = ["-s", str(site), "-p", f"{place}/lib/python3/site-packages"]
    # A file that this Python cannot compile is one that nobody imports here.
    subprocess.run([tree / "bin/python3", "-I", "-m", "compileall", "-q", *moved, site], check=False)


def _try(tree: Path) -> None:
    """Start the program where it is."""
    command = [str(tree / "bin/python3"), "-I", "-m", "stratum", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"what was installed does not run: {done.stderr.strip().rpartition(chr(10))[2]}", "")
