"""Every kind of damage to a store: fsck names it with the refs it hurts, repair mends it or says that it cannot."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.api import importing, maintenance, tags, transfer, worktrees
from stratum.api.session import Session
from stratum.config import load_config
from stratum.store import Store
from stratum.store.holders import Container, Lease, Promise
from tests.support import services
from tests.support.command import Command
from tests.support.stores import check, snapshot

pytestmark = pytest.mark.root


class Scene:
    """A store with two commits of ``app``, a worktree with work in it, and an OCI layout that has both commits, which
    the store does not know. What is different where it does is in ``test_fsck_sources``."""

    def __init__(self, tmp_path: Path) -> None:
        self.session = Session(load_config({}, store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run")))
        source = tmp_path / "source"
        (source / "dir").mkdir(parents=True)
        (source / "same").write_bytes(b"s" * 9000)
        (source / "dir/own").write_bytes(b"1" * 9000)
        self.old = importing.import_directory(self.session, str(source), "app:v1").commit.metadata_hash
        (source / "dir/own").write_bytes(b"2" * 7000)
        self.new = importing.import_directory(self.session, str(source), "app:v2").commit.metadata_hash
        worktrees.add(self.session, "app+dev", "app:v2")
        self.layout = f"oci:{tmp_path}/layout"
        transfer.push(self.session, "app:v1", f"{self.layout}:v1", access=self.session.access())
        transfer.push(self.session, "app:v2", f"{self.layout}:v2", access=self.session.access())
        self.store: Store = self.session.store
        self.root = self.store.root
        for commit in (self.old, self.new):
            self.commit(commit, ".sources").unlink()
        self.upper = self.root / "refs/app/worktrees/dev/upperdir"
        (self.upper / "work").write_text("only here")

    def commit(self, commit: str, beside: str = "") -> Path:
        return self.root / "commits" / (commit + beside)

    def object(self, content: bytes) -> Path:
        from stratum.composefs.verity import verity_digest

        return self.store.objects.path(verity_digest(content))


@pytest.fixture
def scene(tmp_path: Path, runtime_dir: Path) -> Scene:
    return Scene(tmp_path)


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode & 0o7777)


def flip_last(path: Path) -> None:
    """Turn one bit of how the tree is stored."""
    data = path.read_bytes()
    path.write_bytes(data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])


def flip_first(path: Path) -> None:
    """Turn one bit of the metadata."""
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])


def a_nul(path: Path) -> None:
    """A space of the metadata becomes what metadata end with."""
    path.write_bytes(path.read_bytes().replace(b" ", b"\0", 1))


def without_separator(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n\0", b"\n\1", 1))


def other_metadata(path: Path) -> None:
    path.write_bytes(b"[commit]\n\0" + path.read_bytes().partition(b"\n\0")[2])


def cut(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])


def leased(scene: Scene) -> Path:
    scene.store.worktrees.set_lease(
        "app", "dev", Lease(Container("c" * 64), "2026-01-01T00:00:00Z", Promise(tag="tag"))
    )
    return scene.root / "refs/app/worktrees/dev/lease.toml"


def recorded(scene: Scene) -> Path:
    services.put_records(scene.store)
    return scene.root / "csi/volumes/pvc.json"


def without_json_check(path: Path) -> None:
    """As a version wrote it that put none there."""
    table = json.loads(path.read_bytes())
    del table["check"]
    path.write_text(json.dumps(table, indent=1))


def without_check(path: Path) -> None:
    """Cut short where a table ends."""
    path.write_bytes(path.read_bytes().partition(b"\n[check]")[0])


def without_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def plant(path: Path) -> None:
    """A symbolic link to somebody else's file in place of ``path``."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to("/etc/shadow")


def write(text: str) -> Callable[[Path], None]:
    return lambda path: (path.unlink(missing_ok=True), path.write_text(text), None)[2]


OBJECT = b"2" * 7000
SHARED = b"s" * 9000
META = "refs/app/worktrees/dev/meta.toml"

# What is damaged, how; the kind and the refs that must be told; whether a repair with a source mends it.
CASES: dict[str, tuple[Callable[[Scene], Path], Callable[[Path], None], str, set[str], bool]] = {
    "object-flip": (lambda s: s.object(OBJECT), flip, "object", {"app:v2", "app+dev"}, True),
    "object-short": (lambda s: s.object(OBJECT), cut, "object", {"app:v2", "app+dev"}, True),
    "object-empty": (lambda s: s.object(SHARED), write(""), "object", {"app:v1", "app:v2", "app+dev"}, True),
    "object-gone": (lambda s: s.object(SHARED), Path.unlink, "object", {"app:v1", "app:v2", "app+dev"}, True),
    "object-link": (lambda s: s.object(OBJECT), plant, "symlink", {"app:v2", "app+dev"}, True),
    "shard-link": (lambda s: s.object(OBJECT).parent, plant, "object", {"app:v2", "app+dev"}, True),
    "image-flip": (lambda s: s.store.images.ensure(s.old), flip, "image", {"app:v1"}, True),
    "image-cut": (lambda s: s.store.images.ensure(s.new), cut, "image", {"app:v2", "app+dev"}, True),
    "image-link": (lambda s: s.store.images.ensure(s.old), plant, "symlink", set(), True),
    "dump-flip": (lambda s: s.commit(s.old), flip_last, "dump", {"app:v1"}, True),
    "dump-cut": (lambda s: s.commit(s.new), cut, "dump", {"app:v2", "app+dev"}, True),
    "metadata-flip": (lambda s: s.commit(s.old), flip_first, "metadata", {"app:v1"}, True),
    "metadata-nul": (lambda s: s.commit(s.old), a_nul, "metadata", {"app:v1"}, True),
    "metadata-text": (lambda s: s.commit(s.old), other_metadata, "metadata", {"app:v1"}, True),
    "separator": (lambda s: s.commit(s.old), without_separator, "dump", {"app:v1"}, True),
    "commit-empty": (lambda s: s.commit(s.old), write(""), "dump", {"app:v1"}, True),
    "commit-gone": (lambda s: s.commit(s.old), Path.unlink, "commit", {"app:v1"}, True),
    "commit-link": (lambda s: s.commit(s.old), plant, "commit", {"app:v1"}, True),
    "tag-text": (lambda s: s.root / "refs/app/tags/v1", write("v1"), "tag", {"app:v1"}, True),
    "tag-astray": (lambda s: s.root / "refs/app/tags/v1", plant, "tag", {"app:v1"}, True),
    "tags-gone": (lambda s: s.root / "refs/app/tags", shutil.rmtree, "directory", set(), True),
    "meta-text": (lambda s: s.root / META, write("[worktree]\nname='x'\n"), "worktree", {"app+dev"}, False),
    "meta-gone": (lambda s: s.root / META, Path.unlink, "worktree", {"app+dev"}, False),
    "lease-text": (
        lambda s: s.root / "refs/app/worktrees/dev/lease.toml",
        write("lease"),
        "lease",
        {"app+dev"},
        False,
    ),
    "lease-cut": (leased, without_check, "lease", {"app+dev"}, True),
    "meta-unchecked": (lambda s: s.root / META, without_check, "worktree", {"app+dev"}, True),
    "record-text": (recorded, write("{}x"), "record", {"Kubernetes volume pvc"}, False),
    "record-bit": (recorded, flip, "record", {"Kubernetes volume pvc"}, False),
    "record-unchecked": (recorded, without_json_check, "record", {"Kubernetes volume pvc"}, True),
    "record-fifo": (recorded, lambda p: (p.unlink(), os.mkfifo(p), None)[2], "stray", set(), False),
    "record-link": (recorded, lambda p: (p.unlink(), p.symlink_to("/etc/passwd"))[1], "symlink", set(), False),
    "records-stray": (
        lambda s: recorded(s).parent.parent / "evil",
        lambda p: p.symlink_to("/etc"),
        "symlink",
        set(),
        True,
    ),
    "reflog-line": (lambda s: s.root / "refs/app/log.jsonl", write('{"when"\n'), "reflog", {"app"}, True),
    "reflog-empty": (lambda s: s.root / "refs/app/log.jsonl", write(""), "reflog", {"app"}, True),
    "reflog-gone": (lambda s: s.root / "refs/app/log.jsonl", Path.unlink, "reflog", {"app"}, True),
    "reflog-shorter": (lambda s: s.root / "refs/app/log.jsonl", without_last_line, "reflog", {"app"}, True),
    "stratum-link": (lambda s: s.root / "refs/other", Path.mkdir, "directory", set(), True),
    "object-mode": (lambda s: s.object(OBJECT), lambda p: p.chmod(0o666), "permissions", set(), True),
    "object-owner": (lambda s: s.object(OBJECT), lambda p: os.chown(p, 1234, 0), "permissions", set(), True),
    "commits-mode": (lambda s: s.root / "commits", lambda p: p.chmod(0o777), "permissions", set(), True),
    "planted": (lambda s: s.root / "refs/app/evil", lambda p: p.symlink_to("/etc"), "symlink", set(), True),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_named_and_mended(scene: Scene, name: str) -> None:
    where, damage, kind, hurts, mended = CASES[name]
    path = where(scene)
    work = snapshot(scene.upper)
    damage(path)
    before = snapshot(scene.root)
    found = maintenance.fsck(scene.session)
    assert snapshot(scene.root) == before, "a check changed something"
    relative = str(path.relative_to(scene.root))
    told = [f for f in found.damage if f.kind == kind]
    assert any(f.path == relative or relative in f.path or f.path in relative for f in told), found.damage
    assert set().union(*(f.hurts for f in told)) == hurts
    done = maintenance.fsck_repair(scene.session, source=scene.layout)
    assert bool(done.damage) != mended, done.damage
    assert not done.problems
    assert maintenance.fsck(scene.session).damage == []
    check(scene.store)
    if mended:
        assert scene.store.tags.list("app") == {"v1": scene.old, "v2": scene.new}
        assert snapshot(scene.upper).keys() == work.keys()
    kept = list(scene.root.rglob("work"))
    assert [file.read_text() for file in kept] == ["only here"]


def test_without_a_source_what_is_lost_is_kept_aside_and_said(scene: Scene) -> None:
    flip(scene.object(OBJECT))
    damaged = scene.object(OBJECT).read_bytes()
    flip_last(scene.commit(scene.old))
    done = maintenance.fsck_repair(scene.session)
    assert {finding.kind for finding in done.damage} == {"object", "dump"}
    assert {finding.kind for finding in maintenance.fsck(scene.session).damage} == {"object", "dump"}
    assert done.quarantine is not None
    kept = done.quarantine / scene.object(OBJECT).relative_to(scene.root)
    assert kept.read_bytes() == damaged
    assert (done.quarantine / "commits" / scene.old).exists()
    assert scene.store.commits.meta(scene.old).metadata_hash == scene.old, "what is said of it stays"
    # An import of the same content heals one, a pull the other.
    source = scene.root.parent / "source"
    importing.import_directory(scene.session, str(source), "app:v2")
    assert {finding.kind for finding in maintenance.fsck(scene.session).damage} == {"dump"}
    transfer.pull(scene.session, f"{scene.layout}:v1", "app:v1", access=scene.session.access())
    assert maintenance.fsck(scene.session).damage == []


def test_quick_does_not_read_contents(scene: Scene) -> None:
    flip(scene.object(OBJECT))
    assert maintenance.fsck(scene.session, read_data=False).damage == []
    cut(scene.object(OBJECT))
    scene.object(OBJECT).chmod(0o444)
    assert [f.kind for f in maintenance.fsck(scene.session, read_data=False).damage] == ["object"]


def test_a_torn_last_line_of_the_reflog_is_no_damage(scene: Scene) -> None:
    with (scene.root / "refs/app/log.jsonl").open("ab") as log:
        log.write(b'{"when": "20')
    found = maintenance.fsck(scene.session)
    assert found.damage == []
    assert [f.harmless for f in found.checked.findings] == [True]
    tags.tag(scene.session, "app:v1", "v3")
    assert [f.kind for f in maintenance.fsck(scene.session).damage] == ["reflog"]
    maintenance.fsck_repair(scene.session)
    assert maintenance.fsck(scene.session).checked.findings == []
    assert len(scene.store.reflog.read("app")) == 4


def test_a_tag_that_the_history_knows_and_nobody_removed(scene: Scene) -> None:
    (scene.root / "refs/app/tags/v1").unlink()
    [note] = maintenance.fsck(scene.session).checked.findings
    assert (note.kind, note.harmless, scene.old in note.problem) == ("tag", True, True)
    tags.remove(scene.session, tags.plan_removal(scene.session, "app:v2"))
    assert len(maintenance.fsck(scene.session).checked.findings) == 1


def test_the_command(scene: Scene, cli: Command) -> None:
    code, out, err = cli("fsck")
    assert (code, out) == (0, "")
    assert "checked 2 commits and 3 objects" in err
    flip(scene.object(OBJECT))
    code, out, err = cli("fsck")
    assert code == 5
    assert "damaged object objects/" in out
    assert "in app+dev /dir/own" in out or "in app:v2 /dir/own" in out
    *_, error, hint = err.splitlines()
    assert error == "error: 1 thing is damaged or missing"
    assert hint.startswith("hint: 'stratum fsck --repair' mends what can be")
    code, out, err = cli("--format", "json", "fsck")
    assert (code, json.loads(err)["id"]) == (5, "damaged")
    document = json.loads(out)
    assert document["ok"] is False
    assert document["findings"][0]["hurts"] == ["app:v2", "app+dev"]
    assert cli("fsck", "--from", scene.layout).code == 2
    code, out, err = cli("fsck", "--repair", "--from", scene.layout)
    assert (code, "restored" in out, "quarantine" in err) == (0, True, True)
    assert cli.json("fsck")["ok"] is True


def test_the_mount_state_is_looked_at(scene: Scene, cli: Command, runtime_dir: Path) -> None:
    (runtime_dir / "state").write_text("{}")
    code, out, _ = cli("fsck", "--quick")
    assert (code, out.startswith("damaged state ")) == (5, True)
