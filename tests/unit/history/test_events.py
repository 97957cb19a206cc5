"""Which kernels tell of what is written through an overlay."""

from __future__ import annotations

import pytest

from stratum.history.events import too_old


@pytest.mark.parametrize(
    "release",
    ["6.5.0", "6.5", "6.5-rc1", "6.18.44-fc-v657", "6.12.9+deb13-amd64", "7.0.0", "10.0.1", "6.8.0-51-generic"],
)
def test_new_kernels(release: str) -> None:
    assert too_old(release) is None


@pytest.mark.parametrize(
    "release", ["6.4.16", "6.1.0-28-amd64", "5.15.0-130-generic", "5.14.0-503.el9.x86_64", "4.4.0", "3.10.0"]
)
def test_old_kernels(release: str) -> None:
    assert (
        too_old(release) == f"Linux {release} does not tell of what is written through an overlay: that takes Linux 6.5"
    )


@pytest.mark.parametrize("release", ["", "x", "6", "6.", "-6.18", "6.99999999", " 6.5", "\x1b[31m"])
def test_what_is_no_kernel(release: str) -> None:
    told = too_old(release)
    assert told is not None
    assert told.startswith("it is not known what the kernel ")
    assert told.isprintable()
