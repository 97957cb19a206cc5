"""What a container's process and mount say about its users and its label, as text."""

from __future__ import annotations

import pytest

from stratum.mount.container import context_of, parse_id_map
from stratum.mount.plan import Layers, LayerSyntax, MountPlan, overlay_parameters


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("         0          0 4294967295\n", 0),
        ("         0     100000      65536\n", 100000),
        ("         1     200000          9\n         0     100000          1\n", 100000),
        ("      1000     100000      65536\n", None),
        ("", None),
    ],
)
def test_the_host_id_of_a_containers_root(text: str, root: int | None) -> None:
    assert parse_id_map(text) == root


LABEL = "system_u:object_r:container_file_t:s0:c101,c744"


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (f'rw,context="{LABEL}",lowerdir=/x,redirect_dir=on', LABEL),
        ("rw,context=system_u:object_r:container_file_t:s0,metacopy=on", "system_u:object_r:container_file_t:s0"),
        ("rw,seclabel,lowerdir=/x,metacopy=on", None),
        ('rw,rootcontext="a:b:c:s0",defcontext="d:e:f:s0"', None),
    ],
)
def test_the_label_of_a_mount(options: str, label: str | None) -> None:
    assert context_of(options) == label


def test_a_label_is_one_parameter_of_the_overlay(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.getbasetemp()
    plan = MountPlan(place / "image", (place / "objects",), context=LABEL)
    parameters = overlay_parameters(plan, Layers(3, (4,)), LayerSyntax.FD)
    assert ("context", LABEL) in parameters
    assert "context" not in dict(overlay_parameters(MountPlan(plan.image, plan.data), Layers(3, (4,)), LayerSyntax.FD))
