"""A registry that lies, stalls, cuts, refuses, is gone or changes: an error in bounded time, never wrong bytes, and all
is well once the registry is.

``STRATUM_TEST_LAZY=all`` tries those that readers wait long for too, waits until what is remembered is forgotten, and
reads everything after each.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.registry_server import registry_server
from tests.support import hydrating
from tests.support.command import Command
from tests.support.lazily import LARGE, SPARSE, Far, Lazily, make_tree, until
from tests.support.slowregistry import slow_registry

pytestmark = [pytest.mark.root, pytest.mark.registry, pytest.mark.timeout(600)]

ALL = os.environ.get("STRATUM_TEST_LAZY") == "all"
SLOW = ["stall", "drip"]
"""Faults that readers wait half a minute for."""
FAULTS = [
    "lie",
    "zeros",
    "swap",
    "short",
    "cut",
    "whole",
    "401",
    "403",
    "404",
    "429",
    "500",
    "503",
    *(SLOW if ALL else []),
]
"""What a registry can do wrong; see ``slowregistry.Manner``."""
HARMLESS = {"whole"}
"""What a reader may get over."""
REMEMBERED = {"lie", "zeros", "swap", "short", "404", "403", "401"}
"""Faults after which a source is not asked for the same pack again for a minute."""


def test_every_fault_is_an_error_in_time_and_never_wrong_bytes(far: Far, tmp_path: Path) -> None:
    """Each fault has a store, a mount and a name of the repository of its own, and all are tried at once."""
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        said = list(pool.map(lambda fault: one_fault(far, tmp_path / fault, fault), FAULTS))
    assert [line for line in said if line] == []


def one_fault(far: Far, directory: Path, fault: str) -> str:
    """What is wrong, in words."""
    with Lazily(directory, far, far.slow.alias(fault, far.reference)) as lazily:
        assert lazily.read(far.group(0)[:3]) == {}
        far.slow.fault_at(f"/alias/{fault}/", fault)
        wanted = [*far.group(3)[-5:], *far.group(5)[-5:], *far.group(7)[-5:], LARGE, SPARSE]
        failed = lazily.read(wanted, threads=6, timeout=200)
        if not failed and fault not in HARMLESS:
            return f"{fault}: everything was read"
        if not set(failed.values()) <= {errno.EIO}:
            return f"{fault}: {failed}"
        if lazily.read(far.group(0)[:3]):
            return f"{fault}: what is here cannot be read"
        far.slow.fault_at(f"/alias/{fault}/", None)
        if fault in REMEMBERED and not ALL:
            hydrating.kill(hydrating.worker(lazily.run))  # the next one knows nothing of it
        lazily.right_again(wanted, 100 if ALL else 40)
        if ALL:  # what was read ahead is remembered too, and later
            lazily.right_again(far.sums, 100)
            lazily.everything_is_right()
    return ""


def test_a_registry_that_is_gone_costs_each_read_next_to_nothing(lazily: Lazily, far: Far) -> None:
    assert lazily.read(far.group(0)[:3]) == {}
    far.slow.die()
    paths = [*far.group(3), *far.group(6), LARGE]
    started = time.monotonic()
    failed = lazily.read(paths)
    assert set(failed) == set(paths)
    assert set(failed.values()) == {errno.EIO}
    assert time.monotonic() - started < 30, "a hundred reads of what cannot be had take their time one by one"
    assert lazily.read([*far.group(0)[:3], "empty", "tiny"]) == {}
    shown = subprocess.run(["find", lazily.mnt, "-printf", "%s %p\n"], check=True, capture_output=True).stdout
    assert shown.count(b"\n") > len(far.sums)
    far.slow.live()
    lazily.right_again(paths)
    lazily.everything_is_right()


MAPPED = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    print(hashlib.sha256(mapped).hexdigest())
"""


def test_a_map_of_what_cannot_be_had_is_a_signal_and_no_zeros(lazily: Lazily, far: Far) -> None:
    """Both for a file that is opened in vain, and for one whose first part is here."""
    with (lazily.mnt / LARGE).open("rb") as begun, (far.tree / LARGE).open("rb") as original:
        assert begun.read(1 << 20) == original.read(1 << 20)
    far.slow.die()
    for path in (LARGE, SPARSE, far.group(7)[-1]):
        done = subprocess.run([sys.executable, "-c", MAPPED, lazily.mnt / path], capture_output=True, check=False)
        if done.returncode == 0:
            assert done.stdout.decode().strip() == far.sums[path]
        else:
            assert done.returncode == -signal.SIGBUS or b"Input/output error" in done.stderr
    far.slow.live()
    lazily.right_again([LARGE, SPARSE])
    for path in (LARGE, SPARSE):
        done = subprocess.run([sys.executable, "-c", MAPPED, lazily.mnt / path], capture_output=True, check=True)
        assert done.stdout.decode().strip() == far.sums[path]


def test_one_that_is_away_is_asked_now_and_then_only(lazily: Lazily, far: Far) -> None:
    """After a few failures nobody asks for a while: an error at once, and no storm when it comes back."""
    far.slow.tell(fault="503", where="blobs")
    assert set(lazily.read([*far.group(2)[-2:], *far.group(5)[-2:], *far.group(7)[-2:]], threads=6).values()) == {
        errno.EIO
    }
    far.slow.forget()
    started = time.monotonic()
    failed = lazily.read(far.group(3))
    took = time.monotonic() - started
    assert set(failed.values()) == {errno.EIO}
    assert len(far.slow.asked()) < 10 + 10 * took
    far.slow.well()
    lazily.right_again(far.group(3))


def test_what_changed_behind_its_digest_is_not_believed(far: Far, tmp_path: Path) -> None:
    """The registry's own files are damaged: what is damaged is an error, the rest is right, and all is when mended."""
    with registry_server(tmp_path / "registry") as server:
        shutil.copytree(far.server.directory / "data", server.directory / "data", dirs_exist_ok=True)
        with slow_registry(server.directory / "data", tmp_path / "log") as slow:
            reference = far.reference.replace(far.slow.host, slow.host)
            with Lazily(tmp_path / "lazily", far, reference) as lazily:
                packs = [
                    p for p in (server.directory / "data").rglob("data") if p.is_file() and p.stat().st_size > 1 << 20
                ]
                kept = {pack: pack.read_bytes() for pack in packs}
                for pack, data in kept.items():
                    half = len(data) // 2
                    pack.write_bytes(data[:half] + bytes(len(data) - half))
                failed = lazily.read(far.sums, threads=8, timeout=200)
                assert failed
                assert set(failed.values()) == {errno.EIO}
                for pack, data in kept.items():
                    pack.write_bytes(data)
                hydrating.kill(hydrating.worker(lazily.run))  # it remembers for a minute what was wrong
                lazily.right_again(failed)
                lazily.everything_is_right()


def test_a_tag_that_moved_changes_nothing_and_a_manifest_that_is_gone_is_told(far: Far, tmp_path: Path) -> None:
    tree, maker = tmp_path / "tree", Command(tmp_path / "maker", tmp_path / "maker-run")
    sums = make_tree(tree, seed=11)
    mine = Far(far.server, far.slow, tree, sums, maker.ok("import", "--bare", tree, "app:v1"))
    maker.ok("push", "app:v1", f"{far.server.host}/moved/app:v1")
    with Lazily(tmp_path / "lazily", mine, f"{far.slow.host}/moved/app:v1") as lazily:
        assert lazily.read(mine.group(0)) == {}
        (tree / "other").write_text("another tree")
        maker.ok("import", "--bare", tree, "app:v2")
        digest = _manifest_digest(far.server.host, "moved/app", "v1")
        maker.ok("push", "app:v2", f"{far.server.host}/moved/app:v1")
        assert lazily.read(mine.group(2)) == {}
        request = urllib.request.Request(f"http://{far.server.host}/v2/moved/app/manifests/{digest}", method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()
        # The blobs are there still, as the registry has not collected its garbage.
        assert set(lazily.read(mine.group(4)).values()) <= {errno.EIO}
        layers = far.server.directory / "data/docker/registry/v2/repositories/moved/app/_layers"
        layers.rename(layers.with_name("_gone"))
        assert lazily.read([LARGE, *mine.group(7)[-3:]], threads=4)[LARGE] == errno.EIO
        layers.with_name("_gone").rename(layers)
        hydrating.kill(hydrating.worker(lazily.run))
        lazily.right_again([LARGE, *mine.group(7)])


def _manifest_digest(host: str, repository: str, tag: str) -> str:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    request = urllib.request.Request(f"http://{host}/v2/{repository}/manifests/{tag}", headers=accept)
    with urllib.request.urlopen(request, timeout=10) as response:
        return "sha256:" + hashlib.sha256(response.read()).hexdigest()


def test_a_mount_without_network_or_credentials_and_later_with_both(far: Far, tmp_path: Path) -> None:
    """What serves a mount starts without them, and takes what it finds when it needs it."""
    lazily = Lazily(tmp_path / "lazily", far)
    login = tmp_path / "auth.json"
    lazily.cli.environment["REGISTRY_AUTH_FILE"] = str(login)
    lazily.cli.ok("pull", "--lazy", far.reference, "app:v1")
    far.slow.die()
    try:
        lazily.mount()
        assert hydrating.worker(lazily.run) is not None
        assert lazily.read(["tiny", "empty"]) == {}
        assert set(lazily.read(far.group(0)[:2]).values()) == {errno.EIO}
        far.slow.manner.login = "user:first"
        far.slow.live()
        assert set(lazily.read(far.group(0)[:2]).values()) == {errno.EIO}
        log_in(login, far.slow.host, "user:first")
        lazily.right_again(far.group(0)[:2])
        far.slow.tell(login="user:second")  # the password has expired
        until(lambda: lazily.read(far.group(4)[:9]), 30)
        log_in(login, far.slow.host, "user:second")
        lazily.right_again(far.group(4))
        lazily.everything_is_right()
    finally:
        lazily.end()


def log_in(file: Path, host: str, login: str) -> None:
    """Write the file that ``login`` writes."""
    import base64

    file.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(login.encode()).decode()}}}))
    file.chmod(0o600)
