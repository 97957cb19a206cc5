"""Mounts of ordinary users: each way that kernels take them, found by trying, on record whoever looks from where."""

from __future__ import annotations

import json
import os
import signal
import sys
from textwrap import dedent
from typing import Any

import pytest

from stratum.sys.proc import boot_id
from tests.support.command import SCRIPT
from tests.support.gates import eventually
from tests.support.rootless import User

pytestmark = pytest.mark.root

SOURCE = """
    mkdir -p src/sub && cd src && head -c 100000 /dev/urandom > big && ln big hard && ln -s big link && mkfifo fifo
    truncate -s 1M hole && echo text >> hole && echo small > small && chown 5:6 small && chmod 4750 small
    setfattr -n user.overlay.mine -v 1 big && mkdir -m 1777 sub/deep && chown 7:0 sub && touch -d @1000.5 sub/old
"""
TOOLS = """
import json, os, sys
from pathlib import Path
from stratum.api.session import Session
from stratum.config import load_config
from stratum.frozen import replace
from stratum.mount.build import build_detached
from stratum.mount.plan import LayerSyntax, Lower, Method
from stratum.mount.state import State
from stratum.refs import parse_ref

HOME = Path(os.environ["HOME"])
session = Session(load_config())
def plan_of(ref):
    commit = session.store.resolve(parse_ref(ref)).commit
    return replace(session.plan(commit), image=session.image(commit))
def seen(top):
    found = {}
    for directory, names, files, fd in os.fwalk(".", dir_fd=top):
        for name in [*names, *files]:
            info, path = os.lstat(name, dir_fd=fd), f"/proc/self/fd/{fd}/{name}"
            about = [info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns]
            if name in files and not os.path.islink(path):
                about += [info.st_nlink, info.st_size, os.listxattr(path)]
                about += [hash(Path(path).read_bytes())] if os.path.isfile(path) else []
            found[os.path.join(directory, name)] = str(about)
    return found
"""


def make_app(user: User) -> None:
    """``app:v1`` of a directory with files of all kinds, of several owners, and the worktree ``app+main``."""
    user.inside("sh", "-ec", dedent(SOURCE))
    user.ok("import", "src", "app:v1")
    user.ok("worktree", "add", "app+main", "app:v1")


def python(user: User, script: str, *before: str, **env: str) -> Any:
    """What a Python script of the user prints as JSON; in the session namespace, if ``before`` does not say another."""
    argv = [*(before or (SCRIPT, "unshare", "--")), sys.executable, "-c", TOOLS + dedent(script)]
    return json.loads(user.run(*argv, env=env).stdout)


def test_each_way_of_kernels_to_take_layers_shows_the_same_tree(user: User) -> None:
    """The ways of older kernels, which the one here takes, too: layers that are attached, by name, or all in a row."""
    make_app(user)
    script = """
        plan, different, written = plan_of("app:v1"), [], []
        source = os.open(HOME / "src", os.O_RDONLY)
        ways = [(LayerSyntax.LIST, Lower.DATA)]
        for lower in (Lower.METADATA, Lower.DATA, Lower.DIRECTORY):
            ways += [(syntax, lower) for syntax in LayerSyntax if syntax is not LayerSyntax.LIST]
        for number, (syntax, lower) in enumerate(ways):
            method = Method(syntax, attached_layers=syntax is not LayerSyntax.FD, lower=lower)
            mount = build_detached(plan, method)
            if (shown := seen(mount)) != (wanted := seen(source)):
                different.append([str(method), sorted(set(shown.items()) ^ set(wanted.items()))])
            os.close(mount)
            upper, work = HOME / str(number) / "upperdir", HOME / str(number) / "workdir"
            upper.mkdir(parents=True), work.mkdir()
            mount = build_detached(replace(plan, upperdir=upper, workdir=work), method)
            with open(os.open("hole", os.O_WRONLY | os.O_APPEND, dir_fd=mount), "w") as file:
                file.write("more")
            os.unlink("small", dir_fd=mount)
            os.close(mount)
            written.append([[path.name, path.lstat().st_size, path.is_file()] for path in sorted(upper.iterdir())])
        print(json.dumps([different, written]))
    """
    different, written = python(user, script, STRATUM_USER_MOUNTS="directory")
    assert not different
    assert written == [[["hole", (1 << 20) + 9, True], ["small", 0, False]]] * 10
    eventually(lambda: [line for line in user.processes().values() if "catatonit" not in line] == [], "servers end")


def test_the_way_is_found_by_trying_and_forced_by_a_setting(user: User) -> None:
    """What works is noted, but for directories of names, which are used for as long as nobody can open /dev/fuse; they
    go with their commits."""
    make_app(user)
    user.ok("mount", "app", "m")
    note = user.runtime / "stratum/user-mounts"
    assert note.read_text() == f"{boot_id()} metadata\n"
    user.ok("unmount", "m")
    note.write_text(f"{boot_id()} data\n")
    script = f"""
        stratum() {{ {SCRIPT} "$@"; }}
        trees=.local/share/stratum/cache/trees
        stratum mount app m; grep -c datadir /proc/self/mountinfo; stratum unmount m
        mount --bind /dev/fuse /dev/fuse; mount -o remount,bind,nodev /dev/fuse
        stratum mount app m; grep -o "lowerdir+=.*/trees/" /proc/self/mountinfo; cat m/small; echo more >> m/big
        stratum commit app v2; stratum unmount m
        for way in metadata data; do STRATUM_USER_MOUNTS=$way stratum mount app:v2 n 2>&1 || echo $?; done
        ls $trees | grep -vc used; stratum remove app --yes; stratum gc >&2; ls $trees | wc -l
    """
    lines = user.inside("unshare", "-m", "sh", "-c", dedent(script)).stdout.splitlines()
    assert note.read_text() == f"{boot_id()} data\n"
    image = user.store / "cache/images" / f"{lines[5]}.cfs"
    refusal = f"error: cannot mount {image}: /dev/fuse: Permission denied"
    hint = "hint: 'stratum restore REF / --to DIR' writes the files out instead"
    mountpoint = str(user.home / "m")
    shown = [mountpoint, "0", mountpoint, f"lowerdir+={user.store}/cache/trees/", "small", lines[5]]
    assert lines == [*shown, *((refusal, hint, "6") * 2), "1", "0"]


@pytest.mark.parametrize("way", ["metadata", "directory"])
def test_what_is_mounted_of_the_cache_stays_and_the_rest_may_go(user: User, way: str) -> None:
    """Images that a server shows, and directories that stand in for them, also of mounts that are on another record."""
    make_app(user)
    evict = ("cache", "evict", "--images", "0")
    elsewhere = {"STRATUM_USER_MOUNTS": way, "STRATUM_RUNTIME_DIR": str(user.home / "elsewhere")}
    user.ok("mount", "app:v1", "m", env=elsewhere)
    for place in (user.store / "cache").glob("*s/*[ds]"):
        os.utime(place, (0, 0), follow_symlinks=False)
    assert user.json(*evict)["evicted_images"] == 0
    assert user.inside("cat", "m/small").stdout == "small\n"
    assert user.json("cache", "status")["images"]["count"] == 1
    user.ok("unmount", "m", env=elsewhere)
    eventually(lambda: user.json(*evict)["evicted_images"] == 1, "nobody has it")
    assert not list((user.store / "cache").glob("*s/*[0-9a-f]"))


def test_records_of_live_mounts_stay_whoever_looks(user: User, other_user: User) -> None:
    for each in (other_user, user):  # what others call the same is nothing to a user
        make_app(each)
        each.ok("mount", "app", "m")
    look = """
        from stratum.mount.record import mounts_of
        records = State(session.config.runtime_dir).records()
        print(json.dumps([*([each.ref, each.held_by()] for each in records), any(mounts_of("app+main"))]))
    """
    expected = [["app+main", "this user's session"], True]
    for namespace in ([], ["env"], ["unshare", "-Urm"], ["podman", "unshare", "unshare", "-Urm"]):
        assert python(user, look, *namespace) == expected
    assert "(this user's session" in user.ok("status")
    assert user.json("status")[0]["worktrees"][0]["mounts"][0]["namespace"] == "session"
    assert "is mounted already" in user.stratum("mount", "app", "n").stderr
    kill(user, "stratum-metafs")
    assert "not connected" in user.inside("cat", "m/big", check=False).stderr
    assert "; its server was killed: stratum reconcile" in user.ok("status")
    assert "app+main at " in user.stratum("reconcile").stderr
    assert user.inside("cat", "m/small", "m/sub/old").stdout == "small\n"
    kill(user, "catatonit")
    eventually(lambda: python(user, look, "env") == [False], "the mount goes with the session")
    assert user.ok("mount", "app", "m")


def kill(user: User, program: str) -> None:
    """Kill each process of the user that has ``program`` in its command line."""
    for pid in [pid for pid, line in user.processes().items() if program in line]:
        os.kill(pid, signal.SIGKILL)


def test_a_container_gets_owners_as_it_has_them_or_is_told_why_not(user: User) -> None:
    make_app(user)
    script = """
        import subprocess
        from stratum.mount.container import ContainerProcess
        from stratum.errors import StratumError

        def in_container(ids, ref):
            process = subprocess.Popen(["unshare", "-Um", "sh", "-c", "echo; exec sleep 99"], stdout=subprocess.PIPE)
            process.stdout.readline()
            try:
                for name in ("uid_map", "gid_map"):
                    Path(f"/proc/{process.pid}/{name}").write_text(ids)
                with ContainerProcess(process.pid) as container:
                    if "+" not in ref:
                        mount = container.build(plan_of(ref))
                    else:
                        with session.hold(ref) as held:
                            mount = container.build(held.plan())
                shown = [os.lstat(f"/proc/self/fd/{mount}/{name}") for name in ("big", "small", "sub")]
                os.close(mount)
                return [[info.st_uid, info.st_gid] for info in shown]
            except StratumError as exc:
                return [exc.exit_code, exc.message, exc.hint]
            finally:
                process.kill()
                process.wait()

        keep_id = "0 1 1000\\n1000 0 1\\n1001 1001 60000"
        answers = [in_container(ids, ref) for ids in (keep_id, "0 2000 6") for ref in ("app:v1", "app+main")]
        session = Session(load_config(user_mounts="directory"))
        print(json.dumps([*answers, in_container("0 2000 6", "app:v1")]))
    """
    kept, writable, translated, refused, closed = python(user, script)
    assert kept == writable == [[0, 0], [5, 6], [7, 0]]
    assert translated == [[2000, 2000], [2005, 65534], [65534, 2000]]
    assert refused[0] == 6
    assert refused[1].startswith("a worktree cannot be mounted for the container's process ")
    assert "--userns=keep-id" in refused[2]
    assert closed[0] == 6
    assert closed[1].startswith("nothing translates owners for the container's process ")
