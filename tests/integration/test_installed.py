"""What ``make install`` and ``make deb`` install, used as it is installed: from this checkout, without the network."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stratum
from tests.support.capabilities import CHECKOUT
from tests.support.wheels import wheels_of_what_is_needed
from tools.install.deb import AFTER_LAST, ENABLED, PYTHONS, build_deb
from tools.install.tree import EXTRAS
from tools.share import kept

pytestmark = pytest.mark.root

SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``make install DESTDIR=...`` installed, with the packages of this environment."""
    wheels = tmp_path_factory.mktemp("wheels")
    wheels_of_what_is_needed(wheels, EXTRAS)
    root = tmp_path_factory.mktemp("root")
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    options = ["--destdir", str(root), "--build-python", sys.executable, "--python", str(SYSTEM_PYTHON)]
    command = [SYSTEM_PYTHON, "-m", "tools.install", *options, "install"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


def within(layers: list[Path], script: str) -> subprocess.CompletedProcess[str]:
    """A shell that sees the directories in ``layers`` over the machine's, and changes nothing there."""
    begin = "mount -t tmpfs tmpfs /mnt\n"
    for place in ("/usr", "/etc", "/var/lib"):
        lower = ":".join([*(f"{layer}{place}" for layer in layers if (layer / place[1:]).is_dir()), place])
        begin += f"mkdir -p /mnt{place}/upper /mnt{place}/work\n"
        upper = f"upperdir=/mnt{place}/upper,workdir=/mnt{place}/work"
        begin += f"mount -t overlay -o lowerdir={lower},{upper} overlay {place}\n"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{begin}mount -t tmpfs tmpfs /run\n{script}"],
        env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/mnt", "PYTHONPATH": str(CHECKOUT)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


SESSION = """
stratum --version
readlink -f "$(command -v stratum)"
mkdir -p /run/tree /run/at
echo one >/run/tree/file
export STRATUM_STORE=/mnt/store
stratum --quiet import --bare /run/tree app
stratum --quiet worktree add app+dev
mount -t stratum app+dev /run/at
cat /run/at/file
umount /run/at
stratum --quiet hook install /run/hooks
stratum --quiet metrics | grep -c ^stratum_
stratum completion bash | diff - "$1/share/bash-completion/completions/stratum"
"$1/lib/stratum/bin/python3" -I -c 'import stratum, sys; print(stratum.__file__, sys.dont_write_bytecode)'
"""


def test_the_installed_programs_run_with_nothing_of_the_checkout(root: Path) -> None:
    done = within([root], f"set -- /usr/local\n{SESSION}cat /run/hooks/*.json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"stratum {stratum.__version__}", "/usr/local/lib/stratum/bin/stratum"]
    assert "one" in lines
    assert any(line.startswith("/usr/local/lib/stratum/lib/python3") for line in lines)
    assert '"path": "/usr/local/lib/stratum/bin/python3"' in done.stdout
    assert str(CHECKOUT) not in done.stdout


def test_the_interpreter_is_the_system_s_and_nothing_names_where_it_was_made(root: Path) -> None:
    tree = root / "usr/local/lib/stratum"
    assert os.readlink(tree / "bin/python3") == str(SYSTEM_PYTHON)
    for path in [*(tree / "bin").iterdir(), tree / "pyvenv.cfg", tree / "manifest.json"]:
        assert str(root) not in path.read_text("utf-8", "replace")
    compiled = next((tree / "lib/python3/site-packages/stratum/__pycache__").glob("refs.*.pyc")).read_bytes()
    assert b"/usr/local/lib/stratum/lib/python3" in compiled
    assert str(root).encode() not in compiled


def test_units_and_man_pages_are_where_the_system_looks(root: Path) -> None:
    units = root / "usr/local/lib/systemd/system"
    for directory, kind in ((units, "/systemd/"), (root / "usr/local/lib/systemd/user", "/systemd-user/")):
        assert {path.name for path in directory.iterdir()} == {
            name.rpartition("/")[2] for name in kept() if kind in name
        }
    assert "ExecStart=/usr/local/bin/stratum watch" in (units / "stratum-watch.service").read_text()
    assert (root / "usr/local/share/man/man1/stratum-mount.1").is_file()


@pytest.fixture(scope="module")
def deb(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the tree that is installed, for the Python here."""

    def make(tree: Path, place: str) -> tuple[list[str], Path]:
        source = root / "usr/local/lib/stratum"
        subprocess.run(["cp", "-a", f"{source}/.", tree], check=True)
        for path in (tree / "bin").glob("*str*"):
            path.write_text(path.read_text().replace("/usr/local/lib/stratum", place))
        subprocess.run(["find", tree, "-name", "__pycache__", "-prune", "-exec", "rm", "-r", "{}", "+"], check=True)
        share = tree / "share"
        for name, path in kept().items():
            (share / name).parent.mkdir(parents=True, exist_ok=True)
            (share / name).write_bytes(path.read_bytes())
        return ["stratum", "stratum-hook", "mount.stratum"], share

    work = tmp_path_factory.mktemp("deb")
    return build_deb(work / "dist", work, make, level=0)


def test_the_package_s_control_and_files(deb: Path, tmp_path: Path) -> None:
    assert re.fullmatch(rf"stratum-oci_{re.escape(stratum.__version__)}-1_\w+\.deb", deb.name)
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tmp_path / "all"], check=True)
    control = (tmp_path / "all/DEBIAN/control").read_text()
    assert f"Depends: python3 (>= {PYTHONS[0]}), python3 (<< {AFTER_LAST}~)" in control
    for path in (tmp_path / "all/DEBIAN").iterdir():
        assert re.search(r"@[A-Z_]+@", path.read_text()) is None
    for name in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", tmp_path / "all/DEBIAN" / name], check=True)
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "all/DEBIAN/md5sums").read_text().splitlines())
    files = {str(path.relative_to(tmp_path / "all")): path for path in (tmp_path / "all/usr").rglob("*")}
    plain = {name for name, path in files.items() if path.is_file() and not path.is_symlink()}
    assert set(sums) == plain
    name = "usr/lib/systemd/system/stratum-watch.service"
    assert sums[name] == hashlib.md5(files[name].read_bytes()).hexdigest()
    assert "ExecStart=/usr/bin/stratum watch" in files[name].read_text()
    assert {f"usr/lib/systemd/system/{unit}" for unit in ENABLED} <= plain
    about = {"copyright", "changelog.gz", "changelog.Debian.gz", "README.md", "examples/policy.toml"}
    assert {f"usr/share/doc/stratum-oci/{name}" for name in about} <= plain
    chart = tmp_path / "all/usr/share/doc/stratum-oci/k8s/chart"
    assert (chart / "manifests/daemonset.yaml").is_file(), "what it leads to is there, too"
    unwanted = re.compile(r"\bmanifest\b|\.pyc$|hooks\.d")
    assert not [name for name in files if unwanted.search(name)]
    listed = subprocess.run(["dpkg-deb", "--contents", deb], check=True, capture_output=True, text=True).stdout
    entries = [line.split() for line in listed.splitlines()]
    assert {words[1] for words in entries} == {"root/root"}
    assert {words[0] for words in entries} == {"drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx"}


def test_the_package_is_not_removed_while_the_hook_runs_it(deb: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tmp_path / "all"], check=True)
    prerm = tmp_path / "all/DEBIAN/prerm"
    hook = "/etc/containers/oci/hooks.d"
    there = f'mkdir -p {hook}; rm -f {hook}/*\necho \'{{"path": "/usr/lib/stratum/bin/python3"}}\' >{hook}/x.json\n'
    refused = within([tmp_path / "all"], f"{there}sh {prerm} remove")
    assert refused.returncode == 1
    assert "run 'stratum hook uninstall' first" in refused.stderr
    done = within(
        [tmp_path / "all"],
        f"{there}sh {prerm} upgrade 2\nrm {hook}/x.json\nsh {prerm} remove\n/usr/bin/stratum --version",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"stratum {stratum.__version__}\n"
