"""Settings and policy of the machine that others could have written: refused by the command line and by the hook.

Done on a copy of /etc in a mount namespace of its own, so the machine's settings stay what they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import SCRIPT

pytestmark = pytest.mark.root

PRIVATE_ETC = """\
set -e
mkdir -p "$1"
for name in passwd group nsswitch.conf ld.so.cache localtime python3 python3.11 python3.12 python3.13; do
    if [ -e "/etc/$name" ]; then cp -a "/etc/$name" "$1"; fi
done
mount --bind "$1" /etc
mkdir -p /etc/stratum
chmod 755 /etc/stratum
shift
"""

STATE = (
    '{"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 1, "bundle": "/nowhere", "annotations":'
    ' {"io.container.manager": "libpod", "stratum.dev/volume.a": "app:/data"}}'
)


def in_private_etc(script: str, tmp_path: Path) -> tuple[int, str]:
    """The exit status and output of ``script``, where /etc/stratum is new."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STRATUM_")}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", PRIVATE_ETC + script, "sh", tmp_path / "etc"],
        env=environment | {"NO_COLOR": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


CHANGES = {
    "chown 65534 /etc/stratum/{file}": "/etc/stratum/{file} is owned by user 65534, not by root",
    "chmod 666 /etc/stratum/{file}": "/etc/stratum/{file} can be written by others",
    "chown 65534 /etc/stratum": "/etc/stratum is owned by user 65534, not by root",
    "chmod 775 /etc/stratum": "/etc/stratum can be written by others",
    "rm /etc/stratum/{file}; chown 65534 /etc/stratum": "/etc/stratum is owned by user 65534",
}


@pytest.mark.parametrize("change", CHANGES)
def test_settings_that_others_could_have_written_are_refused(tmp_path: Path, change: str) -> None:
    settings = (
        f'printf \'store = "%s"\\nruntime_dir = "%s"\\n\' {tmp_path}/theirs {tmp_path}/run > /etc/stratum/config.toml'
    )
    verb = f"mkdir -p empty; {SCRIPT} import --bare empty app"
    code, said = in_private_etc(f"{settings}\n{verb}", tmp_path)
    assert code == 0, said
    assert (tmp_path / "theirs" / "stratum.toml").exists()
    words = CHANGES[change].format(file="config.toml")
    code, said = in_private_etc(f"{settings}\n{change.format(file='config.toml')}\n{verb}", tmp_path)
    assert code == 2
    assert f"error: {words}" in said
    assert "hint: look at what is there, then: ch" in said
    hook = f"printf '%s' '{STATE}' | {sys.executable} -I -m stratum.hook createRuntime"
    code, said = in_private_etc(f"{settings}\n{change.format(file='config.toml')}\n{hook}", tmp_path)
    assert code == 2
    assert said.startswith(f"stratum: {words}")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_a_policy_that_others_could_have_written_is_refused(tmp_path: Path, change: str) -> None:
    rules = "printf '[[allow]]\\nengine = \"podman\"\\n' > /etc/stratum/policy.toml"
    hook = f"printf '%s' '{STATE}' | {sys.executable} -I -m stratum.hook createRuntime"
    code, said = in_private_etc(f"{rules}\n{change.format(file='policy.toml')}\n{hook}", tmp_path)
    assert code == 2
    assert said.startswith(f"stratum: {CHANGES[change].format(file='policy.toml')}")
