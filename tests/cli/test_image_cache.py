"""Images of commits as users meet them: a mount makes one, nothing else does, and what is not mounted may go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root


def images(cli: Command) -> set[str]:
    directory = cli.store / "cache" / "images"
    return {path.stem for path in directory.glob("*.cfs")} if directory.exists() else set()


def commit_of(cli: Command, ref: str) -> str:
    return str(cli.json("show", ref)["commit"]["metadata_hash"])


def made_long_ago(cli: Command) -> None:
    for path in (cli.store / "cache" / "images").glob("*.cfs"):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> dict[str, str]:
    """Two tags."""
    for tag in ("v1", "v2"):
        cli.ok(
            "import", "--bare", make_tree(tmp_path / tag, {"file": f"content of {tag}" * 100, "d/x": "x"}), f"app:{tag}"
        )
    return {tag: commit_of(cli, f"app:{tag}") for tag in ("v1", "v2")}


def test_a_mount_makes_an_image_and_nothing_else_does(cli: Command, app: dict[str, str], tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    layout, archive = f"oci:{tmp_path}/layout", tmp_path / "a.stratum.tar"
    cli.ok("tag", "app:v1", "stable")
    cli.ok("push", "app:v1", f"{layout}:v1")
    cli.ok("export", "app:v2", archive)
    other = Command(tmp_path / "other", tmp_path / "other-run")
    other.ok("pull", f"{layout}:v1", "app")
    other.ok("import", archive, "app:v2")
    other.ok("verify", "app:v2")
    for each in (cli, other):
        each.ok("fsck")
        each.ok("du")
        each.ok("gc")
        assert images(each) == set()
    cli.ok("mount", "app:v1", mnt)
    assert images(cli) == {app["v1"]}
    image = cli.store / "cache/images" / f"{app['v1']}.cfs"
    whole = image.read_bytes()
    cli.ok("unmount", mnt)
    cli.ok("worktree", "add", "app+dev", "app:v2")
    cli.ok("mount", "app+dev", mnt)
    (mnt / "file").write_text("changed")
    cli.ok("commit", mnt, "v3")
    cli.ok("tag", "app:v3", "v4")
    assert images(cli) == {app["v1"], app["v2"]}
    cli.ok("unmount", mnt)
    image.unlink()
    assert cli.ok("show", "--image-path", "app:v1") == str(image)
    assert image.read_bytes() == whole
    assert Path(other.ok("show", "--image-path", "app:v1")).read_bytes() == whole
    assert cli.json("show", "app:v1", "--image-path")["image_path"] == str(image)
    assert cli("show", "--image-path", "app:v1:/file").code == 2
    cli.ok("fsck")
    subprocess.run(["rm", "-r", cli.store / "cache"], check=True)
    cli.ok("mount", "app:v1", mnt)
    assert (mnt / "file").read_text().startswith("content of v1")
    subprocess.run(["rm", "-r", cli.store / "cache"], check=True)
    assert (mnt / "d" / "x").read_text() == "x"
    cli.ok("unmount", mnt)


def test_what_is_mounted_stays_whoever_mounted_it(cli: Command, app: dict[str, str], tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("m1", "m2")]
    elsewhere = Command(cli.store, tmp_path / "elsewhere")
    for who, tag, place in ((cli, "v1", places[0]), (elsewhere, "v2", places[1])):
        who.ok("mount", f"app:{tag}", place)
    made_long_ago(cli)
    status = cli.json("cache", "status")["images"]
    assert (status["count"], status["mounted"], status["max"] > 0) == (2, 2, True)
    assert cli.json("cache", "evict", "--images", "0")["evicted_images"] == 0
    elsewhere.ok("unmount", places[1])
    assert cli.json("cache", "evict", "--images", "0", "-n")["evicted_images"] == 1
    assert "1 images" in cli("cache", "evict", "--images", "0").stderr
    assert images(cli) == {app["v1"]}
    cli.ok("unmount", places[0])
    assert cli.json("cache", "evict", "--to", "0")["evicted_images"] == 0, "that is about content"
    cli.ok("show", "--image-path", "app:v2")
    cli.ok("remove", "app:v2")
    made_long_ago(cli)
    dry, done = (cli.json("gc", "--reflog-age", "0", *how, env={"STRATUM_CACHE_IMAGES": "0"}) for how in (["-n"], []))
    assert dry["bytes_freed"] == done["bytes_freed"], "that of the commit goes with it, and counts once"
    assert (dry["removed_images"], done["removed_images"]) == (1, 1)
    assert images(cli) == set()


def test_a_limit_makes_the_oldest_go(cli: Command, app: dict[str, str], tmp_path: Path) -> None:
    cli.ok("cache", "limit", "--images", "1k")
    for tag in ("v1", "v2"):
        cli.ok("mount", f"app:{tag}", tmp_path / "m")
        cli.ok("unmount", tmp_path / "m")
    assert images(cli) == set(app.values()), "they were mounted a moment ago"
    made_long_ago(cli)
    cli.ok("mount", "app:v1", tmp_path / "m", "--persist")
    cli.ok("unmount", tmp_path / "m")
    made_long_ago(cli)
    (tmp_path / "v3").mkdir()
    (tmp_path / "v3" / "file").write_text("third")
    cli.ok("import", "--bare", tmp_path / "v3", "app:v3")
    cli.ok("mount", "app:v3", tmp_path / "m3")
    assert images(cli) == {app["v1"], commit_of(cli, "app:v3")}, "what is mounted at every start stays"
    cli.ok("unmount", tmp_path / "m3")


def test_a_store_that_can_only_be_read(cli: Command, app: dict[str, str], tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    subprocess.run(["mount", "--bind", cli.store, cli.store], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", cli.store], check=True)
    try:
        for tag in ("v1", "v2", "v2"):
            cli.ok("mount", f"app:{tag}", mnt)
            assert (mnt / "file").read_text().startswith(f"content of {tag}")
            image = cli.runtime_dir / "images" / f"{app[tag]}.cfs"
            assert list(image.parent.glob("*.cfs")) == [image]
            cli.ok("unmount", mnt)
            os.utime(image, (1e9, 1e9))
    finally:
        subprocess.run(["umount", cli.store], check=True)
