"""Set-up: what is said where Python packages cannot be fetched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.setup.pip import CERTIFICATE, HINT, failure

CHECKOUT = Path(__file__).parents[2]
LOOKING = "Looking in indexes: https://user:secret@mirror.example/simple\n"
RETRYING = "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by "
NONE = "ERROR: Could not find a version that satisfies the requirement hatchling (from versions: none)\n"
CONFLICT = "ERROR: Cannot install hatchling because these package versions have conflicting dependencies.\n"
CONFLICT += "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io\n"
REFUSED = (
    "NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new "
)
REFUSED += "connection: [Errno 111] Connection refused')"


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            f"{LOOKING}{RETRYING}'{REFUSED}': /simple/hatchling/\n{CONFLICT}",
            "Python packages cannot be fetched from https://mirror.example/simple: Connection refused",
            HINT,
        ),
        (
            f"{RETRYING}'ProxyError('Cannot connect to proxy.', {REFUSED})': /simple/hatchling/\n{NONE}",
            "Python packages cannot be fetched from https://pypi.org/simple: the proxy: Connection refused",
            HINT,
        ),
        (
            f"{RETRYING}'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify "
            f"failed: self-signed certificate (_ssl.c:992)'))': /simple/hatchling/\n{NONE}",
            "Python packages cannot be fetched from https://pypi.org/simple: "
            "certificate verify failed: self-signed certificate",
            CERTIFICATE,
        ),
        (
            f"{RETRYING}'ReadTimeoutError(\"Read timed out. (read timeout=15)\")': /simple/x/\n{NONE}",
            "Python packages cannot be fetched from https://pypi.org/simple: Read timed out. (read timeout=15)",
            HINT,
        ),
        (
            f"{LOOKING}{NONE}".replace("hatchling", "hatchling>=1.21"),
            "https://mirror.example/simple has no Python package hatchling>=1.21 that suits this machine",
            HINT,
        ),
        (
            "ERROR: Could not install packages: [Errno 28] No space left\n",
            "pip failed: Could not install packages: [Errno 28] No space left",
            "",
        ),
        ("Segmentation fault\n", "pip failed: Segmentation fault", ""),
        ("", "pip failed: ", ""),
    ],
)
def test_what_is_said_when_pip_failed(said: str, message: str, hint: str) -> None:
    assert failure(said) == (message, hint)


def test_an_index_that_is_not_there_is_two_lines(tmp_path: Path) -> None:
    environment = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": str(tmp_path)}
    command = [sys.executable, "-m", "tools.setup.pip", sys.executable, "download", "-d", str(tmp_path), "hatchling"]
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error == "error: Python packages cannot be fetched from http://127.0.0.1:9/simple: Connection refused"
    assert hint.startswith("hint: set PIP_INDEX_URL")
    log = Path(hint.rpartition(" ")[2])
    assert "Retrying" in log.read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("purpose", ["install", "demo", "test", "bench"])
def test_nothing_but_the_tests_asks_for_what_debian_has_in_sid_only(purpose: str, tmp_path: Path) -> None:
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\necho\n")  # nothing is installed
    (tmp_path / "apt-get").write_text('#!/bin/sh\nfor word; do case $word in -*) ;; *) echo "$word" ;; esac; done\n')
    (tmp_path / "invoke-rc.d").write_text("#!/bin/sh\n")
    (tmp_path / "update-rc.d").write_text("#!/bin/sh\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    script = CHECKOUT / "tools/setup/packages.sh"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["unshare", "-r", script, purpose], env=environment, capture_output=True, text=True, check=False
    )
    asked = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert {"python3", "python3-venv"} <= set(asked)
    assert not {"composefs", "oras"} & set(asked)
    assert ("uidmap" in asked, "fuse3" in asked) == (purpose != "install", purpose != "install")
    assert ("podman" in asked, "strace" in asked) == (purpose != "install", purpose in ("test", "bench"))
