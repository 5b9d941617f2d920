"""Inline SVG: bars, histograms, a map of widths and heights. Imports survey.Histogram alone.

Colours are CSS classes of the page: `kept`, `other`, and the names of the stages.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from gesso.pipelines.report.survey import Histogram, Numbers

WIDTH, HEIGHT = 360.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 18.0, 24.0, 24.0
MAP = 440.0  # width and height of the map
SHOWN_TICKS = 7


class Segment(NamedTuple):
    """A segment of a bar: CSS class, number, and the title that hovering shows."""

    kind: str
    number: int
    title: str


class Axis(NamedTuple):
    """Positions of values in pixels; `first` and `last` are the bins that are shown."""

    edges: Numbers
    log: bool
    first: int
    last: int
    start: float
    length: float

    def position(self, value: float) -> float:
        scale = np.log2 if self.log else np.asarray
        lowest = 1e-9 if self.log else -np.inf
        index = np.interp(scale(max(value, lowest)), scale(self.edges), np.arange(len(self.edges)))
        return float(self.start + self.length * (index - self.first) / (self.last + 1 - self.first))

    def contains(self, value: float) -> bool:
        return bool(self.edges[self.first] <= value <= self.edges[self.last + 1])


def number(value: float) -> str:
    """A number for people: 1,234."""
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """A percentage: 12.3%, with the smallest ones as <0.1%."""
    if not whole:
        return "–"
    value = 100 * part / whole
    return "<0.1%" if 0 < value < 0.05 else f"{value:.1f}%"


def bar(parts: Sequence[Segment], whole: int) -> Markup:
    """A horizontal bar of adjacent segments; `whole` is the number for the full width."""
    rects, at = Markup(), 0.0
    for part in parts:
        width = 1000 * part.number / max(1, whole)
        rects += Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" height="10"><title>{}</title></rect>').format(
            part.kind, at, width, part.title
        )
        at += width
    label = ", ".join(part.title for part in parts if part.number)
    return Markup(
        '<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, rects)


def histogram(
    counts: Histogram,
    label: str,
    value: Callable[[float], str],
    ticks: Sequence[float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Stacked columns, kept below and other above; `value` formats a value, `marks` are labelled vertical lines."""
    both = counts.kept + counts.other
    axis = axis_over(counts, [at for at, _ in marks], LEFT, WIDTH - LEFT - RIGHT)
    top = float(both.max())
    shown = ticks if ticks is not None else nice_ticks(axis)
    body = Markup().join([grid(top), columns(counts, axis, top, value), tick_labels(axis, shown, value)])
    body += Markup().join(mark(axis, at, text, side) for side, (at, text) in enumerate(marks) if axis.contains(at))
    return svg(WIDTH, HEIGHT, label, body)


def axis_over(counts: Histogram, also: Sequence[float], start: float, length: float) -> Axis:
    """An axis over the bins that are not empty and those of the values `also`."""
    filled = np.flatnonzero(counts.kept + counts.other)
    wanted = [int(np.searchsorted(counts.edges, at)) for at in also]
    bins = len(counts.edges) - 1
    first, last = min([filled[0], *wanted]) - 1, max([filled[-1], *wanted]) + 1
    return Axis(counts.edges, counts.log, max(0, int(first)), min(bins - 1, int(last)), start, length)


def columns(counts: Histogram, axis: Axis, top: float, value: Callable[[float], str]) -> Markup:
    step = axis.length / (axis.last + 1 - axis.first)
    high = (HEIGHT - TOP - BOTTOM) / top
    elements = []
    for index in range(axis.first, axis.last + 1):
        kept, other = int(counts.kept[index]), int(counts.other[index])
        if not kept + other:
            continue
        text = f"{bin_name(counts, index, value)}: {number(kept)} kept" + (f", {number(other)} not" if other else "")
        x, base = axis.start + step * (index - axis.first), HEIGHT - BOTTOM
        stack = (("kept", kept, base - kept * high), ("other", other, base - (kept + other) * high))
        rects = Markup().join(
            Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                kind, x + 0.5, y, max(0.8, step - 1), count * high
            )
            for kind, count, y in stack
            if count
        )
        elements.append(Markup("<g><title>{}</title>{}</g>").format(text, rects))
    return Markup().join(elements)


def bin_name(counts: Histogram, index: int, value: Callable[[float], str]) -> str:
    """The range of a bin, as `256 to 304` or, for integers, as `7`."""
    low, high = counts.edges[index], counts.edges[index + 1]
    if index == len(counts.edges) - 2:
        return f"{value(low)} and more"
    if index == 0 and counts.log:
        return f"up to {value(high)}"
    return value(low) if high - low == 1 and not counts.log else f"{value(low)} to {value(high)}"


def grid(top: float) -> Markup:
    """Horizontal grid lines with their counts."""
    lines = [at for at in nice_numbers(0, top, 4) if at > 0]
    high = (HEIGHT - TOP - BOTTOM) / top
    elements = [
        Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>').format(
            LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM - at * high
        )
        + text_at(LEFT - 5, HEIGHT - BOTTOM - at * high + 3.5, short(at), "end")
        for at in lines
        if at == int(at)
    ]
    return Markup().join(elements)


def short(value: float) -> str:
    """A count for an axis: 500, 20k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def nice_numbers(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two values, at most `most` or so."""
    rough = max((high - low) / most, 1e-9)
    base = 10.0 ** np.floor(np.log10(rough))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= rough)
    return [float(step * position) for position in range(int(np.ceil(low / step)), int(high // step) + 1)]


def nice_ticks(axis: Axis) -> list[float]:
    low, high = float(axis.edges[axis.first]), float(axis.edges[axis.last + 1])
    if not axis.log:
        return nice_numbers(low, high, SHOWN_TICKS - 1)
    octaves = np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
    return [float(2**octave) for octave in octaves[:: -(-len(octaves) // SHOWN_TICKS)]]


def tick_labels(axis: Axis, ticks: Sequence[float], value: Callable[[float], str]) -> Markup:
    base = Markup('<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
        LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    )
    return base + Markup().join(
        text_at(axis.position(at), HEIGHT - 8, value(at), "middle") for at in ticks if axis.contains(at)
    )


def mark(axis: Axis, at: float, text: str, side: int) -> Markup:
    """A labelled vertical line for a limit; the first one's label is on its left, others' on the right."""
    x = axis.position(at)
    line = Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, 12, HEIGHT - BOTTOM)
    left = side == 0 and x > LEFT + 7 * len(text)
    return line + text_at(x - 4 if left else x + 4, 17, text, "end" if left else "start", "limit")


def text_at(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def svg(width: float, height: float, label: str, body: Markup) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        width, height, escape(label), body
    )


def size_map(counts: Numbers, edges: Numbers, label: str, min_side: float | None, max_ratio: float | None) -> Markup:
    """Original widths (across) and heights (up) on two logarithmic axes, with the outline of the accepted sizes."""
    first, last = map_range(counts)
    x_axis = Axis(edges, True, first, last, LEFT, MAP - LEFT - RIGHT)
    y_axis = Axis(edges, True, first, last, MAP - BOTTOM - 8, -(MAP - BOTTOM - 8 - RIGHT))
    body = cells(counts, x_axis, y_axis) + map_labels(x_axis, y_axis)
    if min_side and max_ratio and edges[first] < min_side < edges[last + 1]:
        body += allowed(x_axis, y_axis, min_side, max_ratio)
    return svg(MAP, MAP, label, body)


def map_range(counts: Numbers) -> tuple[int, int]:
    """The bins to show: whole octaves, the same on both axes."""
    filled = np.flatnonzero(counts.sum(0) + counts.sum(1))
    first, last = int(filled[0]) // 4 * 4, int(filled[-1]) // 4 * 4 + 3
    return first, min(last, len(counts) - 1)


def cells(counts: Numbers, x_axis: Axis, y_axis: Axis) -> Markup:
    step = x_axis.length / (x_axis.last + 1 - x_axis.first)
    most, edges = counts.max(), x_axis.edges
    elements = [
        Markup(
            '<rect class="cell" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}">'
            "<title>{}</title></rect>"
        ).format(
            x_axis.position(edges[x]) + 0.5,
            y_axis.position(edges[y + 1]) + 0.5,
            step - 1,
            -y_axis.length / (y_axis.last + 1 - y_axis.first) - 1,
            0.12 + 0.88 * np.sqrt(counts[x, y] / most),
            f"{edges[x]:.0f}–{edges[x + 1]:.0f} × {edges[y]:.0f}–{edges[y + 1]:.0f}: {number(counts[x, y])}",
        )
        for x, y in np.argwhere(counts)
    ]
    return Markup().join(elements)


def map_labels(x_axis: Axis, y_axis: Axis) -> Markup:
    ticks = nice_ticks(x_axis)
    base = y_axis.position(y_axis.edges[y_axis.first])
    texts = [text_at(x_axis.position(at), base + 16, f"{at:.0f}", "middle") for at in ticks]
    texts += [text_at(LEFT - 5, y_axis.position(at) + 3.5, f"{at:.0f}", "end") for at in ticks]
    names = [text_at(MAP - RIGHT, base - 6, "width, pixels", "end"), text_at(LEFT + 5, 20, "height, pixels", "start")]
    return Markup().join([*texts, *names])


def allowed(x_axis: Axis, y_axis: Axis, side: float, ratio: float) -> Markup:
    """The outline of the sizes that the rules accept."""
    end = float(x_axis.edges[x_axis.last + 1])
    near, far = min(side * ratio, end), max(end / ratio, side)
    points = [(side, near), (side, side), (near, side), (end, far), (end, end), (far, end)]
    path = " ".join(f"{x_axis.position(x):.1f},{y_axis.position(y):.1f}" for x, y in points)
    return Markup('<polygon class="allowed" points="{}"/>').format(path)


def share_curve(counts: npt.NDArray[np.int64], label: str) -> Markup:
    """Which share of all the most frequent k of the counted things make up, over k; dashed: all equally often."""
    reached = np.cumsum(np.sort(counts)[::-1]) / max(1, counts.sum())
    shown = np.unique(np.linspace(0, len(reached) - 1, 200).astype(int))
    x_axis = Axis(np.arange(len(reached) + 1.0), False, 0, len(reached) - 1, LEFT, WIDTH - LEFT - RIGHT)
    high = HEIGHT - TOP - BOTTOM
    points = [(LEFT, HEIGHT - BOTTOM)]
    points += [(x_axis.position(rank + 1), HEIGHT - BOTTOM - high * reached[rank]) for rank in shown]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    body = share_grid() + tick_labels(x_axis, nice_ticks(x_axis), number)
    body += Markup('<polyline class="curve" points="{}"/>').format(path)
    body += Markup('<line class="mark" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, TOP
    )
    return svg(WIDTH, HEIGHT, label, body)


def share_grid() -> Markup:
    """Horizontal lines at a quarter, a half, three quarters and all."""
    at = [(part, HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)) for part in (0.25, 0.5, 0.75, 1.0)]
    line = '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
    return Markup().join(
        Markup(line).format(LEFT, WIDTH - RIGHT, y) + text_at(LEFT - 5, y + 3.5, f"{part:.0%}", "end") for part, y in at
    )
