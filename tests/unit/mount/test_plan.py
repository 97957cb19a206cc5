"""What is asked of the kernel for a plan, and how the way to ask is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.mount.plan import (
    Fd,
    Layers,
    LayerSyntax,
    Lower,
    Method,
    MountPlan,
    Parameter,
    method_for,
    overlay_parameters,
    user_method,
)
from stratum.sys.mountapi import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from stratum.tree.overlay import Dialect

COMMIT = MountPlan(Path("/s/c/commit.cfs"), (Path("/s/objects"),), source="stratum-1:a:b")
WORKTREE = MountPlan(Path("/s/c/commit.cfs"), (Path("/s/objects"),), Path("/s/up"), Path("/s/work"))
LAYERS = Layers(image=5, data=(6,), upperdir=7, workdir=8)


def test_a_commit_is_read_only_and_no_device_or_setuid_file_in_it_works() -> None:
    assert not COMMIT.writable
    assert COMMIT.attributes == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV


def test_a_worktree_is_writable_unless_asked_otherwise() -> None:
    assert WORKTREE.attributes == MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    held = MountPlan(WORKTREE.image, WORKTREE.data, WORKTREE.upperdir, WORKTREE.workdir, read_only=True)
    assert held.attributes & MOUNT_ATTR_RDONLY


def test_an_upperdir_without_a_workdir_is_no_plan() -> None:
    with pytest.raises(ValueError, match="go together"):
        MountPlan(Path("/i"), (Path("/o"),), upperdir=Path("/u"))


def test_without_a_data_layer_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match="data layer"):
        MountPlan(Path("/i"), ())


def test_parameters_of_a_commit() -> None:
    assert overlay_parameters(COMMIT, Layers(5, (6,)), LayerSyntax.FD) == [
        ("source", "stratum-1:a:b"),
        ("lowerdir+", Fd(5)),
        ("datadir+", Fd(6)),
        ("metacopy", "on"),
        ("redirect_dir", "on"),
        ("index", "off"),
    ]


def test_parameters_of_a_worktree() -> None:
    parameters = dict(overlay_parameters(WORKTREE, LAYERS, LayerSyntax.FD))
    assert parameters["upperdir"] == Fd(7)
    assert parameters["workdir"] == Fd(8)
    assert parameters["index"] == "off"


@pytest.mark.parametrize(
    ("syntax", "expected"),
    [
        (LayerSyntax.APPENDED, {"lowerdir+": "/proc/self/fd/5", "datadir+": "/proc/self/fd/6"}),
        (LayerSyntax.DATA_ONLY, {"lowerdir": "/proc/self/fd/5::/proc/self/fd/6"}),
        (LayerSyntax.LIST, {"lowerdir": "/proc/self/fd/5:/proc/self/fd/6"}),
    ],
)
def test_older_syntaxes_name_layers_by_fd_paths_only(syntax: LayerSyntax, expected: dict[str, str]) -> None:
    parameters = dict(overlay_parameters(WORKTREE, LAYERS, syntax))
    assert expected.items() <= parameters.items()
    assert parameters["upperdir"] == "/proc/self/fd/7"
    assert parameters["workdir"] == "/proc/self/fd/8"


@pytest.mark.parametrize(
    ("syntax", "expected"),
    [
        (LayerSyntax.FD, [("lowerdir+", Fd(5)), ("datadir+", Fd(6)), ("datadir+", Fd(9))]),
        (LayerSyntax.DATA_ONLY, [("lowerdir", "/proc/self/fd/5::/proc/self/fd/6::/proc/self/fd/9")]),
        (LayerSyntax.LIST, [("lowerdir", "/proc/self/fd/5:/proc/self/fd/6:/proc/self/fd/9")]),
    ],
)
def test_data_layers_are_named_in_their_order(syntax: LayerSyntax, expected: list[Parameter]) -> None:
    parameters = overlay_parameters(COMMIT, Layers(5, (6, 9)), syntax)
    assert parameters[1 : 1 + len(expected)] == expected


def test_in_the_users_dialect_nothing_is_asked_for_that_needs_the_other() -> None:
    plan = MountPlan(Path("/i"), (Path("/o"),), dialect=Dialect.USER)
    parameters = overlay_parameters(plan, Layers(5, (6,)), LayerSyntax.FD)
    assert parameters[3:] == [("userxattr", None), ("index", "off")]


def test_a_label_is_one_parameter_commas_and_all() -> None:
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    plan = MountPlan(Path("/i"), (Path("/o"),), context=label)
    assert dict(overlay_parameters(plan, Layers(5, (6,)), LayerSyntax.FD))["context"] == label


@pytest.mark.parametrize(
    ("release", "method"),
    [
        ("6.18.44-fc", Method()),
        ("7.0", Method()),
        ("6.15.0-rc1", Method()),
        ("6.12.9+deb13-amd64", Method(LayerSyntax.APPENDED, attached_layers=True)),
        ("6.8.0-55-generic", Method(LayerSyntax.APPENDED, attached_layers=True, loop_device=True)),
        ("6.5.1", Method(LayerSyntax.DATA_ONLY, attached_layers=True, loop_device=True)),
        ("6.1.0-31-amd64", Method(LayerSyntax.LIST, attached_layers=True, loop_device=True)),
        ("5.14.0-503.el9", Method(LayerSyntax.LIST, attached_layers=True, loop_device=True)),
        ("unreadable", Method(LayerSyntax.LIST, attached_layers=True, loop_device=True)),
    ],
)
def test_the_way_follows_the_kernel_release(release: str, method: Method) -> None:
    assert method_for(release) == method


def test_users_never_need_a_loop_device_and_mount_contents_without_data_layers_over_something_empty() -> None:
    method = user_method("5.15.0", Lower.DATA)
    assert method == Method(LayerSyntax.LIST, attached_layers=True, lower=Lower.DATA)
    plan = MountPlan(COMMIT.image, COMMIT.data, dialect=Dialect.USER)
    assert overlay_parameters(plan, Layers(5, (), empty=9), method.syntax) == [
        ("source", "stratum"),
        ("lowerdir", "/proc/self/fd/5:/proc/self/fd/9"),
        ("userxattr", None),
        ("index", "off"),
    ]
