"""``metrics``: figures for Prometheus, in the text format that node_exporter's textfile collector reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.errors import StratumError, UnsupportedError, os_error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stratum.api.metrics import Metric


@verb(
    "metrics",
    examples=[
        ("Print them", "stratum metrics"),
        (
            "Have node_exporter collect them; run it every few minutes",
            "stratum metrics --output /var/lib/prometheus/node-exporter/stratum.prom",
        ),
    ],
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write FILE anew, in one step, instead of printing.",
)
def metrics(app: App, output: Path | None) -> None:
    """Print figures about the store in the text format of Prometheus.

    What there is of strata, commits, objects, worktrees and mounts, what the parts of the store take on disk, how much
    room there is, when each stratum and worktree was last committed, which commit at a stop failed, what is not
    committed (by a short look), gaps in histories, what is not here of lazy commits, and when gc and fsck last came to
    their end. All are gauges. Nothing is read of files; sizes of all objects are looked at.

    The text needs prometheus_client (the extra 'metrics'); --format json does not.
    """
    from stratum.api.metrics import metrics as run

    render = None if app.out.json else _library()
    found = run(app.session)
    if render is None:
        if output is not None:
            raise click.UsageError("--output is for the text format")
        app.out.object(
            [
                {
                    "name": metric.name,
                    "help": metric.text,
                    "samples": [{"labels": labels, "value": float(value)} for labels, value in metric.samples],
                }
                for metric in found
            ]
        )
    elif output is None:
        app.out.text(render(found).decode())
    else:
        _write(output, render(found))


def _library() -> Callable[[list[Metric]], bytes]:
    """What makes the text of figures. ``UnsupportedError`` where there is no prometheus_client."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.metrics_core import GaugeMetricFamily
        from prometheus_client.registry import Collector
    except ImportError:
        raise UnsupportedError(
            "the text format of Prometheus needs prometheus_client, which is not installed",
            hint="install python3-prometheus-client, or the extra 'metrics' of Stratum; --format json goes without",
        ) from None

    def render(found: list[Metric]) -> bytes:
        class Found(Collector):
            def collect(self) -> Iterator[GaugeMetricFamily]:
                for metric in found:
                    family = GaugeMetricFamily(metric.name, metric.text, labels=list(metric.samples[0][0]))
                    for labels, value in metric.samples:
                        family.add_metric(list(labels.values()), value)
                    yield family

        registry = CollectorRegistry()
        registry.register(Found())
        return generate_latest(registry)

    return render


def _write(path: Path, text: bytes) -> None:
    from stratum.sys.atomic import write_atomic

    try:
        write_atomic(path, text, 0o644, durable=False)
    except OSError as exc:
        raise StratumError(
            f"cannot write {path}: {os_error_text(exc)}", hint="its directory must be there and be writable"
        ) from None
