#!/bin/bash
# Makes .venv: the project (editable) and its development tools, in the versions of tools/constraints.txt.
# Does nothing when .venv was made from the same inputs. pip's own configuration (index, certificates) is honoured.
# PYTHON chooses the interpreter; the default is Debian's own, as that is what users have.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=$PWD/.venv
constraints=tools/constraints.txt

python=${PYTHON:-/usr/bin/python3}
if ! command -v "$python" >/dev/null; then
    python=python3
fi
if ! version=$("$python" -c 'import sys; print(sys.version); sys.exit(sys.version_info < (3, 10))'); then
    echo "setup: $python is not Python 3.10 or later (PYTHON=... chooses another)" >&2
    exit 1
fi

compile() { # for those who keep Python from writing what it compiled: each start would compile everything again
    "$venv/bin/python" -m compileall -q "$@"
}

inputs=$({ printf '%s\n' "$venv" "$python" "$version"; cat pyproject.toml hatch_build.py stratum/csi/*.proto "$constraints" tools/setup/venv.sh; } | sha256sum)
if [[ -x "$venv/bin/stratum" && "$(cat "$venv/inputs" 2>/dev/null)" == "$inputs" ]]; then
    compile stratum
    exit 0
fi

echo "setup: virtual environment .venv with $python"
"$python" -m venv --clear "$venv"
pip=("$python" -m tools.setup.pip "$venv/bin/python" install --no-compile --constraint "$constraints")
# The build backend comes from the same constraints as everything else, so the build is not isolated.
"${pip[@]}" hatchling editables grpcio-tools
"${pip[@]}" --no-build-isolation --editable '.[csi,dev,populator,serve]'
# pip would compile all that it installs, on one core; half of that is tests, or is imported by nobody here.
compile -j 0 -x '/(tests|pip|setuptools|mypy|mypyc|pandas)/' stratum "$venv/lib"
echo "$inputs" >"$venv/inputs"
