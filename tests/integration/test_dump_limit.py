"""One limit for dumps: what can be committed can be pushed, exported, pulled, imported and restored, and no verb makes
a commit that could not."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stores import check
from tests.support.verbs import Scene, VerbError

pytestmark = pytest.mark.root


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A stratum ``big`` whose dump is the largest in the store by far, and work on it in the worktree ``big+dev``."""
    scene = Scene(tmp_path)
    for number in range(300):
        (scene.source / f"{number:03} a name that makes the line longer").write_bytes(b"%d" % number * 50)
    scene.verb("import", "--bare", scene.source, "big:v1")
    scene.verb("worktree", "add", "big+dev", "big:v1")
    return scene


def size(scene: Scene, ref: str = "big:v1") -> int:
    """Bytes of the dump of a commit."""
    return scene.store.commits.dump(scene.store.tags.get(*ref.split(":"))).size


def test_the_largest_commit_goes_everywhere(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stratum.tree.blocks.DUMP_MAX", size(scene))
    place, archive, other = f"oci:{tmp_path}/place:v1", tmp_path / "big.stratum.tar", tmp_path / "second"
    scene.verb("push", "big:v1", place)
    scene.verb("push", "--as", "image", "big:v1", f"oci:{tmp_path}/image:v1")
    scene.verb("export", "big:v1", archive)
    scene.verb("pull", place, "pulled:v1", store=other)
    scene.verb("import", archive, "archived:v1", store=other)
    scene.verb("import", f"oci:{tmp_path}/image:v1", "image:v1", store=other)
    scene.verb("import", "--bare", scene.source, "again:v1", store=other)
    scene.verb("commit", "big+dev", "v2")
    scene.verb("restore", "big:v1", "/", "--to", scene.mountpoint)
    scene.verb("fsck")
    scene.verb("fsck", store=other)
    elsewhere = type(scene.store).open(other)
    names = ("pulled", "archived", "image", "again")
    assert {elsewhere.tags.get(name, "v1") for name in names} == {scene.store.tags.get("big", "v1")}
    check(elsewhere)


def worktree(scene: Scene) -> Path:
    """Where the worktree's work is."""
    return scene.store_dir / "refs/big/worktrees/dev/upperdir"


def patch(scene: Scene) -> Path:
    path = scene.directory / "patch"
    path.mkdir()
    (path / "one more name").write_bytes(b"new")
    return path


def archived(scene: Scene) -> Path:
    path = scene.directory / "tree.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(scene.source, ".")
        tar.add(scene.patchset, "one more name")
    return path


def patchset(scene: Scene) -> Path:
    scene.verb("import", "--bare", patch(scene), "patch")
    scene.patchset.write_text('[patchset]\nbase = "big:v1"\npatches = ["patch"]\n')
    return scene.patchset


VERBS: dict[str, Callable[[Scene], list[object]]] = {
    "import": lambda scene: ["import", "--bare", scene.source, "again:v1"],
    "import of a tar": lambda scene: ["import", archived(scene), "again:v1"],
    "import of a patch": lambda scene: ["import", "--patch", "big:v1", "again:v1", patch(scene)],
    "commit": lambda scene: ["commit", "big+dev", "v2"],
    "reset": lambda scene: ["reset", "big+dev", "big:v1"],
    "rebase": lambda scene: ["rebase", "big+dev", "app:v1"],
    "remove": lambda scene: ["worktree", "remove", "big+dev"],
    "patchset": lambda scene: ["patchset", "build", patchset(scene), "again:v1"],
    "init": lambda scene: ["init", "--migrate", "fresh", scene.source],
}


@pytest.mark.parametrize("name", VERBS)
def test_no_verb_commits_what_nobody_could_pull(scene: Scene, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (scene.source / "one more name").write_bytes(b"new")
    (worktree(scene) / "one more name").write_bytes(b"new")
    monkeypatch.setattr("stratum.tree.blocks.DUMP_MAX", size(scene))
    verb = VERBS[name](scene)
    before, commits = scene.refs(), scene.store.commits.list()
    with pytest.raises(VerbError, match=r"exit code 6: .*too large for a commit: its dump has \d+ bytes, and \d+ is"):
        scene.verb(*verb)
    assert (scene.refs(), scene.store.commits.list()) == (before, commits)
    assert (worktree(scene) / "one more name").exists()
    check(scene.store)


def test_one_that_is_too_large_is_not_pulled(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, archive, other = f"oci:{tmp_path}/place:v1", tmp_path / "big.stratum.tar", tmp_path / "second"
    scene.verb("push", "big:v1", place)
    scene.verb("export", "big:v1", archive)
    scene.verb("import", "--bare", scene.mountpoint, "small", store=other)
    limit = size(scene) - 1
    monkeypatch.setattr("stratum.tree.blocks.DUMP_MAX", limit)
    for verb in (["pull", place, "again:v1"], ["import", archive, "again:v1"]):
        with pytest.raises(VerbError, match=f"exit code 5: .*larger than {limit} bytes"):
            scene.verb(*verb, store=other)
    store = type(scene.store).open(other)
    assert len(store.commits.list()) == 1
    check(store)
