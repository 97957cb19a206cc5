"""Exports and imports: what goes out comes back as the same commits, and a hostile archive leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.api.exporting import export
from stratum.api.importing import Options, import_, import_patch
from stratum.api.session import Session
from stratum.api.transfer import push
from stratum.config import load_config
from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError
from stratum.transfer.packs import PACK_MAX
from stratum.tree.model import Directory, lookup
from stratum.tree.tarheader import DIRECTORY, END, HARD_LINK, SYMLINK, TarHeader, write_header
from tests.support.archives import LayoutArchive, file, image_trees, materialize, tar
from tests.support.command import Command
from tests.support.effort import examples
from tests.support.stores import check, leftovers
from tests.support.trees import trees

NOISE = random.Random(1).randbytes(200_000)


def session(directory: Path) -> Session:
    return Session(load_config({}, store=str(directory / "store"), runtime_dir=str(directory / "run")))


@pytest.fixture
def here(tmp_path: Path) -> Session:
    return session(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Session:
    return session(tmp_path / "there")


def commit(at: Session, tree: Path, name: str) -> str:
    return import_(at, str(tree), name, Options(bare=True, force=True)).commit.metadata_hash


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a bit of everything."""
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/noise").write_bytes(NOISE)
    (root / "small").write_bytes(b"small")
    os.link(root / "small", root / "d/hard")
    (root / "link").symlink_to("d/noise")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "d/noise", "user.k", b"v\0=\xff")
    (root / "d/noise").chmod(0o4755)
    return root


def three_commits(at: Session, tree: Path) -> list[str]:
    """v1, v2 and v3, each the parent of the next."""
    commits = []
    for number in (1, 2, 3):
        (tree / "changing").write_bytes(NOISE[: 1000 * number])
        commits.append(commit(at, tree, "app:latest"))
        at.store.tags.set("app", f"v{number}", commits[-1], expected=None, why="test")
    return commits


def untouched(at: Session) -> bool:
    """No ref, no commit, nothing in progress, and only objects that are what their names say."""
    with contextlib.suppress(NotFoundError):
        store = at.store
        check(store)
        return not (store.names() or store.commits.list() or leftovers(store))
    return True


def no_refs(at: Session) -> bool:
    """No ref, nothing in progress; whatever else is there is whole, such as the parent of a commit that was not."""
    with contextlib.suppress(NotFoundError):
        check(at.store)
        return not (at.store.names() or leftovers(at.store))
    return True


# Round trips


def test_a_commit_comes_back_from_a_file(here: Session, there: Session, tree: Path, tmp_path: Path) -> None:
    original = commit(here, tree, "app:v1")
    path = str(tmp_path / "app.stratum.tar")
    done = export(here, "app:v1", path)
    assert (done.tags, done.history) == ({"v1": original}, [])
    assert done.size == os.path.getsize(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    back = import_(there, path, "other:v7")
    assert (back.ref, back.commit.metadata_hash) == ("other:v7", original)
    assert there.store.commits.dump(original).text == here.store.commits.dump(original).text
    assert back.commit.origin is not None
    assert back.commit.origin["kind"] == "import"
    check(there.store)
    assert not import_(there, path, "other:v7").changed


@given(trees)
@settings(max_examples=examples(25))
def test_any_tree_comes_back_as_the_same_commit(tmp_path_factory: pytest.TempPathFactory, generated: Directory) -> None:
    base = tmp_path_factory.mktemp("archive")
    here, there = session(base / "here"), session(base / "there")
    store = here.create_store()
    with store.begin("a test") as tx:
        original = store.commits.write(tx, materialize(generated, tx)).metadata_hash
    first, second = str(base / "1.tar"), str(base / "2.tar")
    export(here, original, first)
    export(here, original, second)
    assert Path(first).read_bytes() == Path(second).read_bytes()
    assert import_(there, first, "x").commit.metadata_hash == original


@given(image_trees, image_trees)
@settings(max_examples=examples(15))
def test_any_tree_comes_back_from_an_image_and_from_one_with_a_delta(
    tmp_path_factory: pytest.TempPathFactory, first: Directory, second: Directory
) -> None:
    base = tmp_path_factory.mktemp("image")
    here, there = session(base / "here"), session(base / "there")
    store = here.create_store()
    with store.begin("a test") as tx:
        parent = store.commits.write(tx, materialize(first, tx)).metadata_hash
        child = store.commits.write(tx, materialize(second, tx), parent=parent).metadata_hash
    for compression in ("gzip", "zstd"):
        for tag, commit_hash in (("v1", parent), ("v2", child)):
            push(here, commit_hash, f"oci:{base}/{compression}:{tag}", access=here.access(), image=compression)
            back = import_(there, f"oci:{base}/{compression}:{tag}", "x", Options(devices=True))
            assert back.commit.metadata_hash == commit_hash
            assert not back.warnings


def test_history_and_tags_come_along(here: Session, there: Session, tree: Path, tmp_path: Path) -> None:
    commits = three_commits(here, tree)
    alone, with_history = str(tmp_path / "alone.tar"), str(tmp_path / "history.tar")
    export(here, "app:v3", alone)
    done = export(here, "app:v3", with_history, with_history=True)
    assert done.history == commits[:2]
    assert done.size < os.path.getsize(alone) + 50_000  # the parents cost what they differ by
    import_(there, with_history, "app")
    assert set(there.store.commits.list()) == set(commits)
    assert there.store.commits.meta(commits[2]).parent_commit == commits[1]
    assert there.store.tags.names("app") == ["latest"]
    check(there.store)


def test_one_of_several_tags_is_chosen(here: Session, there: Session, tree: Path, tmp_path: Path) -> None:
    commits = three_commits(here, tree)
    path = str(tmp_path / "all.tar")
    export(here, "app:v1", path, tags=["v2", "v3"])
    with pytest.raises(UsageError, match="holds several tags: v1, v2, v3"):
        import_(there, path, "app")
    assert untouched(there)
    assert import_(there, path, "app", Options(tag="v2")).commit.metadata_hash == commits[1]
    assert import_(there, f"oci-archive:{path}:v3", "app").commit.metadata_hash == commits[2]
    with pytest.raises(NotFoundError, match="there is no tag v9"):
        import_(there, path, "app", Options(tag="v9"))


def test_the_members_are_deterministic_and_in_order(here: Session, tree: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tree / f"huge{number}").write_bytes(random.Random(number).randbytes(PACK_MAX // 2))
    original = commit(here, tree, "app:v1")
    paths = [tmp_path / f"{number}.tar" for number in range(2)]
    for path in paths:
        export(here, original, str(path))
    assert subprocess.run(["cmp", *paths], check=False).returncode == 0
    with tarfile.open(paths[0]) as archive:
        members = archive.getmembers()
    assert {(m.mode, m.uid, m.gid, m.mtime, m.uname, m.pax_headers.get("mtime")) for m in members} == {
        (0o644, 0, 0, 0, "", None)
    }
    names = [member.name for member in members]
    assert (names[0], names[-1]) == ("oci-layout", "index.json")
    manifest = LayoutArchive.read(paths[0]).manifest
    order = [*manifest["layers"], manifest["config"]]
    digests = [str(blob["digest"]).removeprefix("sha256:") for blob in order]
    written = [name.removeprefix("blobs/sha256/") for name in names[1:-2]]
    assert sorted(written) == sorted(digests)


def test_members_may_come_in_any_order(here: Session, there: Session, tree: Path, tmp_path: Path) -> None:
    original = commit(here, tree, "app:v1")
    path = tmp_path / "app.tar"
    export(here, "app:v1", str(path))
    archive = LayoutArchive.read(path)
    path.write_bytes(archive.tar(sorted(archive.members)))
    assert import_(there, str(path), "app").commit.metadata_hash == original
    directories = tar(
        TarHeader(b"./", DIRECTORY), TarHeader(b"./blobs/", DIRECTORY), TarHeader(b"blobs/sha256", DIRECTORY)
    )
    path.write_bytes(
        directories.removesuffix(END) + tar(*(file(b"./" + n.encode(), d) for n, d in archive.members.items()))
    )
    assert import_(there, str(path), "again").commit.metadata_hash == original


def test_a_layout_directory_that_another_program_unpacked(
    here: Session, there: Session, tree: Path, tmp_path: Path
) -> None:
    original = commit(here, tree, "app:v1")
    export(here, "app:v1", str(tmp_path / "app.tar"))
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "app.tar", "-C", tmp_path / "layout"], check=True)
    for source in (str(tmp_path / "layout"), f"oci:{tmp_path}/layout", f"oci:{tmp_path}/layout:v1"):
        assert import_(there, source, "app").commit.metadata_hash == original
    assert import_(there, str(tmp_path / "layout"), "app", Options(bare=True)).commit.metadata_hash != original


def test_a_tar_is_the_directory_that_it_was_made_of(here: Session, tree: Path, tmp_path: Path) -> None:
    original = commit(here, tree, "app:v1")
    for number, options in enumerate((["-c"], ["-cz"], ["-cJ"], ["-c", "--zstd"])):
        path = tmp_path / f"{number}"
        subprocess.run(["tar", "--xattrs", "--format=pax", *options, "-f", path, "-C", tree, "."], check=True)
        assert import_(here, str(path), f"tar:{number}").commit.metadata_hash == original


# Patches


def test_a_patch_from_a_tar_and_from_an_export_is_that_of_its_directory(
    here: Session, tree: Path, tmp_path: Path
) -> None:
    commit(here, tree, "app:v1")
    patch = tmp_path / "patch"
    (patch / "d").mkdir(parents=True)
    (patch / ".wh.small").touch()
    (patch / "d/.wh..wh..opq").touch()
    (patch / "d/new").write_bytes(NOISE[:500])
    from_directory = import_patch(here, str(patch), "app:d", "app:v1")
    subprocess.run(["tar", "--format=pax", "-cf", tmp_path / "p.tar", "-C", patch, "."], check=True)
    commit(here, patch, "patch")
    export(here, "patch", str(tmp_path / "p.stratum.tar"))
    for name in ("p.tar", "p.stratum.tar"):
        done = import_patch(here, str(tmp_path / name), "app:x", "app:v1")
        assert done.commit.metadata_hash == from_directory.commit.metadata_hash
    result = here.store.commits.tree(from_directory.commit.metadata_hash)
    assert lookup(result, b"small") is None
    assert list(lookup(result, b"d").children) == [b"new"]


# The command line


def test_the_verbs(cli: Command, tree: Path, tmp_path: Path) -> None:
    original = cli.ok("import", "--bare", tree, "app:v1")
    path = tmp_path / "app.stratum.tar"
    assert cli.ok("export", "app:v1", path) == str(path)
    assert cli.json("export", "app:v1", path)["tags"] == {"v1": original}
    assert cli.ok("import", path, "copy") == original
    assert cli.ok("import", "copy:v2", path) == original
    code, _, err = cli("export", "app:nope", tmp_path / "none.tar")
    assert (code, (tmp_path / "none.tar").exists()) == (3, False)
    assert "there is no tag app:nope" in err
    code, _, err = cli("import", "-m", "text", path, "copy")
    assert code == 2
    assert "keeps its own message" in err
    code, _, err = cli("import", "--tag", "v1", tree, "copy")
    assert code == 2
    code, _, err = cli("export", "app:v1", "/dev/null")
    assert (code, "not a regular file" in err) == (2, True)
    code, _, err = cli("export", "app:v1", tmp_path / "missing/x.tar")
    assert (code, "No such file" in err) == (3, True)
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" export app:v1 - | cmp - "$1"', str(Path(cli_script())), path],
        env=cli.environment,
        check=False,
    )
    assert done.returncode == 0
    for source, name in ((path, "piped"), (tree_tar(tree, tmp_path), "piped-tar")):
        with source.open("rb") as stdin:
            done = subprocess.run([cli_script(), "import", "-", name], stdin=stdin, env=cli.environment, check=False)
        assert done.returncode == 0
        assert cli.json("show", name)["commit"]["metadata_hash"] == original
    assert cli.ok("export", "--as", "image", "--compression", "zstd", "app:v1", tmp_path / "image.tar")
    assert cli.ok("import", tmp_path / "image.tar", "image") == original
    assert cli("push", "--compression", "zstd", "app:v1", f"oci:{tmp_path}/l").code == 2
    assert cli("export", "--as", "image", "--with-history", "app:v1", tmp_path / "x.tar").code == 2


def tree_tar(tree: Path, directory: Path) -> Path:
    """An ordinary archive of ``tree``."""
    path = directory / "plain.tar"
    subprocess.run(["tar", "--xattrs", "--format=pax", "-cf", path, "-C", tree, "."], check=True)
    return path


def cli_script() -> Path:
    from tests.support.command import SCRIPT

    return SCRIPT


def test_a_failed_export_leaves_the_old_file(here: Session, tree: Path, tmp_path: Path) -> None:
    commit(here, tree, "app:v1")
    path = tmp_path / "out" / "app.tar"
    path.parent.mkdir()
    path.write_bytes(b"the old one")
    for digest, _ in list(here.store.objects.list()):
        here.store.objects.path(digest).unlink()
    with pytest.raises(NotFoundError, match="is missing from the store"):
        export(here, "app:v1", str(path))
    assert path.read_bytes() == b"the old one"
    assert os.listdir(path.parent) == ["app.tar"]


# Hostile archives


def _change(**fields: object) -> Callable[[LayoutArchive], bytes]:
    """The last entry of index.json says something else."""
    return lambda archive: archive.with_index(lambda index: index["manifests"][-1].update(fields)).tar()


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[LayoutArchive], bytes]:
    return lambda archive: archive.with_manifest(change).tar()


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def _whole(archive: LayoutArchive) -> bytes:
    return archive.tar().removesuffix(END)


HOSTILE: dict[str, Callable[[LayoutArchive], bytes]] = {
    "traversal": lambda archive: _whole(archive) + tar(file(b"../../etc/passwd")),
    "a traversal that comes back": lambda archive: _whole(archive) + tar(file(b"blobs/../x")),
    "a symbolic link": lambda archive: _whole(archive) + tar(TarHeader(b"blobs/sha256/" + b"0" * 64, SYMLINK)),
    "a hard link": lambda archive: _whole(archive) + tar(TarHeader(b"x", HARD_LINK, linkname=b"index.json")),
    "a device": lambda archive: _whole(archive) + tar(TarHeader(b"index.json", b"3")),
    "a file that does not belong": lambda archive: _whole(archive) + tar(file(b"README", b"hello")),
    "a directory that does not belong": lambda archive: _whole(archive) + tar(TarHeader(b"etc/", DIRECTORY)),
    "a blob twice": lambda archive: _whole(archive) + tar(file(archive.blobs[0].encode(), b"again")),
    "index.json twice": lambda archive: _whole(archive) + tar(file(b"index.json", b"{}")),
    "cut at a block": lambda archive: archive.tar()[:2048],
    "cut in the middle": lambda archive: archive.tar()[:-5000],
    "without its end": _whole,
    "two archives": lambda archive: archive.tar() + archive.tar(),
    "an absurd size": lambda archive: (
        _whole(archive) + write_header(TarHeader(b"blobs/sha256/" + b"1" * 64, size=1 << 50))
    ),
    "no oci-layout version": lambda archive: LayoutArchive({**archive.members, "oci-layout": b"{}"}).tar(),
    "no index": lambda archive: archive.without("index.json").tar(),
    "an index of nothing": lambda archive: LayoutArchive({**archive.members, "index.json": b"[1]"}).tar(),
    "an index nested without end": lambda archive: LayoutArchive(
        {**archive.members, "index.json": b"[" * 100_000}
    ).tar(),
    "an index with a wrong size": _change(size=1),
    "an index with a missing manifest": _change(digest="sha256:" + "2" * 64),
    "an index without a digest": _change(digest=None),
    "a missing blob": lambda archive: archive.without(archive.blobs[0]).tar(),
    "a manifest with both kinds": _manifest(lambda value: value.update(manifests=[])),
    "a manifest with a layer less": _manifest(lambda value: value["layers"].pop()),
    "a manifest of another commit": _manifest(
        lambda value: value["annotations"].update({"dev.stratum.commit": "3" * 64})
    ),
    "a manifest with urls": _manifest(lambda value: value["layers"][0].update(urls=["http://127.0.0.1:1/"])),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> LayoutArchive:
    """An export of a commit with a parent."""
    base = tmp_path_factory.mktemp("good")
    source = base / "source"
    source.mkdir()
    here = session(base)
    for number in (1, 2):
        (source / "noise").write_bytes(NOISE[: 3000 * number])
        (source / "text").write_bytes(b"text" * 100)
        commit(here, source, "app:v1")
    export(here, "app:v1", str(base / "app.tar"), with_history=True)
    return LayoutArchive.read(base / "app.tar")


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_leave_nothing(there: Session, good: LayoutArchive, tmp_path: Path, case: str) -> None:
    path = tmp_path / "hostile.tar"
    path.write_bytes(HOSTILE[case](good))
    with pytest.raises(StratumError) as caught:
        import_(there, str(path), "app")
    assert "\n" not in caught.value.message
    assert no_refs(there)


@pytest.mark.parametrize("number", range(12))
def test_a_blob_with_other_bytes_is_refused_before_anything_is_taken(
    there: Session, good: LayoutArchive, tmp_path: Path, number: int
) -> None:
    name = good.blobs[number % len(good.blobs)]
    path = tmp_path / "hostile.tar"
    path.write_bytes(good.with_blob(name, _flip(good.members[name])).tar())
    with pytest.raises(DamagedError, match="do not match its digest"):
        import_(there, str(path), "app")
    assert untouched(there)


@given(st.data())
@settings(max_examples=examples(60))
def test_mutated_archives_never_move_a_ref(
    tmp_path_factory: pytest.TempPathFactory, good: LayoutArchive, data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("fuzz")
    archive = bytearray(good.tar())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(archive) - 1))
        kind = data.draw(st.sampled_from(["change", "cut", "insert", "repeat"]))
        if kind == "change":
            archive[position] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del archive[position : position + data.draw(st.sampled_from([1, 512, 4096]))]
        elif kind == "insert":
            archive[position:position] = data.draw(st.binary(min_size=1, max_size=600))
        else:
            block = position // 512 * 512
            archive[block:block] = archive[block : block + 1024]
    (base / "mutated.tar").write_bytes(archive)
    there = session(base)
    try:
        done = import_(there, str(base / "mutated.tar"), "app")
    except StratumError:
        assert no_refs(there)
    else:  # what was changed means nothing, such as a member's mode: then it is the commit itself
        annotations = good.manifest["annotations"]
        assert isinstance(annotations, dict)
        assert done.commit.metadata_hash == annotations["dev.stratum.commit"]
        check(there.store)


def test_a_compressed_layout_is_not_taken_for_a_tree(there: Session, good: LayoutArchive, tmp_path: Path) -> None:
    path = tmp_path / "app.tar"
    path.write_bytes(good.tar())
    subprocess.run(["gzip", path], check=True)
    with pytest.raises(UsageError, match="compressed or damaged"):
        import_(there, f"{path}.gz", "app")
    assert untouched(there)


def test_a_pipe_is_no_archive(cli: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code, _, err = cli("import", tmp_path / "pipe", "app", timeout=20)
    assert (code, "is not a regular file" in err) == (2, True)
