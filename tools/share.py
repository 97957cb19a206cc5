"""What is installed beside the package: man pages, completion, units, examples and schemas of JSON, by where they go
below ``share/``.

``python -m tools.share DIRECTORY`` writes what is made from the command line itself. The wheel carries all of it, and
``make install`` and the Debian package put the wheel's files where the system looks for them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
COMPLETION = {
    "bash": "bash-completion/completions/stratum",
    "zsh": "zsh/site-functions/_stratum",
    "fish": "fish/vendor_completions.d/stratum.fish",
}
"""Shell -> file below ``share/`` that it looks into by itself."""
UNITS = "stratum/systemd"
USER_UNITS = "stratum/systemd-user"
"""Those of the managers of users."""
EXAMPLES = "stratum/examples"
UNIT_KINDS = (".service", ".socket", ".timer")


def version() -> str:
    """The project's."""
    found = re.search(r'^__version__ = "([^"]+)"', (CHECKOUT / "stratum/__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def commit_time() -> int:
    """The time of all that is made of the checkout, in seconds since 1970."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or of_last_commit("%ct")
    return int(epoch or (CHECKOUT / "CHANGELOG.md").stat().st_mtime)


def of_last_commit(what: str) -> str:
    """What git says of the last commit of the checkout; empty where it is none."""
    command = ["git", "-C", str(CHECKOUT), "log", "-1", f"--format={what}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("git") else None
    return done.stdout.strip() if done is not None and done.returncode == 0 else ""


def kept() -> dict[str, Path]:
    """Files that are in the checkout as they are installed: place below ``share/`` -> file."""
    hooks = CHECKOUT / "oci-hooks"
    found = {
        f"{place}/{path.name}": path
        for place, directory in ((UNITS, hooks), (USER_UNITS, hooks / "user"))
        for path in sorted(directory.iterdir())
        if path.suffix in UNIT_KINDS
    }
    found[f"{EXAMPLES}/policy.toml"] = hooks / "policy.toml"
    found |= {f"man/man8/{path.name}": path for path in sorted((CHECKOUT / "tools/man").iterdir())}
    found |= {f"{EXAMPLES}/quadlet/{path.name}": path for path in sorted((hooks / "quadlet").iterdir())}
    found |= {f"{EXAMPLES}/schemas/{path.name}": path for path in sorted((CHECKOUT / "docs/schemas").glob("*.json"))}
    return found


def make(directory: Path) -> dict[str, Path]:
    """Write the files that are made from the command line to ``directory``: place below ``share/`` -> file."""
    from tools.manpages import main as write_pages

    write_pages(directory / "man/man1")
    for shell, place in COMPLETION.items():
        path = directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        said = subprocess.run([sys.executable, "-m", "stratum", "completion", shell], check=True, capture_output=True)
        path.write_bytes(said.stdout)
    return {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    make(Path(sys.argv[1]))
