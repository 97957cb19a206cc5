"""Whether anybody may hold a worktree, without the store: only a sure no is one."""

from __future__ import annotations

from pathlib import Path

from stratum.store import Store
from stratum.store.leases import has_leases
from stratum.tree.model import Directory


def test_only_a_sure_no_is_one(store_dir: Path) -> None:
    assert has_leases(store_dir)  # there is no store: who opens it says so
    store = Store.create(store_dir)
    assert not has_leases(store_dir)
    with store.begin("a test") as tx:
        commit = store.commits.write(tx, Directory(0o40755, 0, 0, 0)).metadata_hash
    store.tags.set("app", "v1", commit)
    store.worktrees.create("app", "dev", commit)
    (store.layout.refs / "a file").write_text("")
    assert not has_leases(store_dir)
    lease = store.layout.worktree("app", "dev") / "lease.toml"
    lease.symlink_to("nowhere")
    assert has_leases(store_dir)
    lease.unlink()
    worktrees = store.layout.worktrees("app")
    worktrees.rename(worktrees.with_name("elsewhere"))
    worktrees.symlink_to(worktrees)  # ELOOP
    assert has_leases(store_dir)
