"""Entry point of the driver: ``stratum-csi --endpoint unix:///csi/csi.sock --node-id NODE ...``.

It keeps nothing in memory that is needed later and stands behind no mount, so it may be killed, upgraded or started
again at any time while pods run.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import ssl
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import stratum
from stratum.csi.program import run_program
from stratum.errors import UnsupportedError, UsageError, os_error_text

if TYPE_CHECKING:
    from stratum.csi.driver import Options
    from stratum.serving import Certificate

NODE_ID_MAX = 63
GRACE = 5.0
"""Seconds that calls get to end when the driver is stopped."""


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    return run_program(command_line(), _run, argv)


def command_line() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(
        prog="stratum-csi", description="The CSI driver csi.stratum.dev: strata as Kubernetes volumes."
    )
    for add_options in (_add_place, _add_inline, _add_node, _add_metrics, _add_room):
        add_options(parser)
    parser.add_argument("--version", action="version", version=f"stratum-csi {stratum.__version__}")
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--endpoint", required=True, metavar="unix:///PATH", help="Socket to serve on.")
    add("--node-id", required=True, metavar="NAME", help="Name of this node, as Kubernetes has it.")
    add("--controller", action="store_true", help="Also make and remove this node's volumes and snapshots.")


def _add_inline(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--allow-inline", action="store_true", help="Allow inline volumes, whose attributes pod authors write.")
    add(
        "--inline-source",
        action="append",
        metavar="PATTERN",
        help="Source that inline volumes may name; repeatable. HOST/REPOSITORY, where * stays within one label of the "
        "host or one component of the repository and ** does not, s3://BUCKET/PREFIX (gs://, az://) likewise, or a "
        "shell pattern of refs. Default: any that is not in an object store.",
    )
    add(
        "--inline-lazy",
        action="append",
        metavar="PATTERN",
        help="Source, as --inline-source has them, that inline volumes and StratumSources may have lazily; repeatable. "
        "Whoever can push there can show pods what others have on the node, if they know its digests. Default: none.",
    )
    add(
        "--inline-limit",
        default="none",
        metavar="BYTES",
        help="What an inline volume may take beyond its base, as 512M or 10G; it needs project quotas. Default: what "
        "the disk has.",
    )


def _add_node(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--kubelet-dir",
        default="/var/lib/kubelet",
        metavar="DIR",
        help="The kubelet's directory: nothing is mounted anywhere else. Default: %(default)s.",
    )
    add("--store", metavar="DIR", help="Directory of the store. Default: as for the stratum command.")
    add("--runtime-dir", metavar="DIR", help="Directory of the mount state. Default: as for the stratum command.")
    add("--ca-file", metavar="FILE", help="Certificate authorities of registries, besides the system's; PEM.")
    add(
        "--external-keeper",
        action="store_true",
        help="Lazy volumes wait for a keeper (stratum hydrate) that is run elsewhere, as the driver may end at any "
        "time. Default: one is started where none runs.",
    )
    add(
        "--cri-endpoint",
        metavar="unix:///PATH",
        help="Socket of the container runtime, by which commands are run in pods around commits as their annotations "
        "say. Default: none are run.",
    )


def _add_room(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--gc-interval",
        default="6h",
        metavar="TIME",
        help="How often garbage is collected; 0 for never. Default: %(default)s.",
    )
    add(
        "--reflog-age",
        default="1d",
        metavar="TIME",
        help="How long history of the driver's own strata keeps what it mentions. Default: %(default)s.",
    )
    add(
        "--pulled-age",
        default="3d",
        metavar="TIME",
        help="How long what was pulled stays after the last volume began with it. Default: %(default)s.",
    )
    add(
        "--gc-high",
        default="80",
        metavar="PERCENT",
        help="Share of the store's disk from which room is made, whatever the age of what nobody uses; 100 for never. "
        "Default: %(default)s.",
    )
    add("--gc-low", default="75", metavar="PERCENT", help="Share until which it is made. Default: %(default)s.")
    add(
        "--pull-limit",
        default="84",
        metavar="PERCENT",
        help="Share beyond which nothing is pulled; a kubelet throws pods out at 85. Default: %(default)s.",
    )
    add(
        "--orphan-age",
        default="1h",
        metavar="TIME",
        help="How long what the kubelet has forgotten stays: mounts and inline volumes of pods that it does not know; "
        "0 for ever. Default: %(default)s.",
    )
    add(
        "--max-volumes",
        type=int,
        default=0,
        metavar="NUMBER",
        help="How many volumes may be mounted on this node, inline ones included; 0 for any number. "
        "Default: %(default)s.",
    )


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--metrics", metavar="HOST:PORT|unix:///PATH", help="Serve metrics for Prometheus at /metrics there.")
    add(
        "--metrics-tls-cert",
        metavar="FILE",
        help="Certificate of the server of metrics, and the chain above it, in PEM: metrics are over TLS then. A file "
        "that was renewed is shown to whoever connects next. Default: plain HTTP.",
    )
    add("--metrics-tls-key", metavar="FILE", help="Key of that certificate, in PEM, without a password.")
    add(
        "--metrics-client-ca",
        metavar="FILE",
        help="Authorities in PEM: metrics are for those only who have a certificate of one of them. Default: for all.",
    )


def _run(args: argparse.Namespace) -> int:
    from stratum.api.maintenance import parse_duration
    from stratum.api.session import Session
    from stratum.config import load_config

    _look_for_packages()
    from stratum.csi import healing, housekeeping, orphans, quiesce, sizes
    from stratum.csi.collecting import Rules
    from stratum.csi.driver import Driver
    from stratum.csi.logs import log_to_stderr
    from stratum.csi.metrics import LIMITS
    from stratum.csi.runtime import Runtime
    from stratum.csi.server import serve
    from stratum.serving import listen, parse_address, serving
    from stratum.sys.threads import use_little_address_space

    use_little_address_space()
    options = _options(args)
    certificate = _metrics_certificate(args)
    interval, orphan_age = parse_duration(args.gc_interval), parse_duration(args.orphan_age)
    rules = Rules(parse_duration(args.reflog_age), parse_duration(args.pulled_age))
    os.chdir("/")
    os.umask(0o022)
    log_to_stderr()
    session = Session(load_config(store=args.store, runtime_dir=args.runtime_dir))
    session.tell = logging.getLogger("stratum.csi").warning
    session.starts_watchers = not args.external_keeper
    driver = Driver(options, session, runtime=Runtime(args.cri_endpoint) if args.cri_endpoint is not None else None)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    with ExitStack() as stack:
        if args.metrics is not None:
            listener = stack.enter_context(listen(parse_address(args.metrics), "server of metrics"))
            tls = certificate.context if certificate is not None else None
            stack.enter_context(serving(driver.metrics.app(), listener, LIMITS, tls=tls))
        server = serve(driver, args.endpoint)
        housekeeping.start(driver, interval, rules)
        healing.start(driver)
        orphans.start(driver, orphan_age)
        quiesce.start(driver)
        sizes.tell(driver)
        stopped.wait()
        server.stop(GRACE).wait()
        if driver.jobs.running:
            # Jobs may be cut short anywhere, and are begun again by the next call; waiting for them helps nobody.
            os._exit(0)
    return 0


def _options(args: argparse.Namespace) -> Options:
    from stratum.config import NO_LIMIT, parse_bytes
    from stratum.csi.driver import Options
    from stratum.csi.patterns import parse_pattern
    from stratum.csi.room import parse_marks

    return Options(
        node_id=_node_id(args.node_id),
        kubelet_dir=_kubelet_dir(args.kubelet_dir),
        controller=args.controller,
        allow_inline=args.allow_inline,
        ca_file=_ca_file(args.ca_file),
        external_keeper=args.external_keeper,
        max_volumes=_max_volumes(args.max_volumes),
        marks=parse_marks(args.gc_high, args.gc_low, args.pull_limit),
        inline_sources=tuple(map(parse_pattern, args.inline_source or ("*",))),
        inline_lazy=tuple(map(parse_pattern, args.inline_lazy or ())),
        inline_limit=parse_bytes(args.inline_limit, "--inline-limit") % NO_LIMIT,
    )


def _look_for_packages() -> None:
    """That what the extra ``csi`` brings is installed."""
    try:
        import grpc  # noqa: F401 - what the driver's own modules load, and not every installation has
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as exc:
        raise UnsupportedError(
            f"the driver needs the Python package {exc.name}, which is not installed",
            hint=f"{sys.executable} -m pip install 'stratum-oci[csi]', or the driver's container image (k8s/README.md)",
        ) from None


def _node_id(node_id: str) -> str:
    """The node's ID, which becomes the value of a label."""
    if not 0 < len(node_id) <= NODE_ID_MAX or not all(
        char.isascii() and (char.isalnum() or char in "._-") for char in node_id
    ):
        raise UsageError(
            f"{node_id!r} cannot be a node's ID",
            hint=f"it has up to {NODE_ID_MAX} letters, digits, '.', '_' and '-', as values of labels do",
        )
    return node_id


def _max_volumes(number: int) -> int:
    if number < 0:
        raise UsageError(f"--max-volumes {number} is no number of volumes", hint="0 is any number")
    return number


def _ca_file(text: str | None) -> Path | None:
    """The file of authorities, which is read again for each connection, as it may be renewed."""
    if text is None:
        return None
    try:
        ssl.create_default_context(cafile=text)
    except OSError as exc:  # also what ssl raises
        raise UsageError(f"--ca-file {text}: no certificates can be read from it: {os_error_text(exc)}") from None
    return Path(text).absolute()


def _metrics_certificate(args: argparse.Namespace) -> Certificate | None:
    """What whoever scrapes is shown: files that are looked at anew for each connection, as Kubernetes renews them in
    place. None where metrics are plain HTTP."""
    from stratum.serving import Certificate

    files = (args.metrics_tls_cert, args.metrics_tls_key)
    clients = args.metrics_client_ca
    if files == (None, None) and clients is None:
        return None
    if None in files or args.metrics is None:
        raise UsageError(
            "metrics over TLS need an address, a certificate and its key",
            hint="give --metrics, --metrics-tls-cert and --metrics-tls-key together",
        )
    shown, key = (Path(text).absolute() for text in files)
    certificate = Certificate(shown, key, Path(clients).absolute() if clients is not None else None)
    certificate.follow(logging.getLogger("stratum.csi").warning)
    return certificate


def _kubelet_dir(text: str) -> Path:
    path = Path(os.path.realpath(text))
    if not os.path.isabs(text) or path == Path("/"):
        raise UsageError(f"the kubelet's directory {text!r} is not an absolute path below /")
    return path
