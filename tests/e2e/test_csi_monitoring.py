"""What is in ``k8s/monitoring``: alerts by promtool, and the dashboard by what a real driver says of itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.test_csi_metrics import scrape
from tests.support.capabilities import CHECKOUT, program
from tests.support.csi import Node

pytestmark = pytest.mark.root

MONITORING = CHECKOUT / "k8s/monitoring"
CASES = CHECKOUT / "tests/data/kubernetes-alerts.yaml"
LATER = {f"stratum_csi_{name}_bytes" for name in ("lazy_real", "lazy_unreal", "volume_real", "volume_unreal")}
LATER |= {"stratum_csi_volume_source_up", "stratum_csi_volume_mounted"}
"""Figures that a driver has only while there are lazy mounts, or volumes of claims."""
UNDRAWN = ("_count", "_sum", "stratum_csi_lazy_fetches_total")
"""Figures that say what others on the dashboard do."""
ADDED = {"node", "job", "le", "__name__"}
"""Labels that Prometheus adds, by the ServiceMonitor or of a histogram."""

Document = dict[str, Any]


def rules() -> list[Document]:
    document = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text("utf-8"))
    (group,) = document["spec"]["groups"]
    found: list[Document] = group["rules"]
    return found


def panels() -> list[Document]:
    found: list[Document] = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))["panels"]
    return found


def dashboard_expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "5m").replace("$node", ".*")


def promtool(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    found = rules()
    for rule in found:
        assert set(rule["annotations"]) == {"summary", "description"}
        del rule["annotations"]["description"]
        assert rule["labels"]["severity"] in ("critical", "warning")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "stratum-csi", "rules": found}]}))
    (tmp_path / "cases.yaml").write_bytes(CASES.read_bytes())
    promtool(tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    promtool(tmp_path, "test", "rules", "cases.yaml")
    cases = yaml.safe_load(CASES.read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in found}


def test_what_is_asked_for_is_what_a_driver_tells(tmp_path: Path, runtime_dir: Path) -> None:
    path = tmp_path / "metrics.sock"
    with Node(tmp_path / "m", "--metrics", f"unix://{path}") as node:
        node.delete(node.create("pvc-1").volume_id)
        node.create("pvc-2")
        told: defaultdict[str, set[str]] = defaultdict(set)
        for family in text_string_to_metric_families(scrape(path)):
            for sample in family.samples:
                told[sample.name] |= set(sample.labels)
    expressions = list(dashboard_expressions())
    drawn = set(re.findall(r"stratum_csi_\w+", " ".join(expressions)))
    assert not {name for name in told if not name.endswith(UNDRAWN)} - drawn, "figures that nobody sees"
    for expression in [*expressions, *(rule["expr"] for rule in rules())]:
        for name, matchers in re.findall(r"(stratum_csi_\w+)(?:\{([^}]*)\})?", expression):
            assert name in told or name in LATER, f"no driver tells {name}: {expression}"
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= told[name] | ADDED, expression
    recorded = [{"record": f"checked:{number}", "expr": text} for number, text in enumerate(expressions)]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    promtool(tmp_path, "check", "rules", "--lint=none", "r.yaml")


def test_dashboard_is_one_that_grafana_can_draw() -> None:
    board = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "node"}
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    identities = [panel["id"] for panel in panels()]
    assert len(set(identities)) == len(identities)
