"""What a real kubelet and real sidecars called, as readable data, and made from what a recorder wrote.

    python -m tests.support.calls CALLS.jsonl "What was done" > tests/data/calls/NAME.yaml

``k8s/e2e/README.md`` says how to record.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ASKING = (
    "Probe",
    "GetPluginInfo",
    "GetPluginCapabilities",
    "ControllerGetCapabilities",
    "NodeGetCapabilities",
    "GetCapacity",
)
"""Calls that come all the time: the first of each kind after an event is kept."""

KILLED = "killed"
REBOOTED = "rebooted"


@dataclass(frozen=True, slots=True)
class Call:
    """One call. ``during`` are the numbers of calls that had not ended when it began; ``answer`` is gRPC's status."""

    number: int
    service: str
    method: str
    request: dict[str, Any]
    during: tuple[int, ...]
    answer: str
    response: dict[str, Any]


def read(path: Path) -> list[Call | str]:
    """The calls, and what happened between them (``KILLED``: the driver, ``REBOOTED``: the node)."""
    steps: list[Call | str] = []
    for step in yaml.safe_load(path.read_text("utf-8")):
        if isinstance(step, str):
            steps.append(step)
            continue
        service, _, method = step["call"].partition("/")
        during, response = tuple(step.get("during", ())), step.get("response", {})
        steps.append(Call(step["n"], service, method, step.get("request", {}), during, step["answer"], response))
    return steps


def readable(lines: list[dict[str, Any]]) -> list[Any]:
    """The document of a recording: its lines in the order of their beginnings."""
    steps: list[Any] = []
    asked: set[str] = set()
    kept: list[tuple[int, int]] = []  # number and end of what is kept
    for line in sorted(lines, key=lambda line: int(line["from"])):
        if "event" in line:
            steps.append(line["event"])
            asked.clear()
            continue
        name = line["method"].removeprefix("/csi.v1.")
        if not line["method"].startswith("/csi.v1.") or name in asked:
            continue
        if name.partition("/")[2] in ASKING:
            if line["code"] != "OK":
                continue
            asked.add(name)
        during = [earlier for earlier, end in kept if end > line["from"]]
        steps.append(_step(len(kept) + 1, name, line, during))
        kept.append((len(kept) + 1, line["to"]))
    return steps


def _step(number: int, name: str, line: dict[str, Any], during: list[int]) -> dict[str, Any]:
    step = {"n": number, "call": name}
    if line["request"]:
        step["request"] = line["request"]
    if during:
        step["during"] = during
    step["answer"] = line["code"]
    if line["code"] != "OK":
        step["message"] = line["message"]
    elif line["response"]:
        step["response"] = line["response"]
    return step


def recorded(path: Path) -> list[dict[str, Any]]:
    """The recording's lines, in one count over all starts of the recorder."""
    lines: list[dict[str, Any]] = []
    before = last = 0
    for text in path.read_text("utf-8").splitlines():
        line = json.loads(text)
        if "started" in line:
            before = last
            continue
        for key in {"from", "to"} & line.keys():
            line[key] += before
            last = max(last, line[key])
        lines.append(line)
    return lines


if __name__ == "__main__":
    sys.stdout.write("".join(f"# {line}\n" for line in sys.argv[2].splitlines()))
    yaml.safe_dump(
        readable(recorded(Path(sys.argv[1]))), sys.stdout, sort_keys=False, width=160, default_flow_style=None
    )
