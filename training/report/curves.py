"""Figures over the steps as inline SVG: thinned, smoothed, with axes. Knows numbers and words alone.

┌ .plot ──────────────────────────┐   The SVG of 1000 × 1000 is stretched over the frame with lines that keep their
│ .ticks │ .frame (svg, crosshair) │   width; ticks are text beside it at percentages, so that letters keep their
│        │ .steps                  │   size on every screen.
└──────────────────────────────────┘
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

from markupsafe import Markup

from gesso.training.report.run import Point
from gesso.training.report.words import short

MOST = 600  # points of a line: a figure has about as many pixels
SIDE = 1000.0  # of the SVG's own coordinates
MANY = 100  # points from which the outermost 1% at either end may leave the frame
WINDOWS = 50  # smoothing reaches over a fiftieth of the records
TICKS = 5
DOTTED = 60  # points above which dots would run together
MARGIN = 0.06  # of the frame's height, above and below


class Line(NamedTuple):
    """A figure's line: `kind` is its class in the style sheet, `dots` marks each point."""

    label: str
    kind: str
    points: Sequence[Point]
    dots: bool = False
    depth: float | None = None  # of what it belongs to, 0 to 1, which gives its colour


class Scale(NamedTuple):
    """Maps values to 0…1: 0 at `low`, 1 at `high`."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        if self.log:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else nice_numbers(self.low, self.high, TICKS)


@dataclass(frozen=True)
class Panel:
    """A figure: its lines over one axis. `across` names that axis, `level` is a dashed line at a value.

    `missing`: what it means that a value is no number. The lines `behind` the others are not read by hovering.
    """

    key: str
    title: str
    unit: str
    lines: Sequence[Line]
    log: bool = False
    small: bool = False
    across: str = "step"
    level: tuple[float, str] | None = None
    missing: str = "not a number"
    behind: Sequence[Line] = ()

    @cached_property
    def drawn(self) -> list[Line]:
        """The lines with what can be drawn of them."""
        lines = [line._replace(points=thin(drawable(line.points, self.log))) for line in self.lines]
        return [line for line in lines if line.points]

    @property
    def broken(self) -> list[int]:
        """Where a value is not finite."""
        steps = sorted({step for line in self.lines for step, value in line.points if not isfinite(value)})
        return [steps[place] for place in range(0, len(steps), ceil(len(steps) / MOST))] if steps else []


# ── numbers ──


def drawable(points: Sequence[Point], log: bool) -> list[Point]:
    return [(step, value) for step, value in points if isfinite(value) and (value > 0 or not log)]


def thin(points: Sequence[Point], most: int = MOST) -> Sequence[Point]:
    """At most `most` points: the first, the last, and of each of equal runs between the lowest and the highest.

    So no peak is lost. Points keep their order.
    """
    if len(points) <= most:
        return points
    inner, runs = points[1:-1], (most - 2) // 2
    kept = [points[0]]
    for run in range(runs):
        kept += extremes(inner[len(inner) * run // runs : len(inner) * (run + 1) // runs])
    return [*kept, points[-1]]


def extremes(points: Sequence[Point]) -> list[Point]:
    """The lowest and the highest point, in their order; one where they are the same."""
    places = range(len(points))
    low, high = min(places, key=lambda at: points[at][1]), max(places, key=lambda at: points[at][1])
    return [points[at] for at in sorted({low, high})]


def smooth(points: Sequence[Point]) -> list[Point]:
    """An exponential mean over about a fiftieth of the points, without the pull to zero at the start.

    Values that are not finite are left out.
    """
    finite = drawable(points, log=False)
    keep = 1 - 1 / max(1, len(finite) / WINDOWS)
    total = weight = 0.0
    smoothed = []
    for step, value in finite:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append((step, total / weight))
    return smoothed


def nice_numbers(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two values, at most `most` or so."""
    rough = max((high - low) / most, 1e-12)
    base = 10.0 ** floor(log10(rough))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= rough)
    return [round(step * place, 12) for place in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, at most TICKS or so; with 2 and 5 between where there are few, round numbers where none."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    decades = [10.0**power for power in powers]
    dense = [value * factor for value in decades for factor in (1, 2, 5)]
    for ticks in (decades, dense):
        inside = [value for value in ticks if low <= value <= high]
        if len(inside) >= 3:
            return inside[:: ceil(len(inside) / (TICKS + 1))]
    return [value for value in nice_numbers(low, high, TICKS) if value > 0]


def upright(lines: Sequence[Line], log: bool, level: float | None = None) -> Scale:
    """The vertical scale: over `level` and all points but the outermost 1% of long lines, with a margin."""
    ends = [end for line in lines for end in reach([value for _, value in line.points])]
    ends += [] if level is None else [level]
    low, high = min(ends), max(ends)
    if log:
        low, high = (low, high) if high > 1.5 * low else (low / 1.5, high * 1.5)
        margin = (high / low) ** MARGIN
        return Scale(low / margin, high * margin, log=True)
    margin = MARGIN * (high - low) or abs(high) / 10 or 1.0
    return Scale(low - margin if low < 0 or low >= margin else 0.0, high + margin)


def reach(values: Sequence[float]) -> tuple[float, float]:
    ordered, skipped = sorted(values), len(values) // 100 if len(values) >= MANY else 0
    return ordered[skipped], ordered[-1 - skipped]


# ── drawing ──


def draw(panel: Panel, last: int) -> Markup:
    """The figure from 0 (ranks: from 1) to `last` across; empty where it has nothing to show."""
    lines = panel.drawn
    if not lines:
        return Markup("")
    across = Scale(1 if panel.across == "rank" else 0, max(last, 2))
    up = upright([*panel.behind, *lines], panel.log, panel.level and panel.level[0])
    body = [grid(up), *(path(line, across, up) for line in [*panel.behind, *lines]), crosses(panel.broken, across)]
    if panel.level:
        body.insert(1, level(up.place(panel.level[0])))
    return Markup(
        '<figure class="panel{}" data-panel="{}" data-across="{}" data-first="{}" data-last="{:.0f}">'
        '<figcaption><h3>{}</h3><span class="unit">{}</span></figcaption><p class="readout">{}</p>'
        '<div class="plot">{}<div class="frame" tabindex="0" role="img" aria-label="{}">'
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
        '<div class="cross" hidden></div></div>{}</div></figure>'
    ).format(
        " small" if panel.small else "",
        panel.key,
        panel.across,
        across.low,
        across.high,
        panel.title,
        panel.unit,
        readout(panel, lines),
        beside(up),
        f"{panel.title}, {panel.unit}: " + ", ".join(f"{line.label} {short(line.points[-1][1])}" for line in lines),
        Markup().join(body),
        under(across, panel.across),
    )


def grid(up: Scale) -> Markup:
    return Markup().join(
        Markup('<line class="grid" x1="0" x2="1000" y1="{0:.1f}" y2="{0:.1f}"/>').format(SIDE * (1 - up.place(at)))
        for at in up.ticks()
    )


def level(place: float) -> Markup:
    return Markup('<line class="level" x1="0" x2="1000" y1="{0:.1f}" y2="{0:.1f}"/>').format(SIDE * (1 - place))


def path(line: Line, across: Scale, up: Scale) -> Markup:
    """The line, and its dots as strokes without length, which stay round however the SVG is stretched."""
    places = [f"{SIDE * across.place(step):.1f} {SIDE * (1 - up.place(value)):.1f}" for step, value in line.points]
    depth = "" if line.depth is None else Markup(' style="--depth:{:.0f}%"').format(100 * line.depth)
    drawn = Markup('<path class="{}"{} d="M{}"/>').format(line.kind, depth, "L".join(places))
    if (line.dots and len(places) <= DOTTED) or len(places) == 1:
        drawn += Markup('<path class="dots {}" d="{}"/>').format(line.kind, "".join(f"M{at}h0" for at in places))
    return drawn


def crosses(steps: Sequence[int], across: Scale) -> Markup:
    """Marks at the top where a value was not finite."""
    marks = "".join(f"M{SIDE * across.place(step):.1f} 0v60" for step in steps)
    return Markup('<path class="broken" d="{}"/>').format(marks) if marks else Markup("")


def readout(panel: Panel, lines: Sequence[Line]) -> Markup:
    """The legend, with each line's last value until the pointer is over a figure."""
    parts = [
        Markup('<span class="{}"><i></i>{} <b>{}</b></span>').format(line.kind, line.label, short(line.points[-1][1]))
        for line in lines
    ]
    if panel.level:
        parts.append(Markup('<span class="level"><i></i>{} {}</span>').format(panel.level[1], short(panel.level[0])))
    if panel.broken:
        parts.append(Markup('<span class="broken"><i></i>{}</span>').format(panel.missing))
    return Markup(" ").join(parts)


def beside(up: Scale) -> Markup:
    ticks = Markup().join(
        Markup('<span style="bottom:{:.2f}%">{}</span>').format(100 * up.place(at), short(at)) for at in up.ticks()
    )
    return Markup('<div class="ticks" aria-hidden="true">{}</div>').format(ticks)


def under(across: Scale, name: str) -> Markup:
    ticks = Markup().join(
        Markup('<span style="left:{:.2f}%">{}</span>').format(100 * across.place(at), compact(at))
        for at in nice_numbers(across.low, across.high, TICKS)
    )
    return Markup('<div class="steps" aria-hidden="true">{}<em>{}</em></div>').format(ticks, name)


def compact(value: float) -> str:
    """A step for an axis: 500, 20k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def data(panels: Sequence[Panel]) -> dict[str, list[list[list[float]]]]:
    """What hovering reads: each figure's lines as [[steps], [values]], six figures to a value."""
    return {
        panel.key: [
            [[step for step, _ in line.points], [float(f"{value:.6g}") for _, value in line.points]]
            for line in panel.drawn
        ]
        for panel in panels
    }
