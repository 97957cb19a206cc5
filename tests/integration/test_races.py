"""Many processes at one store: importers, committers, pullers, mounters, collectors and checkers, all at once.

``STRATUM_TEST_RACE_SECONDS`` says for how long (default 5).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stratum.store import Store
from tests.support import hydrating
from tests.support.leftovers import unmount_below
from tests.support.stores import leftovers
from tests.support.verbs import Scene

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

SECONDS = float(os.environ.get("STRATUM_TEST_RACE_SECONDS", "5"))

# Exit codes that another process may cause: not found, conflict or busy. Damage and failures it may not.
WORKER = """
import contextlib, io, os, pathlib, random, sys, time
from stratum.cli.start import run
directory, name, until, seed = sys.argv[1:]
rng = random.Random(int(seed))
scratch = pathlib.Path(directory, name)
(scratch / "mnt").mkdir(parents=True)
(scratch / "source").mkdir()
options = ["--quiet", "--store", f"{directory}/store", "--runtime-dir", f"{directory}/run"]
def verb(*args, allowed=(0, 3, 4)):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = run([*options, *map(str, args)])
    assert code in allowed, (name, args, code, err.getvalue())
    return code
def importing():
    (scratch / "source" / f"f{rng.randrange(20)}").write_bytes(rng.randbytes(100) * rng.randrange(1, 90))
    forced = rng.choice([(), ("--force",)])
    verb("import", "--bare", *forced, scratch / "source", f"{rng.choice(['app', 'other'])}:t{rng.randrange(4)}")
def committing():
    tree = f"app+{name}"
    verb("worktree", "add", tree, f"app:t{rng.randrange(4)}")
    if verb("mount", tree, scratch / "mnt") == 0:
        (scratch / "mnt" / "own").write_text(str(time.time_ns()) * 100)
        verb("commit", tree, f"c{rng.randrange(4)}", "--force")
        verb(rng.choice(["reset", "rebase"]), scratch / "mnt", f"app:t{rng.randrange(4)}")
        verb("unmount", scratch / "mnt", allowed=(0,))
    verb("commit", tree)
def removing():
    verb("worktree", "remove", f"app+{name}")
    verb("remove", rng.choice([f"app:t{rng.randrange(4)}", f"app:c{rng.randrange(4)}", f"other:t{rng.randrange(4)}"]))
def tagging():
    verb("tag", "--force", f"app:t{rng.randrange(4)}", f"t{rng.randrange(4)}")
def looking():
    if verb("mount", f"app:t{rng.randrange(4)}", scratch / "mnt") == 0:
        for path in (scratch / "mnt").rglob("*"):
            if path.is_file():
                path.read_bytes()
        verb("unmount", scratch / "mnt", allowed=(0,))
    verb("status")
def collecting():
    verb("gc", *rng.choice([(), ("--keep-last", "1"), ("--reflog-age", "0")]))
def checking():
    verb("fsck", rng.choice(["--quick", "--read-data"]), allowed=(0,))
def pulling():
    verb("pull", *rng.choice([(), ("--force",)]), f"oci:{directory}/layout:latest", f"app:t{rng.randrange(4)}")
def building():
    verb("patchset", "build", f"{directory}/patchset.toml", f"app:t{rng.randrange(4)}", "--force")
def pulling_lazily():
    verb("pull", "--lazy", "--force", f"oci:{directory}/layout:latest", f"app:t{rng.randrange(4)}")
def pushing():
    verb("push", f"app:t{rng.randrange(4)}", f"oci:{scratch}/layout:t{rng.randrange(4)}")
def evicting():
    verb("cache", "evict", "--to", rng.choice(["0", "100K"]), "--older-than", "0")
def realizing():
    verb(rng.choice(["realize", "unrealize"]), f"app:t{rng.randrange(4)}")
WHOLE = [importing, importing, committing, committing, removing, tagging, looking, collecting, checking, pulling,
         building]
LAZY = [pulling_lazily, pulling_lazily, pushing, evicting, evicting, realizing, looking, checking]
while time.time() < float(until):
    rng.choice(WHOLE + LAZY if os.environ.get("LAZY") else WHOLE)()
"""


@pytest.mark.parametrize("lazily", [False, True], ids=["whole", "lazily"])
def test_everybody_at_once(tmp_path: Path, lazily: bool) -> None:
    """Also with content that comes and goes: nothing is damaged, and whoever reads has what there should be."""
    scene = Scene(tmp_path)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    until = time.time() + SECONDS
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, tmp_path, f"w{number}", str(until), str(seed + number)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LAZY": "1" if lazily else ""},
        )
        for number in range(6)
    ]
    try:
        said = [worker.communicate()[1].decode() for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * len(workers), "\n".join(said)
        scene.check(set(scene.store.commits.list()))
        scene.check_after_next(set(scene.store.commits.list()))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        unmount_below(tmp_path)
        hydrating.stop(scene.runtime_dir)


def test_two_who_want_the_same_tag(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.verb("worktree", "add", "app+two", "app:v2")
    for number in range(5):
        (scene.store.worktrees.get("app", "dev").upperdir / "x").write_text(str(number))
        (scene.store.worktrees.get("app", "two").upperdir / "y").write_text(str(number))
        program = "import sys; from stratum.cli.start import run; sys.exit(run(sys.argv[1:]))"
        options = ["--store", scene.store_dir, "--runtime-dir", scene.runtime_dir]
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", program, *options, "commit", f"app+{tree}", f"tag{number}"],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            for tree in ("dev", "two")
        ]
        said = [racer.communicate()[1].decode() for racer in racers]
        assert sorted(racer.returncode for racer in racers) == [0, 4], said
        loser = said[0 if racers[0].returncode else 1]
        assert f"app:tag{number}" in loser
        winner = "two" if racers[0].returncode else "dev"
        store = Store.open(scene.store_dir)
        assert store.tags.get("app", f"tag{number}") == store.worktrees.get("app", winner).commit
    assert not leftovers(scene.store)
    scene.clean()
