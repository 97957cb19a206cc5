"""How pods are known: by the kubelet's directories and by cgroups."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stratum.csi.quiesce import pod_at, pod_of_cgroup

UID = "1dfcb5ed-3b7c-4b0a-9c3e-7a1f0d6e2b11"


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        (f"pod{UID}", UID),
        (f"kubepods-burstable-pod{UID.replace('-', '_')}.slice", UID),
        (f"kubepods-pod{UID.replace('-', '_')}.slice", UID),
        (f"kubelet-kubepods-besteffort-pod{UID.replace('-', '_')}.slice", UID),
        ("kubepods-burstable-pod0f1e2d3c4b5a69788796a5b4c3d2e1f0.slice", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
        ("kubepods.slice", None),
        ("kubepods-burstable.slice", None),
        (f"cri-containerd-{'0' * 64}.scope", None),
        ("pod", None),
        ("podman.slice", "man"),  # which is no pod's UID
    ],
)
def test_cgroups_of_pods(name: str, uid: str | None) -> None:
    assert pod_of_cgroup(name) == uid


def test_directories_of_pods() -> None:
    driver: Any = SimpleNamespace(options=SimpleNamespace(kubelet_dir=Path("/var/lib/kubelet")))
    there = f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/data/mount"
    assert pod_at(driver, there) == UID
    assert pod_at(driver, Path(there)) == UID
    for other in (
        "/var/lib/kubelet/plugins/a/globalmount",
        "/var/lib/kubelet/pods/a/volume-subpaths/x",
        "/mnt/pods/a/volumes/",
    ):
        assert pod_at(driver, other) is None
