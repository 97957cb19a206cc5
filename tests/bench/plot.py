"""The picture of a run, readable on light and dark: for each job a bar of the median time of every program, ours first.

``python -m tests.bench.plot RUN.json FILE.svg`` draws that of a run that was kept.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

_LINE, _LEFT, _BARS, _WIDTH = 20, 130, 560, 840
_STYLE = """
svg { font-family: system-ui, sans-serif; font-size: 13px }
.ground { fill: #ffffff } text { fill: #1f2328 } .small { fill: #57606a } .name { font-weight: 600 }
.ours { fill: #2a6f97 } .theirs { fill: #b8c0c8 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9da7b1 }
.ours { fill: #58a6d6 } .theirs { fill: #4a535d }
}
"""


def plot(document: Mapping[str, Any]) -> str:
    """The SVG of what ``report.document`` made."""
    parts, y = [], 52
    for job in document["jobs"]:
        times = [(each["name"], statistics.median(run["wall"] for run in each["runs"])) for each in job["programs"]]
        slowest, ours = max(time for _, time in times), times[0][1]
        parts.append(f'<text class="name" x="12" y="{y + 14}">{escape(job["name"])}</text>')
        y += _LINE
        for number, (name, time) in enumerate(times):
            length = max(1, round(_BARS * time / slowest))
            said = f"{time:.2f} s" + (f", {time / ours:.1f} times" if number else "")
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
            kind = "theirs" if number else "ours"
            parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{y + 2}" width="{length}" height="{_LINE - 5}" rx="2"/>')
            parts.append(f'<text class="small" x="{_LEFT + length + 6}" y="{y + 14}">{said}</text>')
            y += _LINE
        y += _LINE // 2
    machine = document["machine"]
    head = (
        f"{document['work']}: {machine['cpus']} processors, Linux {machine['kernel']}: median seconds, less is better"
    )
    size = f'viewBox="0 0 {_WIDTH} {y + 6}" width="{_WIDTH}" height="{y + 6}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f"<title>Stratum beside others</title><style>{_STYLE}</style>",
            f'<rect class="ground" width="{_WIDTH}" height="{y + 6}" rx="12"/>',
            '<text class="name" x="12" y="24" font-size="15">Stratum beside others</text>',
            f'<text class="small" x="12" y="42">{escape(head)}</text>',
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(plot(json.loads(Path(sys.argv[1]).read_text("utf-8"))), "utf-8")
