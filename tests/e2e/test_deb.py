"""The Debian package on bare Debian 12 and 13: installed, used, upgraded, removed and purged, without a network.

It takes a quarter of an hour, and the network for building, so it runs where ``STRATUM_TEST_DEB`` is set, with
debootstrap. The systems are kept in ``.cache/debootstrap``. Debian is fetched from ``DEBIAN_MIRROR``, if that is set.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import stratum
from tests.support.capabilities import CHECKOUT, program

PATIENCE = 1200
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
HOOKS = "/etc/containers/oci/hooks.d"


def build(directory: Path) -> Path:
    """The package, by ``make deb``."""
    done = subprocess.run(["make", "deb"], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    built = Path(done.stdout.splitlines()[-1])
    return built.rename(directory / built.name)


def system(suite: str, directory: Path) -> Path:
    """A system with nothing but Debian's minimum and Python."""
    kept = CHECKOUT / f".cache/debootstrap/{suite}.tgz"
    debootstrap = [program("debootstrap"), "--variant=minbase", "--include=python3"]
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        make = [*debootstrap, f"--make-tarball={kept}", suite, str(directory / "made"), MIRROR]
        subprocess.run(make, check=True, capture_output=True, timeout=PATIENCE)
    root = directory / suite
    unpack = [*debootstrap, f"--unpack-tarball={kept}", suite, str(root), MIRROR]
    subprocess.run(unpack, check=True, capture_output=True, timeout=PATIENCE)
    return root


class System:
    """A system in a directory, entered by chroot in namespaces of its own, without a network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "var/lib/stratum"

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        begin = "".join(f"mount --rbind /{name} {self.root}/{name}\n" for name in ("dev", "sys"))
        begin += f"mount -t proc proc {self.root}/proc\nmount -t tmpfs tmpfs {self.root}/run\n"
        inside = (
            f"exec chroot {self.root} /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -ec '{script}'"
        )
        namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        command = [*namespaces, "sh", "-ec", begin + inside]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def ok(self, script: str) -> str:
        done = self.run(script)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def named(self) -> set[str]:
        """What is in the system by our name, but for what dpkg and the service manager remember."""
        found = (str(path.relative_to(self.root)) for path in self.root.rglob("*stratum*"))
        own = ("var/lib/stratum", "tmp/", "var/lib/dpkg/", "proc/", "sys/")
        return {name for name in found if not name.startswith(own)}


SESSION = """
mkdir -p /tmp/tree /srv/at
echo one >/tmp/tree/file
stratum --quiet import --bare /tmp/tree app
stratum --quiet worktree add app+dev
mount -t stratum app+dev /srv/at
echo two >/srv/at/file
stratum --quiet commit app+dev v2
umount /srv/at
stratum diff app:latest app:v2
stratum --quiet history on app+dev
stratum --quiet watch --stop
stratum fsck
timeout --preserve-status 5 stratum volume-plugin
"""

if os.environ.get("STRATUM_TEST_DEB"):

    @pytest.fixture(scope="module")
    def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return build(tmp_path_factory.mktemp("deb"))

    @pytest.mark.root
    @pytest.mark.timeout(2400)
    @pytest.mark.parametrize("suite", ["bookworm", "trixie"])
    def test_the_package_on_a_bare_system(suite: str, deb: Path, tmp_path: Path) -> None:
        bare = System(system(suite, tmp_path))
        (bare.root / "tmp/p.deb").write_bytes(deb.read_bytes())
        before = bare.named()
        bare.ok("dpkg -i /tmp/p.deb")
        assert f"stratum {stratum.__version__}" in bare.ok("stratum --version")
        assert "M /file" in bare.ok(SESSION)
        wants = bare.root / "etc/systemd/system"
        assert (wants / "multi-user.target.wants/stratum-watch.service").is_symlink()
        assert (wants / "sockets.target.wants/stratum-hydrate.socket").is_symlink()
        assert not list(wants.rglob("stratum-volume-plugin.service"))
        bare.ok(f"stratum hook install; grep -q /usr/lib/stratum/bin/python3 {HOOKS}/stratum-poststop.json")

        refused = bare.run("dpkg -r stratum-oci")
        assert refused.returncode != 0
        assert "stratum hook uninstall" in refused.stderr
        bare.ok("stratum list; dpkg -i /tmp/p.deb; stratum list")
        bare.ok("stratum hook uninstall; mkdir -p /etc/stratum; echo >/etc/stratum/policy.toml; dpkg -r stratum-oci")
        assert not (bare.root / "usr/lib/stratum").exists()
        assert (bare.root / "etc/stratum/policy.toml").exists()
        assert "the store /var/lib/stratum stays" in bare.ok("dpkg -P stratum-oci")
        assert bare.named() - before == set()
        assert (bare.store / "stratum.toml").exists()

    @pytest.mark.root
    @pytest.mark.timeout(2400)
    def test_the_same_checkout_gives_the_same_package(deb: Path, tmp_path: Path) -> None:
        assert build(tmp_path).read_bytes() == deb.read_bytes()
