"""The driver's program where it cannot start."""

from __future__ import annotations

import sys

import pytest

from stratum.csi.main import main


@pytest.mark.parametrize("package", ["grpc", "prometheus_client", "uvicorn"])
def test_without_its_extra_one_line_says_what_is_missing(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    assert main(["--endpoint", "unix:///none", "--node-id", "n"]) == 6
    assert capsys.readouterr().err.splitlines() == [
        f"error: the driver needs the Python package {package}, which is not installed",
        f"hint: {sys.executable} -m pip install 'stratum-oci[csi]', or the driver's container image (k8s/README.md)",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics", "127.0.0.1:0", "--metrics-tls-cert", "c"], "metrics over TLS need an address, a certificate"),
        (["--metrics", "127.0.0.1:0", "--metrics-client-ca", "c"], "metrics over TLS need an address, a certificate"),
        (["--metrics-tls-cert", "c", "--metrics-tls-key", "k"], "metrics over TLS need an address, a certificate"),
        (
            ["--metrics", "127.0.0.1:0", "--metrics-tls-cert", "/none", "--metrics-tls-key", "/no"],
            "cannot use the cert",
        ),
    ],
)
def test_a_certificate_that_cannot_be_shown(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--endpoint", "unix:///none", "--node-id", "n", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gc-high", "80%"], "--gc-high '80%' is not a percentage"),
        (["--pull-limit", "101"], "--pull-limit '101' is not a percentage"),
        (["--gc-low", "90"], "--gc-low 90, --gc-high 80 and --pull-limit 84 do not ascend"),
        (["--max-volumes", "-1"], "--max-volumes -1 is no number of volumes"),
    ],
)
def test_marks_and_numbers_that_are_none(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--endpoint", "unix:///none", "--node-id", "n", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
