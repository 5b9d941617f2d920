"""An evaluation as files: its record, a table in Markdown, a chart like figure 9 of the paper (arXiv 2102.12092)."""

from typing import Any

from gesso import storage
from gesso.evaluation.figures import NAMES

Json = dict[str, Any]

RECORD, PAGE, CHART = "evaluation.json", "evaluation.md", "evaluation.png"
SCALES = {"kid": 1000}  # of a figure in the table
DIGITS = {"fid": 2, "inception_score": 2, "kid": 3, "clip_score": 2}
CHARTED = ("fid", "inception_score")
NO_FIGURE = "–"


def write(output: str, record: Json) -> None:
    """The record last: with it the evaluation is done."""
    draw(storage.join(output, CHART), record)
    with storage.write_whole(storage.join(output, PAGE)) as stream:
        stream.write(page(record).encode())
    storage.write_json(storage.join(output, RECORD), record)


def page(record: Json) -> str:
    named = ((name, record[name]["pictures"], record[name]["name"]) for name in ("generated", "reference"))
    sides = "".join(f"- {name}: {count:,} pictures of `{folder}`\n" for name, count, folder in named)
    notes = "".join(f"- {note}\n" for note in record["notes"])
    return f"# Evaluation\n\n{sides}{notes}\n{table(record)}\n\n![{CHART}]({CHART})\n"


def table(record: Json) -> str:
    """A line for each set of pictures and radius, each figure with its 95% interval."""
    names = names_of(record)
    head = ["pictures", "blur, pixels", "generated", "reference", *map(heading, names, names.values())]
    lines = [
        [row["pictures"], f"{row['blur']:g}", f"{row['generated']:,}", f"{row['reference']:,}"]
        + [shown(name, row[name]) for name in NAMES]
        for row in record["rows"]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def names_of(record: Json) -> dict[str, str]:
    """The figures' names: FID is Inception's alone."""
    return NAMES if "inception" in record.get("models", {}) else {**NAMES, "fid": "Fréchet distance"}


def heading(name: str, shown: str) -> str:
    return f"{shown} × {SCALES[name]:,}" if name in SCALES else shown


def shown(name: str, figure: Json | None) -> str:
    """`27.50 (26.91 to 28.07)`."""
    if figure is None:
        return NO_FIGURE
    value, low, high = (f"{figure[part] * SCALES.get(name, 1):.{DIGITS[name]}f}" for part in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def draw(path: str, record: Json) -> None:
    """FID, and the Inception Score where there is one, against the radius, with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, shown = record["rows"], names_of(record)
    names = [name for name in CHARTED if all(row[name] for row in rows)]
    canvas = Figure(figsize=(5 * len(names), 3.8), layout="constrained")
    FigureCanvasAgg(canvas)
    for name, axes in zip(names, canvas.subplots(1, len(names), squeeze=False)[0], strict=True):
        for pictures in dict.fromkeys(row["pictures"] for row in rows):
            chosen = [row for row in rows if row["pictures"] == pictures]
            values = [row[name]["value"] for row in chosen]
            reach = [
                [row[name]["value"] - row[name]["low"] for row in chosen],
                [row[name]["high"] - row[name]["value"] for row in chosen],
            ]
            axes.errorbar([row["blur"] for row in chosen], values, reach, marker="o", capsize=3, label=pictures)
        axes.set_xticks(sorted({row["blur"] for row in rows}))
        axes.set_xlabel("radius of the blur on both sides, pixels")
        axes.set_ylabel(shown[name])
        axes.grid(alpha=0.3)
        axes.legend()
    with storage.write_whole(path) as stream:
        canvas.savefig(stream, format="png", dpi=150, metadata={"Software": None})
