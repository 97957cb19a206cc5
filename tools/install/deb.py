"""``make deb``: a package for Debian 12 and 13, of the same files as ``make install``, by dpkg-deb alone.

Debian 12 has Python 3.11, Debian 13 3.13, and neither has all that is needed; so packages of PyPI are in it, for each
Python from the one to the other. The same checkout gives the same bytes: times are those of the last commit, or
``SOURCE_DATE_EPOCH``.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
from email.utils import formatdate
from pathlib import Path
from time import gmtime

from tools.install.installing import MANIFEST, Make, Target, install
from tools.install.places import PACKAGE, Places
from tools.install.running import SERVICES
from tools.setup.pip import SetupError
from tools.share import CHECKOUT, commit_time, of_last_commit, version

PYTHONS = ("3.11", "3.12", "3.13")
AFTER_LAST = "3.14"
ENABLED = ("stratum-hydrate.socket", "stratum-mounts.service", "stratum-reconcile.service", "stratum-watch.service")
"""Units that whoever installs the package wants; others are enabled by hand."""
TEMPLATES = CHECKOUT / "tools/install/debian"
SCRIPTS = ("postinst", "prerm", "postrm")
DOCUMENTS = ("README.md", "SECURITY.md", "docs", "oci-hooks/README.md", "oci-hooks/quadlet", "registry", "k8s")
"""What of the checkout is in the package's documentation, where the files lead to one another."""


def build_deb(directory: Path, work: Path, make: Make, pythons: tuple[str, ...] = PYTHONS, level: int = 9) -> Path:
    """Build the package in ``directory``, from a root that is made in the empty directory ``work``; its path.

    ``make`` makes the tree, for ``pythons``. ``level`` is that of the compression.
    """
    if shutil.which("dpkg-deb") is None:
        raise SetupError("dpkg-deb is not on this machine", "a Debian package is built on Debian")
    root = work / "root"
    install(Target(Places("/usr"), str(root)), make, lambda text: None)
    (root / "usr/lib/stratum" / MANIFEST).unlink()
    epoch = commit_time()
    _documents(root, epoch)
    for page in sorted((root / "usr/share/man").rglob("*.[1-9]")):
        _gzip(page, Path(f"{page}.gz"))
        page.unlink()
    _normalize(root)
    _control(root, pythons)
    directory.mkdir(parents=True, exist_ok=True)
    built = directory / f"{PACKAGE}_{_version()}_{_architecture()}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", f"-z{level}", "--build", root, built],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )
    return built


def _documents(root: Path, epoch: int) -> None:
    place = root / "usr/share/doc" / PACKAGE
    for name in DOCUMENTS:
        source = CHECKOUT / name
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            target = place / path.relative_to(CHECKOUT)
            if path.is_symlink():  # of the Helm chart, to what kustomize takes
                target.symlink_to(os.readlink(path))
            elif path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    _gzip(CHECKOUT / "CHANGELOG.md", place / "changelog.gz")
    entry = f"{PACKAGE} ({_version()}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n"
    entry += f" -- {_maintainer()}  {formatdate(epoch)}\n"
    (place / "changelog.Debian").write_text(entry)
    _gzip(place / "changelog.Debian", place / "changelog.Debian.gz")
    (place / "changelog.Debian").unlink()
    (place / "copyright").write_text(_copyright(root, gmtime(epoch).tm_year))
    overrides = root / "usr/share/lintian/overrides" / PACKAGE
    overrides.parent.mkdir(parents=True)
    shutil.copyfile(TEMPLATES / "lintian-overrides", overrides)


def _copyright(root: Path, year: int) -> str:
    """The project's licence, and that of each package that is in it, as its metadata and files say."""
    lines = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "Upstream-Name: stratum-oci",
        "Comment: Python packages of others are in /usr/lib/stratum; each has its licence beside its metadata.",
        "",
        "Files: *",
        f"Copyright: {year} the Stratum developers",
        "License: Apache-2.0",
        " On Debian systems, the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.",
    ]
    site = root / "usr/lib/stratum/lib/python3/site-packages"
    for about in sorted(site.glob("*.dist-info")):
        text = (about / "METADATA").read_text("utf-8").partition("\n\n")[0]
        fields = dict(line.partition(": ")[::2] for line in text.splitlines() if ": " in line)
        name = fields["Name"]
        if name == PACKAGE:
            continue
        said = fields.get("License-Expression") or fields.get("License") or "see the files"
        short = re.sub(r"[^A-Za-z0-9.+-]+", "-", said.splitlines()[0])[:60]
        files = sorted(path for path in about.rglob("*") if re.match(r"(?i)(licen[sc]e|copying|notice)", path.name))
        owner = fields.get("Author") or fields.get("Author-email") or f"the authors of {name}"
        lines += ["", f"Files: usr/lib/stratum/lib/python3/site-packages/{about.name.partition('-')[0]}*"]
        lines += [f"Copyright: {owner}", f"License: {name}-{short}"]
        lines += [f" The text is in /{path.relative_to(root)}" for path in files] or [f" {said.splitlines()[0]}"]
    return "\n".join(lines) + "\n"


def _control(root: Path, pythons: tuple[str, ...]) -> None:
    """The directory ``DEBIAN``: control, maintainer scripts, digests."""
    place = root / "DEBIAN"
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}" for path in files]
    size = sum(-(-path.stat().st_size // 1024) for path in files) + sum(1 for path in root.rglob("*") if path.is_dir())
    units = sorted(path.name for path in (root / "usr/lib/systemd/system").iterdir())
    values = {
        "VERSION": _version(),
        "ARCHITECTURE": _architecture(),
        "MAINTAINER": _maintainer(),
        "SIZE": str(size),
        "FIRST": pythons[0],
        "AFTER_LAST": AFTER_LAST,
        "ENABLED": " ".join(ENABLED),
        "RESTARTED": " ".join(SERVICES),
        "UNITS": " ".join(unit for unit in units if "@" not in unit),
        "STOPPED": " ".join(unit.replace("@.", "@*.") for unit in units),
    }
    place.mkdir()
    (place / "md5sums").write_text("\n".join(sums) + "\n")
    for name in ("control", *SCRIPTS):
        text = (TEMPLATES / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        (place / name).write_text(text)
        (place / name).chmod(0o755 if name in SCRIPTS else 0o644)
    (place / "md5sums").chmod(0o644)
    place.chmod(0o755)


def _normalize(root: Path) -> None:
    """Modes and links as a package has them, whatever the umask and the archives of others say."""
    for path in [root, *root.rglob("*")]:
        if path.is_symlink():
            named = os.readlink(path)
            if named.startswith("/usr/"):  # links within /usr are relative in a package
                path.unlink()
                path.symlink_to(os.path.relpath(named, f"/{path.parent.relative_to(root)}"))
        else:
            program = path.is_dir() or path.parent == root / "usr/lib/stratum/bin"
            path.chmod(0o755 if program else 0o644)


def _gzip(source: Path, target: Path) -> None:
    target.write_bytes(gzip.compress(source.read_bytes(), 9, mtime=0))


def _version() -> str:
    return re.sub(r"\.?(dev|a|b|rc)(\d*)$", r"~\1\2", version()) + "-1"


def _architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()


def _maintainer() -> str:
    name, address = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    return (
        f"{name or 'Stratum'} <{address}>"
        if address
        else of_last_commit("%an <%ae>") or "Stratum <stratum@example.invalid>"
    )
