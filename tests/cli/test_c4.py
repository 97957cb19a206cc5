"""``stratum c4``: IDs, and commits that go to C4M files and content stores and come back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.api import c4ids, c4import
from stratum.api.c4 import identify
from stratum.api.session import Session
from stratum.c4.ids import EMPTY, id_of_bytes
from stratum.config import load_config
from stratum.errors import NotFoundError, UsageError
from tests.cli.trees import make_tree
from tests.support.c4texts import canonical, manifest_of, text_of
from tests.support.command import Command

FILES = {"a": "a" * 5000, "b10": "", "b9": "alfa", "in/deep/x": "x" * 100, "in/y": "y"}
NEW_YEAR = 1735689600


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory in which everything can be said in C4M, but for owners."""
    root = make_tree(tmp_path / "src", FILES)
    (root / "to_a").symlink_to("a")
    (root / "in/up").symlink_to("../in/deep")
    (root / "in/out").symlink_to("../../gone")
    (root / "empty").mkdir()
    os.chmod(root / "b9", 0o4711)
    os.chmod(root / "b10", 0)
    os.mkfifo(root / "fifo")
    os.link(root / "in/y", root / "second")
    for path in (root, *root.rglob("*")):
        os.utime(path, (NEW_YEAR, NEW_YEAR), follow_symlinks=False)
    return root


@pytest.fixture
def app(cli: Command, source: Path) -> str:
    return cli.ok("import", "--bare", source, "app:v1")


def test_a_commit_goes_out_and_comes_back(cli: Command, app: str, source: Path, tmp_path: Path) -> None:
    listing, store = tmp_path / "app.c4m", tmp_path / "contents"
    done = cli.json("c4", "export", "app:v1", listing, "--store", store)
    assert done["lost"] == [
        {"what": "mode, owner, time and attributes of the root directory", "entries": 1},
        {"what": "owner", "entries": 13},
    ]
    assert (done["entries"], listing.stat().st_mode & 0o777) == (13, 0o600)
    assert done["stored"] == 8, "five contents, one of which is nothing, and three listings that are not"
    assert canonical(listing.read_text()) == listing.read_text()
    back = cli.json("c4", "import", listing, "back", "--store", store)
    assert (back["commit"], back["warnings"]) == (app, [])
    assert cli.json("c4", "verify", listing, "back")["entries"] == 13
    assert cli.json("c4", "verify", listing, source)["ok"]
    again = cli.json("c4", "import", listing, "back", "--store", store)
    assert not again["changed"]


def test_ids(cli: Command, app: str, source: Path) -> None:
    found = cli.json(
        "c4", "id", "app:v1", source, "app:v1:/in", source / "in", "app:v1:/b9", source / "b9", source / "b10"
    )
    ids = [one["id"] for one in found]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[4:] == [id_of_bytes(b"alfa"), id_of_bytes(b"alfa"), EMPTY]
    assert [one["kind"] for one in found] == ["directory"] * 4 + ["file"] * 3
    linked = cli.json("c4", "id", "--hard-links", "app:v1")[0]["id"]
    top = [line for line in cli.ok("c4", "export", "app:v1", "-").splitlines() if line[0] != " "]
    exported = id_of_bytes("".join(f"{line}\n" for line in top).encode())
    assert linked == exported != ids[0]
    assert cli.ok("c4", "id", "-", stdin="alfa").split() == [id_of_bytes(b"alfa"), "-"]


def test_links_out_of_a_directory(cli: Command, source: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").write_text("alfa")
    inside, outside = (cli.json("c4", "id", *how, source)[0]["id"] for how in ((), ("--follow-outside",)))
    assert inside != outside
    os.symlink(source, source / "in/self")
    assert cli.ok("c4", "id", "--follow-outside", source)


def test_a_listing_for_people(cli: Command, app: str, tmp_path: Path) -> None:
    shown = cli.ok("c4", "export", "app:v1", "-", "--pretty")
    assert "Jan  1 00:00:00 2025 UTC" in shown
    assert text_of(manifest_of(shown + "\n")) == cli.ok("c4", "export", "app:v1", "-") + "\n"
    done = cli("c4", "export", "app:v1", tmp_path / "x.c4m", "--no-hard-links")
    assert "not in C4M: owner (13 entries)" in done.stderr
    assert "->1" not in (tmp_path / "x.c4m").read_text()


def test_patches(cli: Command, app: str, source: Path, tmp_path: Path) -> None:
    one, two, patch = (tmp_path / name for name in ("one.c4m", "two.c4m", "patch.c4m"))
    cli.ok("c4", "export", "app:v1", one)
    (source / "a").unlink()
    (source / "new").write_text("n")
    (source / "in/y").write_text("z")
    cli.ok("import", "--bare", source, "app:v2")
    cli.ok("c4", "export", "app:v2", two)
    found = cli.json("c4", "diff", one, "app:v2")
    assert (found["added"], found["removed"]) == (1, 1)
    patch.write_text(found["patch"])
    assert cli.ok("c4", "patch", one, patch) + "\n" == two.read_text()
    assert cli.json("c4", "patch", one, patch)["id"] == found["new"]
    assert cli.ok("c4", "diff", "app:v2", source) == ""
    assert cli.json("c4", "diff", two, two)["patch"] == ""
    wrong = cli("c4", "patch", two, patch)
    assert (wrong.code, "is not the ID of what is above it" in wrong.stderr) == (2, True)
    patch.write_text("".join(found["patch"].splitlines(keepends=True)[:-1]))
    alone = cli("c4", "diff", patch, one)
    assert (alone.code, "is a patch of" in alone.stderr) == (2, True)
    assert cli("c4", "patch", patch).code == 2
    assert "is no patch" in cli("c4", "patch", one, two).stderr


def test_a_patch_is_imported_over_what_the_store_has(cli: Command, app: str, source: Path, tmp_path: Path) -> None:
    store = tmp_path / "contents"
    cli.ok("c4", "export", "app:v1", tmp_path / "one.c4m", "--store", store, "--no-hard-links")
    (source / "new").write_text("n")
    cli.ok("import", "--bare", source, "app:v2")
    cli.ok("c4", "export", "app:v2", tmp_path / "two.c4m", "--store", store, "--no-hard-links")
    patch = cli.ok("c4", "diff", "app:v1", "app:v2").splitlines()
    (tmp_path / "patch.c4m").write_text("\n".join(patch[:-1]))
    one = cli.ok("c4", "import", tmp_path / "patch.c4m", "one", "--store", store)
    assert cli.ok("c4", "import", tmp_path / "two.c4m", "two", "--store", store) == one
    (tmp_path / "ids.c4m").write_text("".join(f"{line}\n" for line in patch[1:-1] if line[0] == "-"))
    cli.ok("c4", "import", tmp_path / "ids.c4m", "part", "--store", store)
    assert cli.ok("cat", "part", "/new") == "n"


def test_what_is_missing_is_named_and_nothing_is_imported(cli: Command, app: str, tmp_path: Path) -> None:
    listing, store = tmp_path / "app.c4m", tmp_path / "contents"
    cli.ok("c4", "export", "app:v1", listing, "--store", store)
    (store / id_of_bytes(b"alfa")).unlink()
    missing = cli("c4", "import", listing, "back", "--store", store)
    assert missing.code == 3
    assert f"b9 ({id_of_bytes(b'alfa')}): not in" in missing.stderr
    (store / id_of_bytes(b"alfa")).write_text("beta")
    damaged = cli("c4", "import", listing, "back", "--store", store)
    assert (damaged.code, "back" in cli.ok("list")) == (5, False)
    listing.write_text("-rw-r--r-- - 5 known -\n- - - unknown -\n-rw-r--r-- - 0 empty -\n")
    unknown = cli("c4", "import", listing, "back", "--store", store)
    assert (unknown.code, "has no ID of known, unknown" in unknown.stderr) == (2, True)
    assert cli("c4", "import", listing, "back", "--store", tmp_path / "nowhere").code == 3


def test_what_a_manifest_can_say_and_a_commit_cannot(cli: Command, tmp_path: Path) -> None:
    alfa, store = id_of_bytes(b"alfa"), tmp_path / "contents"
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "alfa"}), "app")
    cli.ok("c4", "export", "app", tmp_path / "x.c4m", "--store", store)
    (tmp_path / "all.c4m").write_text(
        f"- - - a {alfa}\n---------- - 4 zero {alfa}\n-rw-r--r-- - 4 one ->1 {alfa}\n-rw-r--r-- - 4 two ->1 {alfa}\n"
        f"crw------- - 0 tty -\nsrw------- - 0 socket -\n- - - link -> a -\n"
        f"- - - f.[1-3].exr {id_of_bytes(3 * alfa.encode())}\n{alfa * 3}\n"
        f"drwx------ - - out/ -> nas:in/ -\n  - - - deep {alfa}\n"
    )
    done = cli.json("c4", "import", tmp_path / "all.c4m", "all", "--store", store, "--owner", "7:8")
    assert done["warnings"] == [
        "1 device nodes are left out: C4M does not say their numbers",
        "1 flow links are left out: a commit has none",
        "1 sockets are left out",
    ]
    listed = cli.ok("c4", "export", "all", "-").splitlines()
    assert [line.split()[0] + " " + line.split()[3] for line in listed] == [
        "-rw-r--r-- a", "-rw-r--r-- f.1.exr", "-rw-r--r-- f.2.exr", "-rw-r--r-- f.3.exr", "lrwxrwxrwx link",
        "-rw-r--r-- one", "-rw-r--r-- two", "---------- zero", "drwx------ out/", "-rw-r--r-- deep",
    ]  # fmt: skip
    assert listed[5].split()[4] == listed[6].split()[4] == "->1"
    assert {(entry["uid"], entry["gid"]) for entry in cli.json("ls", "-R", "all")} == {(7, 8)}
    assert cli("c4", "verify", tmp_path / "all.c4m", "all").code == 5, "the device is not there"
    (tmp_path / "many.c4m").write_text(f"- - - f.[1-20000].exr {alfa}\n")
    many = cli("c4", "verify", tmp_path / "many.c4m", "all")
    assert (many.code, "20003 differences" in many.stderr) == (5, True), many.stderr
    assert cli("c4", "import", tmp_path / "all.c4m", "all", "--store", store, "--owner", "x").code == 2


def test_a_short_text_that_stands_for_much_is_refused(
    cli: Command, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, bomb = tmp_path / "contents", tmp_path / "bomb.c4m"
    cli.ok("c4", "export", "app:v1", tmp_path / "app.c4m", "--store", store)
    lines = [f"- - - a{number}.[1-1000000] {EMPTY}\n" for number in range(2000)]
    bomb.write_text("".join(lines))
    assert "and its list 0 IDs" in cli("c4", "import", bomb, "bomb", "--store", store).stderr
    found = cli("c4", "verify", bomb, "app:v1")
    assert (found.code, "sequences of over 4000000 members" in found.stderr) == (2, True), found.stderr
    text = ""
    for _ in range(25):
        c4id = id_of_bytes(text.encode())
        (store / c4id).write_text(text)
        text = f"- - - a/ {c4id}\n- - - b/ {c4id}\n"
    bomb.write_text(text)
    monkeypatch.setattr(c4import, "LISTINGS_MAX", 100)
    session = Session(load_config({}, store=str(cli.store), runtime_dir=str(cli.runtime_dir)))
    with pytest.raises(UsageError, match="stands for over 100 directories"):
        c4import.import_c4m(session, str(bomb), "bomb", str(store))
    monkeypatch.setattr(c4import, "LISTINGS_MAX", 10_000)
    monkeypatch.setattr(c4import, "EXPANDED_MAX", 100)
    with pytest.raises(UsageError, match="stands for over 100 entries"):
        c4import.import_c4m(session, str(bomb), "bomb", str(store))


def test_an_object_store_has_contents(cli: Command, app: str, tmp_path: Path) -> None:
    listing, store = tmp_path / "app.c4m", f"file://{tmp_path}/bucket"
    cli.ok("c4", "export", "app:v1", listing, "--store", store)
    assert cli.ok("c4", "import", listing, "back", "--store", store) == app


def test_differences_are_told(cli: Command, app: str, source: Path, tmp_path: Path) -> None:
    cli.ok("c4", "export", "app:v1", tmp_path / "app.c4m")
    (source / "b9").write_text("beta")
    os.utime(source / "b9", (NEW_YEAR, NEW_YEAR))
    (source / "a").unlink()
    (source / "more").touch()
    done = cli("c4", "verify", tmp_path / "app.c4m", source)
    assert done.code == 5
    assert done.stdout.splitlines()[:2] == ["a: it is not there", "b9: it is " + id_of_bytes(b"beta")]
    assert "more: the manifest does not have it" in done.stdout


def object_of(cli: Command, size: int) -> Path:
    """The object that has so many bytes."""
    files = (path for path in (cli.store / "objects").rglob("*") if path.is_file())
    (found,) = (path for path in files if path.stat().st_size == size)
    return found


def test_an_object_is_read_once_and_checked(cli: Command, app: str) -> None:
    object_path = object_of(cli, 5000)
    data = object_path.read_bytes()
    os.chmod(object_path, 0o600)
    object_path.write_bytes(b"b" * 5000)
    assert cli("c4", "id", "app:v1").code == 5
    object_path.write_bytes(data)
    found = cli.ok("c4", "id", "app:v1")
    object_path.write_bytes(b"b" * 5000)
    assert cli.ok("c4", "id", "app:v1") == found


def test_objects_are_read_by_processes(
    cli: Command, app: str, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(c4ids, "_MANY", 1)
    monkeypatch.setattr(c4ids, "_BATCH", 1)
    make_tree(source, {f"f{number}": f"{number}" * 400 for number in range(9)})
    cli.ok("import", "--bare", source, "app:v2")
    settings = {"STRATUM_JOBS": "2"}
    session = Session(load_config(settings, store=str(cli.store), runtime_dir=str(cli.runtime_dir)))
    assert identify(session, "app:v2").id == identify(session, str(source)).id
    cli.ok("import", "--bare", make_tree(tmp_path / "new", {"x": "x" * 3000, "y": "y" * 4000}), "new")
    object_of(cli, 3000).unlink()
    with pytest.raises(NotFoundError, match="is missing from the store"):
        identify(session, "new")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["id"], 2), (["id", "none"], 3), (["id", "/dev/null"], 2), (["verify", "none.c4m", "app"], 3),
        (["nothing"], 2), (["export", "/dev/null", "-"], 2), (["import", "none", "x", "--store", "/nowhere"], 3),
        (["import", "none", "x"], 2), (["patch", "/dev"], 1), (["export", "app:v1", "-", "--store", "s3://abc:tag"], 2),
    ],
)  # fmt: skip
def test_mistakes(cli: Command, app: str, arguments: list[str], code: int) -> None:
    found = cli("c4", *arguments)
    assert (found.code, "Traceback" in found.stderr) == (code, False), found.stderr


def test_what_was_read_once_is_remembered_and_verify_reads_all_the_same(
    cli: Command, app: str, source: Path, tmp_path: Path
) -> None:
    """Also a damaged memory changes nothing."""
    before = cli.ok("c4", "id", "app:v1")
    cli.ok("c4", "export", "app:v1", tmp_path / "app.c4m")
    (object_,) = (path for path in cli.store.glob("objects/*/*") if path.stat().st_size == 5000)
    right = object_.read_bytes()
    object_.chmod(0o644)
    object_.write_bytes(b"b" * 5000)
    assert cli.ok("c4", "id", "app:v1") == before
    assert cli("c4", "verify", tmp_path / "app.c4m", "app:v1").code == 5
    for path in cli.store.glob("cache/c4/*"):
        path.write_bytes(b"damaged")
    assert cli("c4", "id", "app:v1").code == 5
    object_.write_bytes(right)
    object_.chmod(0o444)
    assert cli.ok("c4", "id", "app:v1") == before
    cli.ok("fsck")
