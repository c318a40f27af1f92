"""A drawing of the pages in docs/concepts, as an SVG file that has its own paper, light or dark as the reader's system.

It is 480 wide, and its text 17: where 343 of the 390 pixels of a telephone are left for it, that is 12.1 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from xml.sax.saxutils import escape

WIDTH = 480
SIZE = 17
LINE = 21

STYLE = """
text { font: 17px sans-serif; fill: #1b1f24 } .soft { fill: #4d5560 } .bold { font-weight: bold }
.paper { fill: #fff; stroke: #c4ccd4 } .box { fill: #eef2f6; stroke: #5b6570 } .frame { fill: none; stroke: #8a929c }
.wait { fill: none; stroke: #5b6570; stroke-dasharray: 5 4 }
.dark { fill: #0b4f8a } .mid { fill: #e39a2d } .pale { fill: #c9d3dd } .on { fill: #fff }
.edge { stroke: #0b4f8a; stroke-width: 1.5 } .ring { fill: none; stroke: #5b6570; stroke-width: 1.5 }
.line { fill: none; stroke: #0b4f8a; stroke-width: 3 } .thin { fill: none; stroke: #5b6570; stroke-width: 1.5 }
.ask { fill: none; stroke: #9a5b00; stroke-width: 2; stroke-dasharray: 6 4 } .tip { fill: #9a5b00 }
@media (prefers-color-scheme: dark) {
text { fill: #eef1f4 } .soft { fill: #b6bfc9 } .paper { fill: #14181d; stroke: #3a434d }
.box { fill: #232a32; stroke: #98a2ad } .frame { stroke: #5b6570 } .wait { stroke: #98a2ad }
.dark { fill: #9ccdf8 } .mid { fill: #c47a18 } .pale { fill: #48525d } .on { fill: #14181d }
.edge { stroke: #9ccdf8 } .ring { stroke: #98a2ad } .line { stroke: #9ccdf8 } .thin { stroke: #98a2ad }
.ask { stroke: #f0b55a } .tip { fill: #f0b55a }
}
"""

Point = tuple[float, float]


class Drawing:
    """What is drawn so far.

    Args:
        title: for those who hear the page, and shown at the pointer.
        description: what the drawing says, for those who do not see it.
    """

    def __init__(self, title: str, description: str, height: int) -> None:
        self._title, self._description, self._height = title, description, height
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """A line of words; y is that of its base line."""
        named = f' class="{style}"' if style else ""
        self._parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{named}>{escape(words)}</text>')

    def lines(self, x: float, y: float, lines: Sequence[str], style: str = "", anchor: str = "start") -> None:
        """Lines of words, one below the other."""
        for number, words in enumerate(lines):
            if words:
                self.text(x, y + number * LINE, words, style, anchor)

    def rectangle(self, x: float, y: float, width: float, height: float, style: str, radius: float = 6) -> None:
        size = f'width="{width:.1f}" height="{height:.1f}"'
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="{radius:g}" class="{style}"/>')

    def box(self, x: float, y: float, width: float, lines: Sequence[str], style: str = "box") -> None:
        """A box with words in its middle, of which the first line is bold, as high as they ask for."""
        self.rectangle(x, y, width, LINE * len(lines) + 16, style)
        for number, words in enumerate(lines):
            shape = "bold" if number == 0 else "soft"
            self.text(x + width / 2, y + 24 + number * LINE, words, shape, "middle")

    def line(self, points: Sequence[Point], style: str = "thin") -> None:
        """Straight lines from point to point."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" class="{style}"/>')

    def arrow(self, points: Sequence[Point], style: str, tip: str) -> None:
        """Lines from point to point with a tip at the end."""
        (x0, y0), (x, y) = points[-2:]
        length = hypot(x - x0, y - y0)
        dx, dy = (x - x0) / length, (y - y0) / length
        self.line([*points[:-1], (x - 8 * dx, y - 8 * dy)], style)
        corners = [(x, y), (x - 12 * dx - 6 * dy, y - 12 * dy + 6 * dx), (x - 12 * dx + 6 * dy, y - 12 * dy - 6 * dx)]
        self.area(corners, tip)

    def area(self, points: Sequence[Point], style: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polygon points="{path}" class="{style}"/>')

    def dot(self, x: float, y: float, style: str, radius: float = 5) -> None:
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{style}"/>')

    def svg(self) -> str:
        """The file."""
        size = f'width="{WIDTH}" height="{self._height}" viewBox="0 0 {WIDTH} {self._height}"'
        head = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(self._title)}</title>',
            f'<desc id="desc">{escape(self._description)}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{self._height - 1}" rx="10" class="paper"/>',
        ]
        return "\n".join([*head, *self._parts, "</svg>", ""])
