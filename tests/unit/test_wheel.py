"""The wheel: its name, and what is installed beside the package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes

import pytest

import stratum
from stratum.cli.verbs import LISTED
from tools.share import CHECKOUT, COMPLETION, kept

DATA = f"stratum_oci-{stratum.__version__}.data/data/share"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, as ``pip wheel`` builds it of this checkout."""
    place = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "-w", place, CHECKOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = place.iterdir()
    assert path.name == f"stratum_oci-{stratum.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)


def test_its_metadata(wheel: zipfile.ZipFile) -> None:
    about = f"stratum_oci-{stratum.__version__}.dist-info"
    metadata = message_from_bytes(wheel.read(f"{about}/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("stratum-oci", stratum.__version__)
    programs = wheel.read(f"{about}/entry_points.txt").decode().splitlines()
    assert {line.partition(" ")[0] for line in programs} >= {"stratum", "stratum-csi", "stratum-hook", "mount.stratum"}
    assert "stratum = stratum.fs:StratumFileSystem" in programs  # for fsspec


def test_it_has_the_package_and_no_tests(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist() if ".d" not in name.split("/")[0]} == {"stratum"}
    files = (path for path in (CHECKOUT / "stratum").rglob("*.*") if path.suffix in (".py", ".html", ".css", ".svg"))
    ours = {str(path.relative_to(CHECKOUT)) for path in files}
    assert {*ours, "stratum/py.typed"} <= set(wheel.namelist())


def test_the_images_are_built_from_all_that_the_wheel_is() -> None:
    lines = (CHECKOUT / "Containerfile").read_text().splitlines()
    copied = {
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    let_in = {line[1:] for line in (CHECKOUT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    for path in [
        *kept().values(),
        CHECKOUT / "pyproject.toml",
        CHECKOUT / "hatch_build.py",
        CHECKOUT / "tools/share.py",
    ]:
        above = {
            str(parent.relative_to(CHECKOUT)) for parent in [path, *path.parents] if parent.is_relative_to(CHECKOUT)
        }
        assert above & copied


def test_it_has_units_examples_man_pages_and_completion(wheel: zipfile.ZipFile) -> None:
    data = {name.removeprefix(f"{DATA}/") for name in wheel.namelist() if name.startswith(DATA)}
    files = kept()
    assert {"stratum/systemd/stratum-watch.service", "stratum/systemd/stratum-hydrate.socket"} <= set(files)
    assert "stratum/systemd-user/stratum-watch.service" in files
    assert "stratum/examples/quadlet/database.container" in files
    pages = {f"man/man1/stratum-{verb}.1" for verb in LISTED}
    assert data >= {*files, *pages, "man/man1/stratum.1", *COMPLETION.values()}
    units = [path.read_text() for path in files.values() if path.suffix == ".service"]
    documented = {
        line.partition(":")[2] for text in units for line in text.splitlines() if line.startswith("Documentation")
    }
    assert {f"man/man1/{page.removesuffix('(1)')}.1" for page in documented} <= data
    for place, path in files.items():
        assert wheel.read(f"{DATA}/{place}") == path.read_bytes()
    for place in COMPLETION.values():
        assert b"_STRATUM_COMPLETE" in wheel.read(f"{DATA}/{place}")
