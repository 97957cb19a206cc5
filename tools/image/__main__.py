"""``python3 -m tools.image``: the image that the Containerfile describes, for several platforms, without a builder.

It needs apt, dpkg-deb and Python with pip, and neither root nor anything that runs containers. In ``dist`` are then an
OCI layout and the same as one archive. The same checkout and the same packages of Debian give the same bytes; times are
those of the last commit, or ``SOURCE_DATE_EPOCH``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.image.debian import MACHINES, fetch_packages, foreign, python_version, run_python, unpack
from tools.image.layout import Document, Layout, pack, replace_directory
from tools.image.recipe import Recipe, read_recipe
from tools.install.installing import Target, install
from tools.install.places import Places
from tools.install.tree import EXTRAS, Builder, builder_for, make_tree
from tools.setup.pip import SetupError
from tools.share import CHECKOUT, commit_time, version

NAMES = {"csi": "stratum-csi", "cli": "stratum"}
CACHE = CHECKOUT / ".cache/image"


def main() -> int:
    """The program; the exit status."""
    args = command_line().parse_args()
    os.umask(0o022)
    try:
        _make(args)
    except SetupError as exc:
        sys.stderr.write(f"error: {exc}\n" + (f"hint: {exc.hint}\n" if exc.hint else ""))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
    return 0


def command_line() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="tools.image", description=__doc__)
    parser.add_argument("--target", choices=NAMES, default="csi", help="stage of the Containerfile; default: csi")
    parser.add_argument(
        "--architectures", default=",".join(MACHINES), help="with commas; default: %(default)s", metavar="LIST"
    )
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist", metavar="DIR")
    parser.add_argument("--python", type=Path, default=Path("/usr/bin/python3"), help="has venv, for pip")
    return parser


def _make(args: argparse.Namespace) -> None:
    architectures = [each for each in args.architectures.split(",") if each]
    unknown = sorted(set(architectures) - set(MACHINES))
    if unknown or not architectures:
        raise SetupError(f"no image is made for {', '.join(unknown) or 'nothing'}", f"there are {', '.join(MACHINES)}")
    recipe = read_recipe((CHECKOUT / "Containerfile").read_text("utf-8"), args.target)
    name = NAMES[args.target]
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".image-", dir=args.output) as work:
        maker = _Maker(recipe, name, Path(work), builder_for(args.python, recipe.extras or EXTRAS))
        digest = maker.make(architectures)
        target = args.output / f"{name}-{version()}"
        pack(maker.layout.place, Path(f"{target}.tar"), maker.layout.epoch)
        replace_directory(maker.layout.place, target)
    _say(f"{name} is {digest}")
    print(f"{target}.tar")


class _Maker:
    def __init__(self, recipe: Recipe, name: str, work: Path, builder: Builder) -> None:
        self._recipe = recipe
        self._name = name
        self._work = work
        self._builder = builder
        self.layout = Layout(work / "layout", commit_time())

    def make(self, architectures: list[str]) -> str:
        """Make the images; the digest of what has them all."""
        command = ["dpkg", "--print-architecture"]
        native = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        _say("building the wheel")
        wheel = self._builder.wheel(self._work)
        roots = {}
        for architecture in dict.fromkeys([native, *architectures]):  # it compiles for the others
            _say(f"fetching Debian {self._recipe.suite} for {architecture}")
            packages = fetch_packages(CACHE / architecture, architecture, self._recipe.suite, self._recipe.packages)
            roots[architecture] = self._work / architecture / "debian"
            unpack(packages, roots[architecture])
        images = []
        for architecture in architectures:
            _say(f"fetching Python packages for {architecture}")
            ours = self._work / architecture / "stratum"
            builder = dataclasses.replace(self._builder, built=wheel, machine=MACHINES[architecture][0])
            self._install(ours, python_version(roots[architecture]), builder)
            wrong = [path for root in (roots[architecture], ours) for path in foreign(root, architecture)]
            if wrong:
                raise SetupError(f"for another machine than {architecture}: {', '.join(wrong[:5])}", "")
            self._compile(roots[native], roots[architecture], "usr/lib")
            self._compile(roots[native], ours, self._recipe.prefix[1:])
            layers = [self.layout.add_layer(root) for root in (roots[architecture], ours)]
            images.append(self.layout.add_image(self._config(architecture), layers))
        name = f"docker.io/library/{self._name}:{version()}"
        annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": version()}
        return self.layout.finish(images, annotations)

    def _install(self, root: Path, python: str, builder: Builder) -> None:
        def make(tree: Path, place: str) -> tuple[list[str], Path]:
            return make_tree(tree, place, Path("/usr/bin/python3"), builder, (python,))

        install(Target(Places(self._recipe.prefix), str(root)), make, lambda text: None)

    def _compile(self, native: Path, root: Path, below: str) -> None:
        """Write what Python compiles, as nobody can in a container whose files are read-only. One process does it: what
        it writes depends on what it had compiled before."""
        # A file that this Python cannot compile is one that nobody imports here.
        options = ["-q", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
        run_python(native, "-m", "compileall", *options, root / below)

    def _config(self, architecture: str) -> Document:
        created = _rfc3339(self.layout.epoch)
        labels = {
            "org.opencontainers.image.title": self._name,
            "org.opencontainers.image.version": version(),
            "org.opencontainers.image.licenses": "Apache-2.0",
        }
        return {
            "created": created,
            "architecture": architecture,
            "os": "linux",
            **({"variant": "v8"} if architecture == "arm64" else {}),
            "config": {
                "Env": list(self._recipe.environment),
                "Entrypoint": list(self._recipe.entrypoint),
                "Labels": labels,
            },
            "history": [
                {"created": created, "created_by": f"Debian {self._recipe.suite}: {' '.join(self._recipe.packages)}"},
                {"created": created, "created_by": f"tools.image {self._recipe.prefix}"},
            ],
        }


def _rfc3339(seconds: int) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(text: str) -> None:
    sys.stderr.write(f"image: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
