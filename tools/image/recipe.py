"""What the Containerfile says of an image. Pure.

It is the one description: what ``podman build`` carries out is read here. So only such steps are understood as can be
carried out without running anything of the image; another one is refused.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

from tools.setup.pip import SetupError

_BASE = re.compile(r"docker\.io/library/debian:(\w+)-slim")
_APT_UPDATE = ["apt-get", "update"]
_APT_INSTALL = ["apt-get", "install", "--yes", "--no-install-recommends"]
_APT_CLEAN = ["rm", "-rf", "/var/lib/apt/lists/*"]
_INSTALL = ["python3", "-m", "tools.install"]
_OUT = "/out"
"""Where the installation is made that is copied into the image."""


@dataclass(frozen=True)
class Recipe:
    """``suite`` of Debian, ``packages`` of it, the project with ``extras`` in ``prefix``; environment and program."""

    suite: str
    packages: tuple[str, ...]
    prefix: str
    extras: str | None
    environment: tuple[str, ...]
    entrypoint: tuple[str, ...]


@dataclass
class _Stage:
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Found:
    """What steps said so far."""

    packages: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)


def read_recipe(text: str, target: str) -> Recipe:
    """The recipe of the stage ``target`` of a Containerfile. ``SetupError`` where it says what nobody here can do."""
    defaults, stages = _parse(text)
    found = _Found()
    base = target
    chain = []
    while base in stages:
        chain.append(stages[base])
        base = stages[base].base
    if not chain:
        raise _unknown(f"no stage is called {target}")
    suite = _BASE.fullmatch(base.replace("${BASE}", defaults.get("BASE", "")))
    if suite is None:
        raise _unknown(f"{base} is no Debian in its slim form")
    for stage in reversed(chain):
        for name, rest in stage.steps:
            _step(name, rest, found)
    if len(found.copied) != 3 or not found.entrypoint:
        raise _unknown(f"the stage {target} copies no installation, or starts no program")
    stage, source, prefix = found.copied
    extras = _extras(stages[stage.removeprefix("--from=")], prefix)
    if source != f"{_OUT}{prefix}":
        raise _unknown(f"COPY {' '.join(found.copied)}")
    return Recipe(suite[1], tuple(found.packages), prefix, extras, tuple(found.environment), tuple(found.entrypoint))


def _parse(text: str) -> tuple[dict[str, str], dict[str, _Stage]]:
    """Defaults of arguments, and stages by their names."""
    defaults: dict[str, str] = {}
    stages: dict[str, _Stage] = {}
    last: _Stage | None = None
    for line in re.sub(r"\\\n", " ", text).splitlines():
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if not name or name.startswith("#"):
            continue
        if name == "ARG" and last is None:
            key, _, value = rest.partition("=")
            defaults[key] = value
        elif name == "FROM":
            base, _, called = rest.partition(" AS ")
            last = stages[called] = _Stage(base)
        elif last is not None:
            last.steps.append((name, rest))
        else:
            raise _unknown(line)
    return defaults, stages


def _step(name: str, rest: str, found: _Found) -> None:
    """Take in one step of the image itself."""
    if name == "RUN":
        found.packages += _packages(rest)
    elif name == "ENV":
        found.environment += shlex.split(rest)
    elif name == "ENTRYPOINT":
        found.entrypoint = json.loads(rest)
    elif name == "COPY" and rest.startswith("--from="):
        found.copied = rest.split()
    else:
        raise _unknown(f"{name} {rest}")


def _packages(command: str) -> list[str]:
    """The Debian packages that a command installs."""
    parts = [shlex.split(part) for part in command.split("&&")]
    if len(parts) != 3 or parts[0] != _APT_UPDATE or parts[2] != _APT_CLEAN or parts[1][:4] != _APT_INSTALL:
        raise _unknown(f"RUN {command}")
    return parts[1][4:]


def _extras(stage: _Stage, prefix: str) -> str | None:
    """Of the project, what an installation at ``prefix`` has; None for what ``make install`` takes."""
    ((name, rest),) = stage.steps
    words = shlex.split(rest)
    extras = None
    if "--extras" in words:
        place = words.index("--extras")
        extras = words[place + 1]
        del words[place : place + 2]
    if name != "RUN" or words != [*_INSTALL, "--prefix", prefix, "--destdir", _OUT, "install"]:
        raise _unknown(f"{name} {rest}")
    return extras


def _unknown(what: str) -> SetupError:
    return SetupError(f"Containerfile: {what}", "tools/image/recipe.py has the steps that images are made of here")
