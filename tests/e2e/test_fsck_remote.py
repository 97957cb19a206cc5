"""fsck and a real registry: what is unreal, who was asked, what is gone, and damage that is fetched again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.store import Store
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.command import Command
from tests.support.stores import check

pytestmark = pytest.mark.registry


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with registry_server(tmp_path / "registry") as running:
        yield running


def test_a_registry_is_asked_and_mends(server: RegistryServer, cli: Command, store_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    contents = [b"%d" % number * 3000 for number in range(3)]
    for number, content in enumerate(contents):
        (source / f"f{number}").write_bytes(content)
    assert cli("import", "--bare", str(source), "app:v1").code == 0
    assert cli("push", "app:v1", f"{server.host}/far/app:v1").code == 0
    shutil.rmtree(store_dir)
    assert cli("pull", "--lazy", f"{server.host}/far/app:v1", "app:v1").code == 0
    code, out, _ = cli("fsck", "--remote")
    assert (code, out) == (
        0,
        f"app:v1: 0 of 3 objects real, 3 unreal (8.8 KiB) at {server.host}/far/app (seen just now)\n",
    )
    # A damaged catalog and a damaged object come from there again.
    store = Store.open(store_dir)
    [manifest] = store.sources.manifests()
    path = store.sources.catalog_path(manifest)
    before = path.read_bytes()
    path.write_bytes(before[:-9])
    assert cli("fsck").code == 5
    code, out, _ = cli("fsck", "--repair")
    assert (code, f"fetched anew from {server.host}/far/app" in out) == (0, True)
    assert path.read_bytes() == before
    assert cli("pull", f"{server.host}/far/app:v1", "app:v1").code == 0
    broken = store.objects.path(verity_digest(contents[1]))
    os.chmod(broken, 0o600)
    broken.write_bytes(b"x" * 3000)
    os.chmod(broken, 0o444)
    code, out, _ = cli("fsck", "--repair")
    assert (code, "it is fetched from" in out) == (0, True)
    assert cli("restore", "app:v1", "/f1", "--to", str(tmp_path)).code == 0
    assert (tmp_path / "f1").read_bytes() == contents[1]
    assert cli("fsck").code == 0
    check(store)


def test_a_registry_that_is_away_and_one_that_lost_it(cli: Command, store_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"f" * 5000)
    with registry_server(tmp_path / "registry") as server:
        assert cli("import", "--bare", str(source), "app:v1").code == 0
        assert cli("push", "app:v1", f"{server.host}/far/app:v1").code == 0
        shutil.rmtree(store_dir)
        assert cli("pull", "--lazy", f"{server.host}/far/app:v1", "app:v1").code == 0
        assert cli("pull", "--lazy", f"{server.host}/far/app:v1", "app:other").code == 0
        shutil.rmtree(next((tmp_path / "registry").rglob("repositories/far/app")))
        code, out, err = cli("fsck", "--remote")
        assert (code, "has it no more" in out) == (5, True), (out, err)
    code, _, err = cli("fsck", "--remote")
    assert "could not be asked" in err
    assert code == 5, "what was known stays known"
