"""A stratum with everything in it, verbs run on it in this process, and what must hold of it whatever happened."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stratum.api import maintenance
from stratum.api.history import Opened
from stratum.api.session import Session
from stratum.cli.start import run
from stratum.config import load_config
from stratum.errors import StratumError
from stratum.store import Store
from stratum.store.findings import Finding
from stratum.sys import mountinfo
from stratum.tree.digest import metadata_hash
from stratum.tree.dump import write_dump
from tests.support.leftovers import unmount_below
from tests.support.stores import abandoned, leftovers


class VerbError(StratumError):
    """A verb did not end with exit code 0."""


class Scene:
    """``app`` with the tags v1 and v2 and the worktree ``dev`` on v1, which holds changes of every kind, and is to be
    mounted at ``mountpoint`` at every start of the machine.

    ``fresh`` puts it back into that state, ``dev`` mounted at ``mountpoint`` or not. Next to it: ``source``, a
    directory to import, ``patchset``, a patchset file, and ``layout``, an OCI layout with a commit that the store does
    not have.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store_dir = directory / "store"
        self.runtime_dir = directory / "run"
        self.mountpoint = directory / "mnt"
        self.source = directory / "source"
        self.patchset = directory / "patchset.toml"
        self.layout = f"oci:{directory}/layout"
        self._template = directory / "template"
        self.mountpoint.mkdir()
        self._make_template()
        self.fresh()
        self.old_commits = set(self.store.commits.list())
        self.work = self.shown()
        self.as_asked: set[str] = set()
        """What the worktree may show as well, because the verb is asked to change it."""
        self.originals_mtime = (directory / "other").stat().st_mtime_ns
        self.refs_when_done: dict[str, tuple[str, ...]] = {}

    def _make_template(self) -> None:
        source = self.source
        (source / "dir/deep").mkdir(parents=True)
        for name in ("same", "dir/changed", "dir/deleted", "dir/deep/moved"):
            (source / name).write_bytes(name.encode() * 700)
        self.verb("import", "--bare", source, "app:v1")
        (source / "dir/changed").write_bytes(b"v2" * 900)
        (source / "new in v2").write_bytes(b"new" * 900)
        self.verb("import", "--bare", source, "app:v2")
        self.verb("worktree", "add", "app+dev", "app:v1")
        self.verb("mount", "app+dev", self.mountpoint)
        (self.mountpoint / "own").write_bytes(b"own work" * 900)
        (self.mountpoint / "dir/changed").write_bytes(b"work" * 900)
        (self.mountpoint / "dir/deleted").unlink()
        (self.mountpoint / "dir/deep").rename(self.mountpoint / "renamed")
        os.chmod(self.mountpoint / "same", 0o600)
        self.verb("mount", "--persist", "app+dev", self.mountpoint)
        self.verb("unmount", self.mountpoint)
        shutil.copytree(source, self.directory / "other")
        (self.directory / "other/more").write_bytes(b"more" * 900)
        elsewhere = self.directory / "elsewhere"
        self.verb("import", "--bare", self.directory / "other", "lib", store=elsewhere)
        self.verb("push", "lib:latest", f"{self.layout}:latest", store=elsewhere)
        (source / "imported").write_bytes(b"imported" * 900)
        self.patchset.write_text('[patchset]\nbase = "app:v1"\npatches = ["app:v2"]\n')
        self.store_dir.rename(self._template)

    def fresh(self, *, mounted: bool = False) -> None:
        """The initial state again."""
        unmount_below(self.directory)
        for path in (self.store_dir, self.runtime_dir):
            shutil.rmtree(path, ignore_errors=True)
        subprocess.run(["cp", "-a", self._template, self.store_dir], check=True)
        if mounted:
            self.verb("mount", "app+dev", self.mountpoint)

    def clean(self) -> None:
        """Leave nothing mounted."""
        unmount_below(self.directory)

    def verb(self, *args: object, store: Path | None = None) -> None:
        """Run a command line; ``VerbError`` where it fails."""
        options = ["--quiet", "--store", str(store or self.store_dir), "--runtime-dir", str(self.runtime_dir)]
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = run([*options, *map(str, args)])
        if code:
            raise VerbError(f"exit code {code}: {said.getvalue()}")

    @property
    def session(self) -> Session:
        """A session of its own, which remembers nothing."""
        return Session(load_config({}, store=str(self.store_dir), runtime_dir=str(self.runtime_dir), jobs="1"))

    @property
    def store(self) -> Store:
        return Store.open(self.store_dir)

    def refs(self) -> dict[str, tuple[str, ...]]:
        """What every tag and worktree names, and what is to be mounted where at every start."""
        store = self.store
        found: dict[str, tuple[str, ...]] = {}
        for name in store.names():
            found |= {f"{name}:{tag}": (commit,) for tag, commit in store.tags.list(name).items()}
            found |= {str(tree.ref): (tree.base_commit, tree.commit) for tree in store.worktrees.list(name)}
        found |= {mount.mountpoint: (mount.ref,) for mount in store.boot_mounts.list()}
        return found

    # What must hold

    def shown(self, worktree: str = "dev") -> str:
        """The commit that a worktree would be as it is now: all that it shows, in one hash."""
        return metadata_hash(write_dump(Opened(self.session).tree_of(f"app+{worktree}")))

    def damage(self) -> list[Finding]:
        """What fsck finds and does not call harmless."""
        return maintenance.fsck(self.session).damage

    def check(self, allowed: Sequence[str] | set[str]) -> None:
        """Nothing is damaged; refs name commits in ``allowed``; the work is in the worktree or in a commit that the
        history names; what is mounted is on record."""
        assert not self.damage()
        store = self.store
        commits: set[str] = set()
        for name in store.names():
            commits.update(store.tags.list(name).values())
            for worktree in store.worktrees.list(name):
                commits.update((worktree.base_commit, worktree.commit))
        assert commits <= set(allowed)
        self._check_work(store)
        self._check_mounts()

    def _check_work(self, store: Store) -> None:
        if "app" not in store.names():
            return
        if store.worktrees.exists("app", "dev"):
            interrupted = store.worktrees.interrupted_switch("app", "dev")
            if self.shown() in {self.work, *self.as_asked} or (interrupted is not None and interrupted.old is not None):
                return
        mentioned = {commit for entry in store.reflog.read("app") for commit in (entry.old, entry.new)}
        assert self.work in mentioned
        assert store.commits.exists(self.work)

    def _check_mounts(self) -> None:
        records = self.session.state.records()
        for entry in mountinfo.read():
            if entry.mountpoint.startswith(str(self.directory)):
                assert any(record.is_mount(entry) for record in records), entry

    def check_after_next(self, allowed: Sequence[str] | set[str]) -> None:
        """After the next verbs, nothing of what was interrupted is left either but what the same verb can take up, and
        the work still is. After a garbage collection nothing is."""
        if "app" in self.store.names() and self.store.worktrees.exists("app", "dev"):
            self.verb("commit", "app+dev")
            assert not self.store.worktrees.has_leftovers("app", "dev")
        else:
            self.verb("import", "--bare", self.source, "next")
        assert not abandoned(self.store)
        after = set(self.store.commits.list())
        self.check(after)
        self.verb("gc")
        assert not leftovers(self.store)
        self.check(after)
