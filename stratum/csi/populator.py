"""Entry point of the populator: ``stratum-csi-populator --endpoint unix:///csi/csi.sock``.

It is a container beside the driver's on each node, and fills claims whose ``dataSourceRef`` is a StratumSource. It may
be killed at any time.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

import stratum
from stratum.csi.program import run_program
from stratum.errors import UnsupportedError

HANDS = 12
"""Claims that are worked on at the same time."""


def main(argv: list[str] | None = None) -> int:
    """Work until a signal; the exit status."""
    return run_program(command_line(), _run, argv)


def command_line() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(
        prog="stratum-csi-populator", description="Fills claims whose dataSourceRef is a StratumSource."
    )
    add = parser.add_argument
    add("--endpoint", required=True, metavar="unix:///PATH", help="Socket of this node's driver.")
    add(
        "--populate-source",
        action="append",
        metavar="PATTERN",
        help="Source that a StratumSource may name; repeatable. HOST/REPOSITORY, where * stays within one label of the "
        "host or one component of the repository and ** does not, or s3://BUCKET/PREFIX (gs://, az://) likewise. "
        "Default: any that is not in an object store.",
    )
    add("--kubeconfig", metavar="FILE", help="How to reach the API server. Default: as the pod's service account.")
    add("--version", action="version", version=f"stratum-csi-populator {stratum.__version__}")
    return parser


def _run(args: argparse.Namespace) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))
    try:
        from stratum.csi.cluster import Cluster
    except ModuleNotFoundError as exc:
        raise UnsupportedError(
            f"the populator needs the Python package {exc.name}, which is not installed",
            hint=f"{sys.executable} -m pip install 'stratum-oci[csi,populator]', or the driver's container image "
            "(k8s/README.md)",
        ) from None
    from stratum.csi.agenda import Agenda
    from stratum.csi.logs import log_to_stderr
    from stratum.csi.patterns import parse_pattern
    from stratum.csi.populating import Node, Populator, follow, work_off
    from stratum.sys.threads import use_little_address_space

    use_little_address_space()
    patterns = tuple(parse_pattern(text) for text in args.populate_source or ("*",))
    log_to_stderr()
    node = Node(args.endpoint)
    cluster = Cluster(args.kubeconfig, node.name)
    agenda, populator = Agenda(), Populator(cluster, node, patterns)
    for _ in range(HANDS):
        threading.Thread(target=work_off, args=(agenda, populator), daemon=True, name="hand").start()
    follow(cluster, agenda, node.name)
    return 0
