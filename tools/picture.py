"""The picture of how Stratum works, for light and dark: ``python -m tools.picture docs/how-it-works.svg`` writes it."""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 960, 472

STYLE = """
svg { font-family: system-ui, sans-serif; font-size: 15px }
.ground { fill: #ffffff } .store { fill: #f3f5f7; stroke: #b9c2cb }
.box { fill: #ffffff; stroke: #57606a } .ours { fill: #dcecf7; stroke: #2a6f97 }
text { fill: #1f2328 } .small { font-size: 13px; fill: #57606a } .name { font-weight: 600 }
.line { stroke: #57606a; fill: none } .head { fill: #57606a }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .store { fill: #161b22; stroke: #444c56 }
.box { fill: #0d1117; stroke: #8b949e } .ours { fill: #12344d; stroke: #58a6d6 }
text { fill: #e6edf3 } .small { fill: #9da7b1 }
.line { stroke: #9da7b1 } .head { fill: #9da7b1 }
}
"""


def box(kind: str, x: int, y: int, width: int, height: int, name: str, *said: str) -> str:
    """A box with a name and lines below it."""
    top = y + height // 2 + 5 - 9 * len(said)
    lines = [f'<text class="name" x="{x + width // 2}" y="{top}" text-anchor="middle">{escape(name)}</text>']
    lines += [
        f'<text class="small" x="{x + width // 2}" y="{top + 18 * number}" text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(said, 1)
    ]
    return "\n".join([f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>', *lines])


def arrow(points: list[tuple[int, int]], said: str = "", at: tuple[int, int] = (0, 0), *, both: bool = False) -> str:
    """A line with a head at its end, or at both, and a word beside it."""
    way = " ".join(f"{x},{y}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    text = f'<text class="small" x="{at[0]}" y="{at[1]}" text-anchor="middle">{escape(said)}</text>' if said else ""
    return f'<polyline class="line" points="{way}" marker-end="url(#head)"{start}/>{text}'


def picture() -> str:
    """The SVG."""
    parts = [
        box("box", 24, 222, 150, 74, "what there is", "directory, archive,", "container image"),
        box("box", 250, 20, 140, 60, "a directory", "mount, fstab"),
        box("box", 410, 20, 140, 60, "a container", "Podman, CRI-O"),
        box("box", 570, 20, 140, 60, "a pod", "Kubernetes (CSI)"),
        '<rect class="store" x="226" y="124" width="508" height="326" rx="12"/>',
        '<text class="small" x="244" y="440">the store: /var/lib/stratum</text>',
        box("ours", 250, 144, 282, 62, "worktree  app+dev", "what was changed, and nothing else"),
        box("ours", 556, 144, 154, 62, "history", "each version of a file"),
        box("ours", 250, 256, 140, 62, "commit", "app:v1"),
        box("ours", 410, 256, 140, 62, "commit", "app:v2"),
        box("ours", 570, 256, 140, 62, "commit", "f2d9eb9cda06"),
        box("ours", 250, 362, 460, 58, "objects", "the content of each file, once, named by its digest"),
        box("box", 788, 222, 150, 74, "a registry", "or a file: the same", "commits elsewhere"),
        arrow([(320, 84), (320, 140)], both=True),
        arrow([(456, 84), (456, 140)], both=True),
        arrow([(620, 84), (508, 140)], "read and write: overlayfs", (684, 112), both=True),
        arrow([(532, 175), (552, 175)]),
        arrow([(430, 208), (430, 252)], "commit, live", (476, 234)),
        arrow([(290, 252), (290, 210)], "reset, rebase", (338, 234)),
        arrow([(178, 280), (246, 280)], "import", (201, 270)),
        arrow([(714, 270), (784, 250)], "push", (760, 243)),
        arrow([(784, 280), (714, 300)], "pull", (764, 310)),
        arrow([(858, 300), (858, 391), (714, 391)], "when it is read", (800, 384)),
        *(arrow([(x, 320), (x, 358)]) for x in (320, 480, 640)),
    ]
    size = 'refX="7" refY="4" markerWidth="8" markerHeight="8"'
    head = f'<marker id="head" viewBox="0 0 8 8" {size} orient="auto-start-reverse">'
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    return "\n".join(
        [
            f'<svg {namespace} viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
            "<title>How Stratum works</title>",
            f"<style>{STYLE}</style>",
            f'<defs>{head}<path class="head" d="M0,0 L8,4 L0,8 z"/></marker></defs>',
            f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(), "utf-8")
