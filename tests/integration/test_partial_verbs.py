"""What verbs do with commits that are not here whole: none of them refuses what needs no content, none makes a commit
with an object that nobody has, and what is brought here again is real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stratum.api import importing, transfer
from stratum.api.session import Session
from stratum.config import load_config
from stratum.store.residence import ResidenceCounts
from tests.support.command import Command
from tests.support.stores import check

pytestmark = pytest.mark.root


class Scene:
    """A store with ``app:v1``, its successor ``app:v2`` and a patch ``fix:v1``, pulled lazily from an OCI layout."""

    def __init__(self, tmp_path: Path, store: Path, runtime: Path, cli: Command) -> None:
        self.cli = cli
        self.layout = tmp_path / "layout"
        self.source = tmp_path / "source"
        self.source.mkdir()
        self.maker = Session(load_config({}, store=str(tmp_path / "maker"), runtime_dir=str(tmp_path / "maker-run")))
        for name, version in (("same", "v1"), ("more", "v2")):
            (self.source / name).write_bytes(name.encode() * 3000)
            importing.import_directory(self.maker, str(self.source), f"app:{version}")
            self._send(f"app:{version}", version)
        fix = tmp_path / "fix"
        fix.mkdir()
        (fix / "fixed").write_bytes(b"f" * 5000)
        importing.import_directory(self.maker, str(fix), "fix:v1")
        self._send("fix:v1", "fix")
        self.session = Session(load_config({}, store=str(store), runtime_dir=str(runtime)))
        for tag, name in (("v1", "app:v1"), ("v2", "app:v2"), ("fix", "fix:v1")):
            transfer.pull(self.session, f"oci:{self.layout}:{tag}", name, access=self.session.access(), lazy=True)
        self.store = self.session.store

    def _send(self, ref: str, tag: str) -> None:
        transfer.push(self.maker, ref, f"oci:{self.layout}:{tag}", access=self.maker.access())

    def work(self, content: bytes = b"w" * 4000) -> None:
        """Work in ``app+dev``."""
        (self.store.root / "refs/app/worktrees/dev/upperdir/work").write_bytes(content)

    def counts(self, ref: str) -> ResidenceCounts:
        return self.store.residence.counts(self.store.tags.get(*ref.split(":")))


@pytest.fixture
def scene(tmp_path: Path, store_dir: Path, runtime_dir: Path, cli: Command) -> Scene:
    return Scene(tmp_path, store_dir, runtime_dir, cli)


def test_what_needs_no_content_goes_on_without_the_place(scene: Scene, tmp_path: Path) -> None:
    shutil.rmtree(scene.layout)
    cli = scene.cli
    assert cli("worktree", "add", "app+dev", "app:v1").code == 0
    scene.work()
    assert cli("commit", "app+dev", "work").code == 0
    assert scene.counts("app:work") == ResidenceCounts(1, 4000, 1, 12000)
    patchset = tmp_path / "set.toml"
    patchset.write_text('[patchset]\nbase = "app:v2"\npatches = ["fix:v1", "app:work"]\n')
    assert cli("patchset", "build", str(patchset), "app:set").code == 0
    assert scene.counts("app:set") == ResidenceCounts(1, 4000, 3, 29000)
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "patched").write_bytes(b"p" * 6000)
    assert cli("import", "--patch", "--bare", "app:v2", "app:patched", str(patch)).code == 0
    assert scene.counts("app:patched") == ResidenceCounts(1, 6000, 2, 24000)
    scene.work(b"again" * 1000)
    assert cli("rebase", "app+dev", "app:v2").code == 0
    assert cli("commit", "app+dev", "rebased").code == 0
    assert scene.counts("app:rebased") == ResidenceCounts(1, 5000, 2, 24000)
    scene.work(b"once more" * 1000)
    assert cli("reset", "app+dev", "app:v1").code == 0
    for ref in ("app:work", "app:set", "app:patched", "app:rebased"):
        assert scene.store.sources.is_partial(scene.store.tags.get(*ref.split(":")))
        assert scene.counts(ref).lost == 0
    check(scene.store)
    assert cli("gc", "--reflog-age", "0", "--history-age", "0").code == 0
    code, out, _ = cli("fsck")
    assert (code, "damaged" in out, out.count("unreal") >= 6) == (0, False, True)


def test_a_changed_mode_of_an_unreal_file_is_committed(scene: Scene, tmp_path: Path) -> None:
    """overlayfs copies the metadata only, of a file that nobody has here."""
    shutil.rmtree(scene.layout)
    place = tmp_path / "mnt"
    place.mkdir()
    assert scene.cli("worktree", "add", "app+dev", "app:v1").code == 0
    assert scene.cli("mount", "app+dev", str(place)).code == 0
    (place / "same").chmod(0o600)
    (place / "same").rename(place / "other")
    assert scene.cli("commit", "app+dev", "changed").code == 0
    assert scene.cli("unmount", str(place)).code == 0
    assert scene.counts("app:changed") == ResidenceCounts(0, 0, 1, 12000)
    tree = scene.store.commits.tree(scene.store.tags.get("app", "changed"))
    assert {name: inode.mode for name, inode in tree.children.items()} == {b"other": 0o100600}
    check(scene.store)


def test_an_import_of_the_same_content_makes_it_real(scene: Scene) -> None:
    commit = scene.store.tags.get("app", "v2")
    assert scene.cli("import", "--bare", str(scene.source), "mine").code == 0
    assert scene.store.tags.get("mine", "latest") == commit
    assert scene.counts("app:v2") == ResidenceCounts(2, 24000)
    assert not scene.store.sources.is_partial(commit)
    assert scene.counts("app:v1") == ResidenceCounts(1, 12000), "its only object was brought with it"
    # What was let go since the last import of the directory is brought again, though nothing changed there.
    with scene.store.begin("a test") as tx:
        scene.store.sources.set_partial(tx, commit)
    for digest, _ in list(scene.store.objects.list()):
        scene.store.objects.path(digest).unlink()
    assert scene.counts("app:v2") == ResidenceCounts(0, 0, 2, 24000)
    assert scene.cli("import", "--bare", str(scene.source), "mine").code == 0
    assert scene.counts("app:v2") == ResidenceCounts(2, 24000)
    assert not scene.store.sources.is_partial(commit)
    check(scene.store)


def test_what_needs_content_fetches_it(scene: Scene, tmp_path: Path) -> None:
    assert scene.cli("worktree", "add", "app+dev", "app:v1").code == 0
    assert scene.cli("restore", "app:v2", "/more", "--to", "app+dev").code == 0
    assert (scene.store.root / "refs/app/worktrees/dev/upperdir/more").read_bytes() == b"more" * 3000
    assert scene.counts("app:v2") == ResidenceCounts(1, 12000, 1, 12000)
    assert scene.cli("commit", "app+dev", "with-more").code == 0
    assert scene.counts("app:with-more") == ResidenceCounts(1, 12000, 1, 12000)
    check(scene.store)


def test_a_pull_of_all_makes_it_real(scene: Scene) -> None:
    code, out, _ = scene.cli("--format", "json", "pull", f"oci:{scene.layout}:v2", "app:v2")
    assert code == 0, json.loads(out)
    assert scene.counts("app:v2") == ResidenceCounts(2, 24000)
    assert not scene.store.sources.is_partial(scene.store.tags.get("app", "v2"))
