"""``stratum hook install`` without a directory: Podman finds the hook by itself, and uninstall takes all of it away.

Done on a copy of /etc/containers in a mount namespace of its own, so the machine's settings stay what they are.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import SCRIPT, Command

pytestmark = [pytest.mark.root, pytest.mark.podman]

PREPARE = """\
set -e
mkdir "$1"
if [ -d /etc/containers ]; then cp -a /etc/containers/. "$1"; else mkdir /etc/containers; fi
mount --bind "$1" /etc/containers
shift
cp "$CONTAINERS_CONF" /etc/containers/containers.conf
unset CONTAINERS_CONF
find /etc/containers | sort > before
"""


def in_private_etc(script: str, tmp_path: Path, podman: PodmanEnv, cli: Command) -> str:
    """The output of ``script``, which starts with a private /etc/containers; ``$@`` is ``podman`` up to the verb."""
    environment = cli.environment | podman.environment
    line = ["unshare", "--mount", "sh", "-c", PREPARE + script, "sh", str(tmp_path / "etc"), *podman.prefix]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_podman_finds_an_installed_hook(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one").write_text("first\n")
    cli.ok("import", "--bare", tmp_path / "source", "app")
    with PodmanEnv() as podman:
        output = in_private_etc(
            f"""\
            {SCRIPT} hook install --force > written
            {SCRIPT} hook install -f | cmp - written
            "$@" run --rm --annotation stratum.dev/volume.a=app:/data {podman.image} sh -c 'cat /data/one; >/data/new'
            {SCRIPT} hook uninstall | cmp - written
            find /etc/containers -type f | sort > after
            grep -vxF -f before after || echo nothing left
            """,
            tmp_path,
            podman,
            cli,
        )
    assert output == "first\nnothing left\n"
    assert (
        cli.json("log", "app+main")[0]["commit"]["metadata_hash"]
        != cli.json("show", "app:latest")["commit"]["metadata_hash"]
    )


def test_the_directories_that_podman_read_before_are_kept(cli: Command, tmp_path: Path) -> None:
    with PodmanEnv() as podman:
        output = in_private_etc(
            f"""\
            mkdir -p /etc/containers/containers.conf.d
            printf '[engine]\\nhooks_dir = ["/srv/own hooks"]\\n' > /etc/containers/containers.conf.d/10-own.conf
            {SCRIPT} hook install --force > /dev/null
            env -i PATH="$PATH" HOME=/root podman --help | grep -o '(default .*hooks.*'
            {SCRIPT} hook uninstall > /dev/null
            env -i PATH="$PATH" HOME=/root podman --help | grep -o '(default .*hooks.*'
            """,
            tmp_path,
            podman,
            cli,
        )
    assert output == "(default [/srv/own hooks,/etc/containers/oci/hooks.d])\n(default [/srv/own hooks])\n"


def test_a_setting_that_wins_over_ours_is_told(cli: Command, tmp_path: Path) -> None:
    with PodmanEnv() as podman:
        output = in_private_etc(
            f"""\
            mkdir -p /etc/containers/containers.conf.d
            printf '[engine]\\nhooks_dir = ["/srv/own"]\\n' > /etc/containers/containers.conf.d/zz-own.conf
            {SCRIPT} hook install --force 2>&1 || echo "exit $?"
            ls /etc/containers/containers.conf.d
            """,
            tmp_path,
            podman,
            cli,
        )
    assert "another file overrides /etc/containers/containers.conf.d/stratum-hooks.conf" in output
    assert output.endswith("exit 6\nzz-own.conf\n")


def test_the_doctor_says_what_is_missing_and_then_that_all_is_well(cli: Command, tmp_path: Path) -> None:
    with PodmanEnv() as podman:
        output = in_private_etc(
            f"""\
            {SCRIPT} hook doctor 2>&1 || echo "exit $?"
            mkdir empty
            {SCRIPT} import --bare empty app > /dev/null
            {SCRIPT} hook install --force > /dev/null
            {SCRIPT} hook doctor
            sed -i 's/"timeout": 900/"timeout": 5/' /etc/containers/oci/hooks.d/stratum-poststop.json
            {SCRIPT} hook doctor 2>&1 || echo "exit $?"
            {SCRIPT} hook install --force > /dev/null
            sed -i 's,dev/",dev/volume",' /etc/containers/oci/hooks.d/stratum-poststop.json
            {SCRIPT} hook doctor 2>&1 || echo "exit $?"
            {SCRIPT} hook install --force > /dev/null
            chmod o+w /etc/containers/oci/hooks.d/stratum-poststop.json
            {SCRIPT} hook doctor 2>&1 || echo "exit $?"
            """,
            tmp_path,
            podman,
            cli,
        )
    checks = ["privilege", "kernel", "store", "trial", "podman", "hook", "policy"]
    verdicts = [line.split()[:2] for line in output.splitlines() if line.startswith(("ok ", "FAIL "))]
    assert [check for _, check in verdicts] == checks * 5
    failed = [[check for verdict, check in verdicts[at : at + 7] if verdict == "FAIL"] for at in range(0, 35, 7)]
    assert failed == [["store", "trial", "podman", "hook"], [], ["hook"], ["hook"], ["hook"]]
    assert output.count("exit 6") == 4
    assert "is of an earlier version" in output
    assert "stratum-poststop.json can be written by others" in output
    assert "gives the hook only 5 s" in output
    assert list((cli.store / "tmp").glob("*/*")) == []
