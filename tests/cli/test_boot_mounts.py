"""Mounts that outlive a reboot: ``mount --persist`` and ``--all``, ``mount.stratum`` and fstab(5), ``init --migrate``.

A reboot is a mount namespace that is thrown away and a runtime directory that is empty again.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import SCRIPT, Command, Result

pytestmark = pytest.mark.root

HELPER = SCRIPT.with_name("mount.stratum")


class Machine:
    """What runs between two reboots, in a mount namespace of its own, where /sbin has ``mount.stratum``."""

    def __init__(self, cli: Command, directory: Path) -> None:
        self.cli = cli
        self.directory = directory
        self.sbin = directory / "sbin"
        for name in ("upper", "work"):
            (self.sbin / name).mkdir(parents=True)
        (self.sbin / "upper/mount.stratum").symlink_to(HELPER)

    def boot(self, script: str, *, helper: bool = False, check: bool = True) -> Result:
        """Run ``script`` (sh) on the machine, which was just started."""
        shutil.rmtree(self.cli.runtime_dir)
        self.cli.runtime_dir.mkdir(mode=0o700)
        sbin = f"lowerdir=/usr/sbin,upperdir={self.sbin}/upper,workdir={self.sbin}/work"
        first = f"mount -t overlay -o {sbin} overlay /usr/sbin\n" if helper else ""
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", first + script],
            env=self.cli.environment | {"PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"},
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def machine(cli: Command, tmp_path: Path) -> Machine:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"file": "from the stratum"}), "app")
    return Machine(cli, tmp_path)


def records(cli: Command) -> list[Path]:
    return sorted((cli.store / "mounts").glob("*"))


def test_mounts_come_back_after_a_reboot(machine: Machine, cli: Command) -> None:
    machine.boot(
        "mkdir w seed; stratum mount --persist app w; stratum mount --persist app:latest seed; echo more > w/more"
    )
    assert not list((machine.directory / "w").iterdir())  # it is gone
    done = machine.boot(
        "stratum mount --all; cat w/more; cat seed/file; ! touch seed/x 2> /dev/null; stratum mount --all; echo; "
        "stratum status app --format json"
    )
    assert done.stdout.splitlines()[:3] == [f"{machine.directory}/seed", f"{machine.directory}/w", "more"]
    assert done.stderr.count("already") == 2
    status = json.loads(done.stdout.partition("\n\n")[2] or done.stdout[done.stdout.index("[") :])
    assert status[0]["worktrees"][0]["at_boot"] == [f"{machine.directory}/w"]
    assert status[0]["at_boot"] == [{"ref": "app:latest", "mountpoint": f"{machine.directory}/seed"}]


def test_access_comes_back_too(machine: Machine) -> None:
    machine.boot("mkdir w; stratum mount --persist --read-only app w")
    machine.boot("stratum mount --all; ! touch w/x 2> /dev/null")


def test_what_is_mounted_already_is_put_on_record_and_taken_off(machine: Machine, cli: Command) -> None:
    machine.boot(
        "mkdir w; stratum mount app w; stratum mount --persist app+main w; stratum mount --persist app w; "
        "stratum mount --no-persist app w; stratum mount --all; cat w/file; stratum mount --persist app w"
    )
    assert len(records(cli)) == 1


def test_one_that_fails_does_not_stop_the_others(machine: Machine, cli: Command) -> None:
    machine.boot(
        "mkdir -p a b c d; stratum worktree add app+a; stratum worktree add app+b; stratum worktree add app+c; "
        "for x in a b c d; do stratum mount --persist app+$x $x || true; done; stratum mount --persist app d"
    )
    (machine.directory / "a").rmdir()
    records(cli)[0].write_bytes(b"[mount]\n")
    done = machine.boot("stratum mount --all", check=False)
    assert done.code == 1
    mounted = done.stdout.split()
    failures = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(failures) in (1, 2)  # the damaged record may be that of the missing directory
    assert len(mounted) + len(failures) == 4
    assert "of 4 could not be mounted" in done.stderr
    assert not (machine.directory / "a").exists()
    again = machine.boot("stratum mount --all --format json", check=False)
    assert again.code == 1
    table = json.loads(again.stdout)
    assert sorted(item["state"] for item in table) == ["failed"] * len(failures) + ["mounted"] * len(mounted)
    assert all((item["error"] is None) == (item["state"] == "mounted") for item in table)


def test_a_path_that_was_led_elsewhere_is_not_mounted_on(machine: Machine) -> None:
    machine.boot("mkdir -p home/data; stratum mount --persist app home/data")
    (machine.directory / "home").rename(machine.directory / "before")
    (machine.directory / "elsewhere/data").mkdir(parents=True)
    (machine.directory / "home").symlink_to("elsewhere")
    done = machine.boot("stratum mount --all", check=False)
    assert done.code == 1
    assert "symbolic link" in done.stderr
    assert not done.stdout


def test_unmount_says_that_it_comes_back_and_forget_ends_that(machine: Machine, cli: Command) -> None:
    done = machine.boot("mkdir w; stratum mount --persist app w; stratum unmount w")
    place = machine.directory / "w"
    assert f"stratum unmount --forget {place}" in done.stderr
    assert len(records(cli)) == 1
    assert cli("unmount", "--forget", place).code == 0  # it is not even mounted
    assert records(cli) == []
    assert cli("unmount", "--forget", place).code == 3
    for word in ("app", "w"):
        machine.boot(f"stratum mount --persist app w; stratum unmount w; stratum unmount --forget {word}")
        assert records(cli) == []
    machine.boot("stratum mount --persist app w; stratum unmount --forget app; ! test -e w/file")
    assert records(cli) == []
    assert "nothing" in machine.boot("stratum mount --all").stderr


def test_a_switched_mountpoint_comes_back_as_it_was_last(machine: Machine, cli: Command) -> None:
    cli.ok("worktree", "add", "app+other", "app:latest")
    machine.boot("mkdir w; stratum mount --persist app w; stratum worktree switch app+other w; echo > w/of-the-other")
    assert cli.json("worktree", "list", "app")[0]["at_boot"] == []
    machine.boot(
        "stratum mount --all; test -e w/of-the-other; mkdir v; stratum mount --persist app v; stratum unmount v"
    )
    refused = machine.boot("stratum mount --all; stratum unmount v; stratum worktree switch app w", check=False)
    assert refused.code == 4
    assert "at every start" in refused.stderr


def test_a_worktree_and_a_place_have_one_record(machine: Machine, cli: Command) -> None:
    machine.boot("mkdir w v; stratum mount --persist app w; stratum unmount w")
    other = cli("mount", "--persist", "app", machine.directory / "v")
    assert other.code == 4
    assert "at every start" in other.stderr
    assert cli("mount", "--persist", "app:latest", machine.directory / "w").code == 4
    assert cli("mount", "--persist", "app").code == 2  # a place of the runtime directory
    assert cli.json("status")[0]["worktrees"][0]["mounts"] == []
    assert len(records(cli)) == 1


def test_what_is_removed_is_not_mounted_any_more(machine: Machine, cli: Command) -> None:
    machine.boot(
        "mkdir w t u; stratum tag app:latest kept; stratum mount --persist app w; "
        "stratum mount --persist app:latest t; stratum mount --persist app:kept u"
    )
    assert f"{machine.directory}/u is not mounted" in cli("remove", "app:kept").stderr
    removed = cli.json("worktree", "remove", "app+main")
    assert removed["forgotten_mounts"] == [f"{machine.directory}/w"]
    assert len(records(cli)) == 1
    assert cli.json("remove", "--yes", "app")["forgotten_mounts"] == [f"{machine.directory}/t"]
    assert records(cli) == []


def test_a_renamed_tag_comes_back_by_its_new_name(machine: Machine, cli: Command) -> None:
    cli.ok("tag", "app:latest", "old")
    machine.boot("mkdir t; stratum mount --persist app:old t")
    cli.ok("tag", "--move", "app:old", "new")
    assert machine.boot("stratum mount --all > /dev/null; cat t/file").stdout == "from the stratum"
    assert cli.json("status", "app")[0]["at_boot"] == [{"ref": "app:new", "mountpoint": f"{machine.directory}/t"}]


def test_the_record_of_another_ref_is_not_taken_off(machine: Machine, cli: Command) -> None:
    machine.boot("mkdir t; stratum mount --persist app t; stratum unmount t; stratum mount --no-persist app:latest t")
    assert len(records(cli)) == 1


def test_gc_keeps_a_commit_that_is_mounted_by_hash(machine: Machine, cli: Command) -> None:
    commit = cli.ok("tag", "app:latest", "same", "--format", "json")
    commit = json.loads(commit)["commit"]
    machine.boot(f"mkdir t; stratum mount --persist app:{commit[:10]} t; stratum unmount t")
    cli.ok("import", "--bare", make_tree(machine.directory / "other", {"x": "y" * 100}), "app:other")
    cli.ok("remove", "app:latest")
    cli.ok("remove", "app:same")
    kept = cli.json("gc", "--reflog-age", "0")["kept"]
    assert any(
        commit in str(item) and "every start" in str(item)
        for item in (kept.items() if isinstance(kept, dict) else kept)
    )
    assert machine.boot("stratum mount --all; cat t/file").stdout.endswith("from the stratum")
    cli.ok("unmount", "--forget", machine.directory / "t")
    cli.ok("gc", "--reflog-age", "0")
    assert cli("show", commit).code == 3


def test_damaged_and_planted_records_are_named(machine: Machine, cli: Command) -> None:
    machine.boot("mkdir w; stratum mount --persist app w")
    (record,) = records(cli)
    good = record.read_bytes()
    assert cli("fsck").code == 0
    moved = record.with_name("0" * 32 + ".toml")
    for name, content in (
        (record, good.replace(b"/w", b"/etc")),
        (record, good.partition(b"\n[check]")[0].replace(b"app+main", b"app+mai2")),
        (moved, good),
        (moved, b'[mount]\nref = "app"\nmountpoint = "../x"\nread_only = false\nsince = ""\n'),
    ):
        record.unlink(missing_ok=True)
        name.write_bytes(content)
        found = cli("fsck")
        assert found.code == 5, content
        assert f"mounts/{name.name}" in found.stdout + found.stderr
        assert cli("gc").code in (0, 5)
        assert cli("status").code == 0
        name.unlink()
    record.symlink_to("/etc/passwd")
    assert cli("fsck").code == 5
    assert cli("mount", "--all").code == 1
    cli("fsck", "--repair")
    assert records(cli) == []
    assert cli("fsck").code == 0


def test_a_record_of_something_that_is_gone_is_told(machine: Machine, cli: Command) -> None:
    machine.boot("mkdir w; stratum mount --persist app w")
    (record,) = records(cli)
    good = record.read_bytes()
    cli.ok("worktree", "remove", "app+main")
    cli.ok("remove", "app:latest", "--yes")
    record.write_bytes(good)  # as a removal that was interrupted leaves it
    found = cli("fsck")
    assert found.code == 0
    assert "at every start" in found.stdout + found.stderr
    assert machine.boot("stratum mount --all", check=False).code == 1
    assert cli("unmount", "--forget", "app").code == 0


# fstab


def test_mount_and_umount_of_the_type_stratum(machine: Machine, cli: Command) -> None:
    done = machine.boot(
        "mkdir w; mount -t stratum app w; cat w/file; echo; echo x > w/new; findmnt -no OPTIONS w; umount w; "
        "stratum status app --format json; mount -t stratum -o ro,noatime,noexec app+main w; findmnt -no OPTIONS w; "
        "! touch w/no 2> /dev/null; umount w; mount -f -t stratum app w; ! test -e w/file",
        helper=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "from the stratum"
    assert lines[1].startswith("rw,nosuid,nodev")
    assert '"mounts": []' in done.stdout
    assert lines[-1].startswith("ro,nosuid,nodev,noexec,noatime")


def test_lines_of_fstab(machine: Machine, cli: Command) -> None:
    fstab = machine.directory / "fstab"
    cli.ok("tag", "app:latest", "v1")
    fstab.write_text(
        f"app+main {machine.directory}/w stratum defaults,nofail,x-systemd.requires-mounts-for={cli.store} 0 0\n"
        f"app:v1 {machine.directory}/t stratum ro,_netdev 0 0\n"
        f"app+main {machine.directory}/never stratum noauto,user 0 0\n"
    )
    script = (
        f"mkdir -p w t never; mount -a -T {fstab}; cat w/file t/file; ls never; mount -a -T {fstab}; "
        f"grep -c '{machine.directory}/[wt] .* overlay stratum-' /proc/self/mountinfo"
    )
    for _ in range(2):
        done = machine.boot(script + "; umount w t", helper=True)
        assert done.stdout.split("\n") == ["from the stratum" * 2 + "2", ""]


def test_the_helper_finds_another_store(machine: Machine, cli: Command) -> None:
    store, run = shlex.quote(str(cli.store)), shlex.quote(str(cli.runtime_dir))
    machine.boot(
        f"unset STRATUM_STORE STRATUM_RUNTIME_DIR; mkdir w; "
        f"mount -t stratum -o store={store},runtime_dir={run} app w; cat w/file",
        helper=True,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["app"], 1, "Missing argument"),
        (["app", "w", "x"], 1, "unexpected extra argument"),
        (["app", "w", "-x"], 1, "No such option '-x'"),
        (["app", "w", "-o"], 1, "requires an argument"),
        (["app", "w", "-o", "rw,size=5"], 1, "size=5 is not an option"),
        (["app", "w", "-o", "suid"], 1, "suid is not an option"),
        (["app", "w", "-o", "remount,ro"], 1, "remount is not an option"),
        (["a+b:c", "w"], 1, "both"),
        (["none", "w"], 32, "no stratum"),
        (["app", "missing"], 32, "does not exist"),
        (["app", "w", "-N", "/proc/1/ns/mnt"], 1, "namespace"),
        (["app+other", "w", "-sfnv", "-o", "size=5"], 32, "no worktree"),
    ],
)
def test_exit_codes_of_the_helper(machine: Machine, cli: Command, arguments: list[str], code: int, words: str) -> None:
    (machine.directory / "w").mkdir()
    done = subprocess.run(
        [HELPER, *arguments], env=cli.environment, cwd=machine.directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert all(line.startswith("mount.stratum: ") for line in done.stderr.splitlines())
    assert not (machine.directory / "missing").exists()


def test_only_root_mounts(machine: Machine, cli: Command) -> None:
    for path in (cli.store, cli.runtime_dir):
        subprocess.run(["chown", "-R", "65534:65534", path], check=True)
    for parent in (machine.directory, *machine.directory.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    (machine.directory / "w").mkdir()
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", HELPER, "app:latest", machine.directory / "w"],
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr


# init


def test_a_migrated_directory_comes_back(machine: Machine, cli: Command) -> None:
    done = machine.boot("mkdir d; echo day 0 > d/f; stratum init --migrate home d; echo day 1 > d/f")
    assert (machine.directory / "d/f").read_text() == "day 0\n"
    assert "below the mount" in done.stderr
    look = next(line for line in done.stderr.splitlines() if line.startswith("    unshare "))
    seen = machine.boot(f"stratum mount --all; cat d/f; {look}; cat d/f")
    assert seen.stdout.split("\n")[1] == "day 1"
    assert " f\n" in seen.stdout
    assert seen.stdout.endswith("day 1\n")


def test_originals_are_moved_aside(machine: Machine, cli: Command) -> None:
    place = machine.directory / "d"
    tree = make_tree(place, {"f": "day 0", "sub/g": "more"})
    os.chown(tree, 1000, 1001)
    tree.chmod(0o750)
    number = (place / "sub/g").stat().st_ino
    done = machine.boot("stratum init --migrate --originals aside home d --format json; ls -A d | wc -l")
    made, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert made["persistent"] is True
    assert made["originals"] == {"path": f"{machine.directory}/aside", "below_the_mount": False, "size": made["size"]}
    aside = machine.directory / "aside"
    assert (aside / "sub/g").stat().st_ino == number
    assert (aside / "f").read_text() == "day 0"
    info = aside.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1000, 1001, 0o750)
    assert list(place.iterdir()) == []
    assert machine.boot("stratum mount --all > /dev/null; cat d/f").stdout == "day 0"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--originals", "d/inside"], 2),
        (["--originals", "store/inside"], 2),
        (["--originals", "full"], 4),
        (["--originals", "other"], 4),
        (["--originals", "none/there"], 3),
        (["--originals", "aside", "--no-persist"], 2),
        (["--uid", "5"], 2),
    ],
)
def test_originals_that_cannot_go_there_stop_the_migration(machine: Machine, options: list[str], code: int) -> None:
    make_tree(machine.directory / "full", {"x": "1"})
    make_tree(machine.directory / "d", {"f": "1"})
    line = shlex.join(["stratum", "init", "--migrate", "home", "d", *options])
    done = machine.boot(
        f"mkdir other; mount -t tmpfs tmpfs other; {line} && code=0 || code=$?; cat d/f; "
        "! stratum list home 2> /dev/null; ! test -e d/inside; ! test -e aside; echo; echo $code"
    )
    assert done.stdout.split() == ["1", str(code)], done.stderr


def test_an_empty_stratum_can_persist_and_belong_to_somebody(machine: Machine) -> None:
    machine.boot("mkdir d; stratum init home d --persist --uid 1000 --gid 1001 --mode 2770")
    shown = machine.boot("stratum mount --all > /dev/null; stat -c %u:%g:%a d").stdout
    assert shown == "1000:1001:2770\n"
