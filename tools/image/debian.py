"""Debian's part of an image: packages of any architecture, unpacked. Nothing of them is run.

apt chooses, fetches and checks the packages, with settings and lists of its own, so the machine's are neither asked nor
changed; dpkg-deb unpacks them. What their scripts would make of what is unpacked, and an image needs, is made here: the
users, the bundle of certificate authorities, and for scanners a record of what is in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.setup.pip import SetupError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MACHINES = {"amd64": ("x86_64", 62), "arm64": ("aarch64", 183)}
"""Architecture -> as the kernel and wheels call it, and its number in ELF files."""
LEFT_OUT = ("usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "var/cache")
_INSTALLED = re.compile(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", re.MULTILINE)


@dataclass(frozen=True)
class Mirrors:
    """Where Debian is fetched from; ``pinned`` is one that may be of an earlier day."""

    main: str
    security: str
    pinned: bool

    @classmethod
    def chosen(cls) -> Mirrors:
        """As ``DEBIAN_MIRROR`` and ``DEBIAN_SECURITY_MIRROR`` say; the second follows from the first."""
        main = os.environ.get("DEBIAN_MIRROR", "").rstrip("/")
        place = main or "http://deb.debian.org/debian"
        return cls(place, os.environ.get("DEBIAN_SECURITY_MIRROR", f"{place}-security"), bool(main))


def fetch_packages(place: Path, architecture: str, suite: str, wanted: tuple[str, ...]) -> list[Path]:
    """The files of Debian's essential packages, of ``wanted``, and of what they need; kept below ``place``."""
    if not KEYRING.exists() or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SetupError(
            "apt-get, dpkg-deb or Debian's keys are not on this machine", "apt-get install debian-archive-keyring"
        )
    mirrors = Mirrors.chosen()
    for name in ("lists/partial", "archives/partial", "none"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    entries = [(mirrors.main, suite), (mirrors.main, f"{suite}-updates"), (mirrors.security, f"{suite}-security")]
    lines = [f"deb [signed-by={KEYRING}] {uri} {name} main" for uri, name in entries]
    (place / "sources.list").write_text("\n".join(lines) + "\n")
    settings = _settings(place, architecture, pinned=mirrors.pinned)
    _apt(settings, "update")
    install = ["install", "--yes", "--no-install-recommends", "?essential", *wanted]
    _apt(settings, *install, "--download-only")
    chosen = _INSTALLED.findall(_apt(settings, *install, "--simulate"))
    files = [
        place / "archives" / f"{name}_{version.replace(':', '%3a')}_{machine}.deb" for name, version, machine in chosen
    ]
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise SetupError(f"apt did not fetch {', '.join(missing) or 'anything'}", f"see {place}/archives")
    return sorted(files)


def _settings(place: Path, architecture: str, *, pinned: bool) -> list[str]:
    values = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Check-Valid-Until": str(not pinned).lower(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "Dir::Cache": str(place),
        "Dir::Cache::archives": str(place / "archives"),
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Parts": str(place / "none"),
        "Dir::Etc::Preferences": str(place / "none/preferences"),
        "Dir::Etc::PreferencesParts": str(place / "none"),
        "Dir::Etc::SourceList": str(place / "sources.list"),
        "Dir::Etc::SourceParts": str(place / "none"),
        "Dir::Etc::TrustedParts": str(place / "none"),
        "Dir::State": str(place),
        "Dir::State::Lists": str(place / "lists"),
        "Dir::State::Status": str(place / "status"),
    }
    return [word for key, value in values.items() for word in ("-o", f"{key}={value}")]


def _apt(settings: list[str], *words: str) -> str:
    command = ["apt-get", "--quiet", *_of_the_machine(), *settings, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0 or "\nW: Failed to fetch" in f"\n{done.stderr}":
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W: Failed"))]
        raise SetupError(
            f"Debian's packages cannot be had: {said[-1][3:] if said else done.stderr.strip()}",
            "DEBIAN_MIRROR=URI names another mirror, DEBIAN_SECURITY_MIRROR the one of its security updates",
        )
    return done.stdout


def _of_the_machine() -> list[str]:
    """What this machine's apt is told of its way to the network: proxies, certificates, time limits."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    told = re.findall(r'^(Acquire::https?::\S+) "([^"]+)";$', dump, re.MULTILINE)
    return [word for key, value in told for word in ("-o", f"{key}={value}")]


def unpack(packages: list[Path], root: Path) -> None:
    """Make the files of ``packages`` in the new directory ``root``, without pages for readers."""
    root.mkdir(parents=True)
    records = root / "var/lib/dpkg/status.d"
    # base-files has the links from /bin to /usr/bin, and so on, through which others may reach.
    for package in sorted(packages, key=lambda path: not path.name.startswith("base-files_")):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    records.mkdir(parents=True)
    for package in packages:
        about = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True, text=True).stdout
        (records / package.name.partition("_")[0]).write_text(about)
    for name in LEFT_OUT:
        shutil.rmtree(root / name, ignore_errors=True)
    for path in sorted((root / "usr/share/doc").rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.name != "copyright":
            path.unlink()
    (root / "var/cache").mkdir()
    _complete(root)


def _complete(root: Path) -> None:
    """Make what the scripts of packages would."""
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    shutil.copyfile(root / "usr/share/libc-bin/nsswitch.conf", root / "etc/nsswitch.conf")
    authorities = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(path.read_text("ascii").rstrip("\n") + "\n" for path in authorities))
    link = root / "usr/lib/ssl/cert.pem"  # where OpenSSL looks
    if not link.is_symlink():
        link.symlink_to("/etc/ssl/certs/ca-certificates.crt")


def python_version(root: Path) -> str:
    """``X.Y`` of the Python in an unpacked Debian."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")


def run_python(root: Path, *arguments: str | Path) -> None:
    """Run the Python of an unpacked Debian of this machine's architecture, with its own loader and libraries."""
    (loader,) = root.glob("usr/lib*/ld-linux-*.so.*")
    (libraries,) = root.glob("usr/lib/*-linux-gnu")
    interpreter = root / "usr/bin" / f"python{python_version(root)}"
    command = [loader, "--library-path", libraries, interpreter, "-s", "-S", *arguments]
    # What it would write of the modules that it loads itself has the paths that they have here.
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=False, env=environment)


def foreign(root: Path, architecture: str) -> list[str]:
    """Programs and libraries below ``root`` that are for another machine."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") != MACHINES[architecture][1]:
                found.append(str(path.relative_to(root)))
    return found
