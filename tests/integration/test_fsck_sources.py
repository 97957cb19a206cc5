"""What a check says of commits that are not here whole, and how what tells of their sources is mended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.api import importing, maintenance, transfer
from stratum.api.session import Session
from stratum.composefs.verity import verity_digest
from stratum.config import load_config
from stratum.store import Store
from stratum.store.residence import Condition, ResidenceCounts
from tests.integration.test_fsck import cut, flip, plant, without_check
from tests.support.command import Command
from tests.support.stores import check, snapshot

pytestmark = pytest.mark.root

FILES = {"same": b"s" * 9000, "dir/own": b"1" * 8000, "dir/more": b"m" * 7000}


class Scene:
    """A store with a commit that was pulled lazily from an OCI layout, under two tags."""

    def __init__(self, tmp_path: Path, store: Path, runtime: Path) -> None:
        self.directory = tmp_path
        self.source = tmp_path / "source"
        for name, content in FILES.items():
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            (self.source / name).write_bytes(content)
        maker = Session(load_config({}, store=str(tmp_path / "maker"), runtime_dir=str(tmp_path / "maker-run")))
        importing.import_directory(maker, str(self.source), "app:v1")
        self.layout = tmp_path / "layout"
        transfer.push(maker, "app:v1", f"oci:{self.layout}:v1", access=maker.access())
        self.session = Session(load_config({}, store=str(store), runtime_dir=str(runtime)))
        transfer.pull(self.session, f"oci:{self.layout}:v1", "app:v1", access=self.session.access(), lazy=True)
        self.store: Store = self.session.store
        self.commit = self.store.tags.get("app", "v1")
        self.root = self.store.root

    def file(self, name: str) -> Path:
        return self.root / f"commits/{self.commit}.{name}"

    @property
    def catalog(self) -> Path:
        [manifest] = self.store.sources.manifests()
        return self.store.sources.catalog_path(manifest)

    def realize(self, content: bytes) -> Path:
        """The object of ``content``, real."""
        with self.store.begin("a test") as tx:
            tx.add_bytes(content)
            tx.publish_objects()
        return self.store.objects.path(verity_digest(content))

    def counts(self) -> ResidenceCounts:
        return self.store.residence.counts(self.commit)


@pytest.fixture
def scene(tmp_path: Path, store_dir: Path, runtime_dir: Path) -> Scene:
    return Scene(tmp_path, store_dir, runtime_dir)


UNREAL = ResidenceCounts(0, 0, 3, 24000)


def test_what_is_unreal_is_told_and_no_damage(scene: Scene, cli: Command) -> None:
    scene.realize(FILES["same"])
    done = maintenance.fsck(scene.session)
    assert done.checked.findings == []
    [partial] = done.checked.partial
    assert (partial.commit, partial.users) == (scene.commit, ["app:v1"])
    assert partial.counts == scene.counts() == ResidenceCounts(1, 9000, 2, 15000)
    code, out, err = cli("fsck")
    assert (code, out) == (
        0,
        f"app:v1: 1 of 3 objects real, 2 unreal (14.6 KiB) at oci:{scene.layout} (seen just now)\n",
    )
    assert "checked 1 commits and 1 objects" in err
    document = cli.json("fsck")
    assert document["ok"]
    [told] = document["partial"]
    assert (told["commit"], told["refs"], told["real"], told["unreal"], told["lost"]) == (
        scene.commit,
        ["app:v1"],
        1,
        2,
        0,
    )
    assert told["unreal_bytes"] == 15000
    [source] = told["sources"]
    assert source["reference"].startswith(f"oci:{scene.layout}@sha256:")
    assert source["gone"] is None


def test_sources_are_asked(scene: Scene, cli: Command) -> None:
    with scene.store.begin("a test") as tx:
        [source] = scene.store.sources.of(scene.commit)
        scene.store.sources.seen(tx, scene.commit, source.reference, "2026-01-01T00:00:00Z")
    code, out, _ = cli("fsck", "--remote")
    assert (code, "(seen just now)" in out) == (0, True)
    digest = scene.store.sources.catalog(source.manifest).packs[0].pack.sha256.hex()
    pack = scene.layout / "blobs/sha256" / digest
    pack.rename(scene.directory / "aside")
    code, out, _ = cli("fsck", "--remote")
    assert code == 5
    assert out.count("it is missing, and ") == 3
    assert out.count("has it no more") == 3
    assert out.splitlines()[-1] == "app:v1: 0 of 3 objects real, 3 lost"
    assert cli("fsck").code == 5, "it was written down"
    (scene.directory / "aside").rename(pack)
    assert cli("fsck", "--remote").code == 0
    assert cli("fsck").code == 0


def test_a_place_that_cannot_be_asked_loses_nothing(scene: Scene, cli: Command) -> None:
    before = scene.store.sources.of(scene.commit)
    scene.layout.rename(scene.directory / "elsewhere")
    code, _, err = cli("fsck", "--remote")
    assert (code, "could not be asked" in err) == (0, True)
    code, out, _ = cli("--format", "json", "fsck", "--remote", "--repair")
    assert (code, len(json.loads(out)["away"])) == (0, 1)
    assert scene.store.sources.of(scene.commit) == before


def in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


SOURCES: Callable[[Scene], Path] = lambda scene: scene.file("sources")  # noqa: E731  # as the others
CATALOG: Callable[[Scene], Path] = lambda scene: scene.catalog  # noqa: E731  # as the others
MARKER: Callable[[Scene], Path] = lambda scene: scene.file("partial")  # noqa: E731  # as the others

CASES: dict[str, tuple[Callable[[Scene], Path], Callable[[Path], None], set[str]]] = {
    "sources-flip": (SOURCES, flip, {"sources"}),
    "sources-cut": (SOURCES, lambda path: os.truncate(path, path.stat().st_size - 9), {"sources"}),
    "sources-unchecked": (SOURCES, without_check, {"sources"}),
    "sources-empty": (SOURCES, lambda path: os.truncate(path, 0), {"sources"}),
    "sources-gone": (SOURCES, Path.unlink, {"sources"}),
    "sources-link": (SOURCES, plant, {"sources", "symlink"}),
    "sources-directory": (SOURCES, in_its_place, {"sources", "stray"}),
    "catalog-flip": (CATALOG, flip, {"catalog"}),
    "catalog-cut": (CATALOG, cut, {"catalog", "sources"}),
    "catalog-gone": (CATALOG, Path.unlink, {"catalog", "sources"}),
    "catalog-link": (CATALOG, plant, {"catalog", "sources", "symlink"}),
    "catalog-directory": (CATALOG, in_its_place, {"catalog", "sources", "stray"}),
    "catalogs-gone": (lambda scene: scene.catalog.parent, shutil.rmtree, {"catalog", "sources"}),
    "catalogs-link": (lambda scene: scene.root / "sources", plant, {"catalog", "sources", "symlink"}),
    "marker-gone": (MARKER, Path.unlink, {"sources"}),
    "marker-link": (MARKER, plant, {"symlink"}),
    "marker-directory": (MARKER, in_its_place, {"stray"}),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_named_and_mended(scene: Scene, name: str) -> None:
    where, damage, kinds = CASES[name]
    damage(where(scene))
    before = snapshot(scene.root)
    found = maintenance.fsck(scene.session)
    assert snapshot(scene.root) == before, "a check changed something"
    told = {finding.kind for finding in found.damage}
    assert kinds <= told <= kinds | {"sources"}, found.damage
    assert all("app:v1" in finding.hurts for finding in found.damage if finding.kind in ("sources", "catalog"))
    done = maintenance.fsck_repair(scene.session)
    assert done.damage == [], done.damage
    assert maintenance.fsck(scene.session).checked.findings == []
    assert scene.store.sources.is_partial(scene.commit)
    assert scene.counts() == UNREAL
    check(scene.store)
    scene.store.sources.catalog(scene.store.sources.of(scene.commit)[0].manifest).check()


def test_a_catalog_that_nobody_can_make_again_is_let_go_where_all_is_here(scene: Scene) -> None:
    flip(scene.catalog)
    shutil.rmtree(scene.layout)
    done = maintenance.fsck_repair(scene.session)
    assert {finding.kind for finding in done.damage} == {"catalog", "sources"}
    assert any("it cannot be fetched anew" in finding.problem for finding in done.damage)
    for content in FILES.values():
        scene.realize(content)
    done = maintenance.fsck_repair(scene.session)
    assert done.damage == []
    assert scene.store.sources.of(scene.commit) == []


def test_a_damaged_object_is_fetched_from_its_source_again(scene: Scene, cli: Command) -> None:
    """Also where the commit was here whole, and where another one needs it that knows no source."""
    for content in FILES.values():
        scene.realize(content)
    importing.import_directory(scene.session, str(scene.source), "app:v1")
    assert not scene.store.sources.is_partial(scene.commit), "an import brought all of it here"
    (scene.source / "new").write_bytes(b"n" * 100)
    other = importing.import_directory(scene.session, str(scene.source), "app:v2").commit.metadata_hash
    flip(scene.store.objects.path(verity_digest(FILES["same"])))
    assert cli("fsck").code == 5
    code, out, _ = cli("fsck", "--repair")
    assert (code, "put into quarantine; it is fetched from oci:" in out) == (0, True)
    for commit in (scene.commit, other):
        assert scene.store.sources.is_partial(commit)
        assert scene.store.residence.condition(commit, verity_digest(FILES["same"]), 9000) is Condition.UNREAL
    assert [source.kind for source in scene.store.sources.of(other)] == ["inherited"]
    assert cli("fsck").code == 0
    code, out, _ = cli("fsck", "--repair", "--from", f"oci:{scene.layout}:v1")
    assert code == 0
    check(scene.store)


def test_an_object_that_only_the_sources_of_another_commit_have(scene: Scene) -> None:
    (scene.source / "new").write_bytes(b"n" * 100)
    other = importing.import_directory(scene.session, str(scene.source), "app:v2").commit.metadata_hash
    scene.store.objects.path(verity_digest(FILES["same"])).unlink()
    found = maintenance.fsck(scene.session).damage
    assert [(f.kind, f.commit) for f in found] == [("sources", other)]
    done = maintenance.fsck_repair(scene.session)
    assert done.damage == []
    assert scene.store.residence.counts(other).unreal == 1
    scene.store.objects.path(verity_digest(b"n" * 100)).unlink()
    assert [f.kind for f in maintenance.fsck(scene.session).damage] == ["object"], "that one nobody has"


def test_what_is_unreal_is_not_verified_and_no_damage(scene: Scene, cli: Command) -> None:
    here = scene.realize(FILES["same"])
    code, out, err = cli("verify", "app:v1")
    assert (code, out) == (0, f"{scene.commit} is whole as far as it is here: 1 objects, 8.8 KiB\n")
    assert "2 objects (14.6 KiB) are unreal; realize them to verify them" in err
    found = cli.json("verify", "app:v1", "/dir/own")
    assert (found["objects"], found["unreal"], found["unreal_bytes"], found["ok"]) == (0, 1, 8000, True)
    flip(here)
    code, _, err = cli("verify", "app:v1")
    assert (code, "fsck --repair" in err) == (5, True)
    cut(here)
    assert cli("verify", "app:v1").code == 5
    here.unlink()
    assert cli("verify", "app:v1").code == 0
    assert cli.json("verify", "app:v1", "/dir/own", "--realize")["objects"] == 1
    assert scene.counts() == ResidenceCounts(1, 8000, 2, 16000)
    code, out, _ = cli("verify", "app:v1", "--realize")
    assert (code, out) == (0, f"{scene.commit} is whole: 3 objects, 23.4 KiB\n")
    here.unlink()
    scene.file("sources").unlink()
    code, _, err = cli("verify", "app:v1")
    assert (code, "is missing from the store" in err) == (5, True)
