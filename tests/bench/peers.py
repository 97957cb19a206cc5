"""What keeps versions of a directory besides Stratum: how each is told to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.bench.measure import Entrant
from tests.support.capabilities import program

Command = Sequence[str | Path]


class Keeper(ABC):
    """A program with a repository of its own in ``repository``."""

    name = ""
    again = True
    """Whether it can add to what it has."""

    def __init__(self, directory: Path) -> None:
        self.repository = directory / self.name
        self.environment: dict[str, str] = {}

    def make(self) -> Command | None:
        """Make an empty repository."""
        return None

    @abstractmethod
    def keep(self, tree: Path) -> Command:
        """Add a version of ``tree``."""

    def differences(self) -> Command | None:
        """List what differs between the last two versions."""
        return None

    def status(self) -> Command | None:
        """List what changed since the last version."""
        return None

    def clean(self) -> Command | None:
        """Remove what no version needs."""
        return None

    def fresh(self) -> None:
        """Begin with an empty repository."""
        if self.repository.exists():
            shutil.rmtree(self.repository)
        self.repository.mkdir(parents=True)
        command = self.make()
        if command is not None:
            self.run_unmeasured(command)

    def run_unmeasured(self, command: Command) -> str:
        """Run a command that must succeed; its output."""
        done = subprocess.run(
            command, env=os.environ | self.environment, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        return done.stdout.decode().strip()

    def entrant(self, command: Command) -> Entrant:
        """``command`` as an entrant of a job."""
        return Entrant(self.name, command, self.environment, keeps=self.repository)


class Stratum(Keeper):
    name = "stratum"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.script = Path(sys.executable).with_name("stratum")
        self.environment = {
            "STRATUM_STORE": str(self.repository / "store"),
            "STRATUM_RUNTIME_DIR": str(directory / "run"),
            "PYTHONDONTWRITEBYTECODE": "",  # as it is installed: compiled once, not at every start
        }

    def run(self, *args: str | Path) -> str:
        """Run a verb that must succeed, unmeasured; its output."""
        return self.run_unmeasured([self.script, "--quiet", *args])

    def verb(self, *args: str | Path) -> Entrant:
        """A verb as an entrant."""
        return self.entrant([self.script, "--quiet", *args])

    def keep(self, tree: Path) -> Command:
        return [self.script, "--quiet", "import", "--bare", tree, "app"]

    def differences(self) -> Command:
        return [self.script, "diff", "app+dev"]

    def status(self) -> Command:
        return [self.script, "status", "app+dev"]

    def clean(self) -> Command:
        return [self.script, "--quiet", "gc"]


class Ostree(Keeper):
    name = "ostree"

    def make(self) -> Command:
        return ["ostree", f"--repo={self.repository}", "init", "--mode=bare"]

    def keep(self, tree: Path) -> Command:
        return ["ostree", f"--repo={self.repository}", "commit", "--branch=main", f"--tree=dir={tree}"]

    def differences(self) -> Command:
        return ["ostree", f"--repo={self.repository}", "diff", "main^", "main"]

    def clean(self) -> Command:
        return ["ostree", f"--repo={self.repository}", "prune", "--refs-only"]


class Restic(Keeper):
    name = "restic"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        cache = directory / "restic-cache"
        self.environment = {
            "RESTIC_PASSWORD": "x",
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_CACHE_DIR": str(cache),
        }

    def make(self) -> Command:
        return ["restic", "init"]

    def keep(self, tree: Path) -> Command:
        return ["restic", "--quiet", "backup", tree]

    def clean(self) -> Command:
        return ["restic", "--quiet", "prune"]


class Borg(Keeper):
    name = "borg"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.environment = {
            "BORG_BASE_DIR": str(directory / "borg-base"),
            "BORG_REPO": str(self.repository),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def make(self) -> Command:
        return ["borg", "init", "--encryption=none"]

    def keep(self, tree: Path) -> Command:
        return ["borg", "create", "::{now:%H%M%S%f}", tree]

    def clean(self) -> Command:
        return ["borg", "compact"]


class Git(Keeper):
    name = "git"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        who = {
            f"GIT_{role}_{part}": "bench@example.com" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
        }
        self.environment = who | {"GIT_DIR": str(self.repository), "GIT_CONFIG_GLOBAL": "/dev/null"}
        self.tree = Path()

    def make(self) -> Command:
        return ["sh", "-c", "git init --quiet && git config core.bare false"]

    def keep(self, tree: Path) -> Command:
        self.tree = tree  # which is where git is to be: the directory it is in is its work tree
        return ["sh", "-c", f"cd '{tree}' && git add --all && git -c gc.auto=0 commit --quiet --allow-empty -m x"]

    def differences(self) -> Command:
        return ["git", "diff", "--name-status", "HEAD~1", "HEAD"]

    def status(self) -> Command:
        return ["git", "-C", self.tree, "status", "--porcelain"]

    def clean(self) -> Command:
        return ["git", "gc", "--quiet"]


class Casync(Keeper):
    name = "casync"

    def keep(self, tree: Path) -> Command:
        store = self.repository / "store.castr"
        return ["casync", "make", f"--store={store}", self.repository / "index.caidx", tree]


class Mkcomposefs(Keeper):
    name = "mkcomposefs"

    def keep(self, tree: Path) -> Command:
        objects = self.repository / "objects"
        return [program("mkcomposefs"), f"--digest-store={objects}", tree, self.repository / "image.cfs"]


class Copy(Keeper):
    name = "cp"
    again = False

    def keep(self, tree: Path) -> Command:
        return ["cp", "--archive", tree, self.repository / "copy"]


KEEPERS: tuple[type[Keeper], ...] = (Ostree, Restic, Borg, Git, Casync, Mkcomposefs, Copy)
