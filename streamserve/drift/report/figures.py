"""Histograms as inline SVG: the reference as filled bars, the range as a line of steps, so that no colour is needed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from streamserve.drift.report.values import Bar

LARGE = (680, 190)
SMALL = (132, 26)


def small(bars: Sequence[Bar]) -> str:
    """A thumbnail, hidden from readers of the text: the numbers stand beside it."""
    width, height = SMALL
    return (
        f'<svg class="thumb" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
        f"{_shape(bars, width, height, titles=False)}</svg>"
    )


def large(bars: Sequence[Bar], name: str) -> str:
    """The figure, with the share of every cell as a title to point at, and the outer cells named."""
    width, height = LARGE
    foot = 34
    first, last = bars[0].label if bars else "", bars[-1].label if bars else ""
    top = max((max(bar.reference, bar.current) for bar in bars), default=0.0)
    return (
        f'<svg class="figure" viewBox="0 0 {width} {height + foot}" role="img"'
        f' aria-label="Shares of {escape(name, quote=True)}: reference and range">'
        f'<text x="2" y="11" class="axis">{top:.1%}</text>'
        f'<g transform="translate(0 16)">{_shape(bars, width, height - 16, titles=True)}</g>'
        f'<line x1="0" y1="{height}" x2="{width}" y2="{height}" class="base"/>'
        f'<text x="2" y="{height + 15}" class="axis">{escape(_short(first))}</text>'
        f'<text x="{width - 2}" y="{height + 15}" class="axis end">{escape(_short(last))}</text></svg>'
    )


def _shape(bars: Sequence[Bar], width: float, height: float, *, titles: bool) -> str:
    if not bars:
        return ""
    top = max(max(bar.reference, bar.current) for bar in bars) or 1.0
    step = width / len(bars)
    gap = min(2.0, step * 0.15)
    filled, line = [], []
    for i, bar in enumerate(bars):
        tall = height * bar.reference / top
        rect = f'<rect class="ref" x="{i * step + gap / 2:.1f}" y="{height - tall:.1f}" width="{step - gap:.1f}"'
        filled.append(f'{rect} height="{tall:.1f}"/>')
        level = height - height * bar.current / top
        line.append(f"{i * step:.1f},{level:.1f} {(i + 1) * step:.1f},{level:.1f}")
    shape = "".join(filled) + f'<polyline class="now" points="{" ".join(line)}"/>'
    if not titles:
        return shape
    areas = (
        f'<rect class="hit" x="{i * step:.1f}" y="0" width="{step:.1f}" height="{height}">'
        f"<title>{escape(bar.label)}\nreference {bar.reference:.2%}\nrange {bar.current:.2%}</title></rect>"
        for i, bar in enumerate(bars)
    )
    return shape + "".join(areas)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
