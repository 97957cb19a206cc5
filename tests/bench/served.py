"""The job ``serve``: pulls from ``stratum serve``, beside the same from docker-registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.measure import Entrant, Figure, Job
from tests.bench.peers import Stratum
from tests.e2e.registry_server import registry_server
from tests.support.capabilities import program
from tests.support.served import served

if TYPE_CHECKING:
    from tests.bench.jobs import Bench

CLIENTS = 200
EACH = 20 << 20
"""Bytes for each of them."""


def serving(bench: Bench) -> Iterator[Job | Figure]:
    """Pulls of the tree's commit, whose artifact was asked for once before: by our client, by skopeo, by a client
    that only counts, and by 200 of these at once. docker-registry has the same artifact, byte for byte; and, as
    'pushed', the one that a push makes, which is compressed."""
    with bench.mounted():
        pass
    options = ["--connections-each", "1000", "--requests", "1000000"]
    with (
        served(bench.ours, bench.directory, *options) as ours,
        registry_server(bench.directory / "served-registry") as theirs,
    ):
        copy = [str(program("skopeo")), "copy", "--quiet", "--src-tls-verify=false"]
        target = f"docker://{theirs.host}/bench/app:latest"
        subprocess.run([*copy, "--dest-tls-verify=false", f"docker://{ours.host}/app:latest", target], check=True)
        bench.ours.run("push", "app:latest", f"{theirs.host}/bench/pushed:latest")
        places = {
            "stratum serve": f"{ours.host}/app",
            "docker-registry": f"{theirs.host}/bench/app",
            "pushed": f"{theirs.host}/bench/pushed",
        }
        yield Job("pull", [_pull(bench, name, place) for name, place in places.items()])
        both = list(places.items())[:2]
        layout = bench.directory / "layout"
        line = f"rm -rf {layout}; exec {' '.join(copy)} docker://%s:latest oci:{layout}:x"
        yield Job("skopeo copy", [Entrant(name, ["sh", "-c", line % place]) for name, place in both])
        yield Job("one client", [_clients(name, place, 1, CLIENTS * EACH // 8) for name, place in both])
        yield Job(f"{CLIENTS} clients at once", [_clients(name, place, CLIENTS, EACH) for name, place in both])
        yield Figure(f"memory of stratum serve with {CLIENTS} clients", ours.memory() / (1 << 20), "MiB", wanted=256)


def _pull(bench: Bench, name: str, place: str) -> Entrant:
    other = Stratum(bench.directory / "other")
    entrant = other.entrant([bench.ours.script, "--quiet", "pull", f"{place}:latest", "app"])
    entrant.name, entrant.prepare = name, other.fresh
    return entrant


def _clients(name: str, place: str, clients: int, wanted: int) -> Entrant:
    host, _, repository = place.partition("/")
    command = [sys.executable, "-m", "tests.bench.clients", host, repository, str(clients), str(wanted)]
    return Entrant(name, command, cwd=Path(__file__).parents[2])
