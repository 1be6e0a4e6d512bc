"""Draw docs/packages.svg: the packages of `toolkit/` and their imports. Run it with `make picture`.

The picture depends on the order of packages in tests/test_layers.py, on the first line of each package's
docstring, and on the imports between packages. It does not depend on the length of files.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from test_layers import ORDER, imports, sources  # noqa: E402

SVG = Path(__file__).with_name("packages.svg")

WIDTH, TOP = 880, 64  # pixels
BOX, HEIGHT, PITCH = 600, 42, 54  # width and height of a box, distance from box to box
THICKNESS = ((10, 4.0), (4, 2.4), (1, 1.2))
"""From so many importing modules on, an arrow is so thick. Few steps: the picture seldom changes."""

STYLE = """
  svg { font: 13px -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif }
  .page { fill: #ffffff; stroke: #d0d7de }  .box { fill: #f6f8fa; stroke: #8c959f }
  .name { font-weight: 600; font-size: 15px; fill: #1f2328 }  .text { fill: #59636e }
  .direct { fill: none; stroke: #0969da }  .implied { fill: none; stroke: #dfe4e8 }  .head { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d }  .box { fill: #151b23; stroke: #656c76 }
    .name { fill: #f0f6fc }  .text { fill: #9198a1 }
    .direct { stroke: #4493f8 }  .implied { stroke: #262c34 }  .head { fill: #4493f8 }
  }
"""

Arrow = tuple[str, str]
"""Importing package, imported package."""


def arrows(modules: Mapping[str, str]) -> dict[Arrow, int]:
    """All arrows → how many modules of the importing package import the other.

    `modules` are source texts by dotted name below `toolkit`.
    """
    pairs = {
        (module, name.split(".")[1])
        for module, source in modules.items()
        for name in _names(ast.parse(source))
        if name.startswith("toolkit.")
    }
    found: dict[Arrow, int] = {}
    for module, target in sorted(pairs):
        own = module.partition(".")[0]
        if own != target:
            found[own, target] = found.get((own, target), 0) + 1
    return found


def _names(tree: ast.Module) -> Iterator[str]:
    """What a module imports: by statement, or by a text such as "toolkit.commands.train:train"."""
    yield from (name for _, name in imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^(toolkit(?:\.\w+)+):\w+$", node.value)


def is_implied(arrow: Arrow, all_arrows: Collection[Arrow]) -> bool:
    """Whether a path over other packages leads from the first package to the second."""
    start, end = arrow
    seen: set[str] = set()
    waiting = [target for own, target in all_arrows if own == start and target != end]
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            waiting += [target for own, target in all_arrows if own == package]
    return end in seen


def draw(modules: Mapping[str, str]) -> str:
    """The picture as SVG text. Packages of the order that do not exist yet are left out."""
    packages = [package for package in reversed(ORDER) if package in modules]
    tops = {package: TOP + PITCH * row for row, package in enumerate(packages)}
    found = arrows(modules)
    height = TOP + PITCH * len(packages) + 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}">',
            "<title>The packages of toolkit/ and their imports</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
            '<text class="text" x="20" y="27">Each arrow points at an imported package. '
            "A thicker arrow stands for more importing modules.</text>",
            '<text class="text" x="20" y="46">Grey arrows only repeat what a path of blue ones '
            "says already. No arrow points up.</text>",
            *(_arrow(arrow, tops, found) for arrow in sorted(found) if is_implied(arrow, found)),
            *(_arrow(arrow, tops, found) for arrow in sorted(found) if not is_implied(arrow, found)),
            *(_box(package, tops[package], modules[package]) for package in packages),
            "</svg>\n",
        ]
    )


def _arrow(arrow: Arrow, tops: Mapping[str, int], found: Mapping[Arrow, int]) -> str:
    """An arc to the right of the boxes. It leaves a box low and arrives high; longer arcs lie further out."""
    start, end = tops[arrow[0]] + 29, tops[arrow[1]] + 13
    x = 20 + BOX
    out = x + 26 + (end - start) * 0.36
    kind = "implied" if is_implied(arrow, found) else "direct"
    stroke = next(thick for least, thick in THICKNESS if found[arrow] >= least) if kind == "direct" else 1
    path = f"M{x} {start}C{out:.0f} {start} {out:.0f} {end} {x + 8} {end}"
    arc = f'<path class="{kind}" stroke-width="{stroke}" d="{path}"/>'
    head = f'<path class="head" d="M{x} {end}l10 -5v10z"/>'
    return f"<g><title>{arrow[0]} imports {arrow[1]}</title>{arc}{head}</g>"


def _box(package: str, top: int, source: str) -> str:
    phrase = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")
    return (
        f'<rect class="box" x="20" y="{top}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="34" y="{top + 26}">{package}</text>'
        f'<text class="text" x="166" y="{top + 26}">{escape(phrase)}</text>'
    )


if __name__ == "__main__":
    SVG.write_text(draw(sources()), "utf-8")
