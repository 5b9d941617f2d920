"""An export → its page: funnel, splits, sizes, captions, pictures of both splits. No Beam."""

from typing import Any, NamedTuple

from gesso import storage
from gesso.dataset import export, manifest
from gesso.dataset.layout import CARD, MANIFEST, SPLITS, rows_name
from gesso.pipelines.report import charts, page, samples
from gesso.pipelines.report.charts import Segment, number, share
from gesso.pipelines.report.samples import Picture
from gesso.pipelines.report.survey import Survey

Json = dict[str, Any]

STEPS = {
    "overlap": "duplicates of reference pictures",
    "repeat_exact": "the same picture as another sample's",
    "repeat_near": "near-duplicates of another sample",
    "listed": "named by a list of the user's own",
}


class Shards(NamedTuple):
    """The committed shards of a split."""

    indexes: list[int]
    samples: int
    bytes: int  # of tars and parquets


def committed(output: str) -> dict[str, Shards]:
    """The shards of each split, of an unfinished export those that are done."""
    found = {split: manifest.committed(storage.join(output, split)) for split in SPLITS}
    return {split: shards_of(markers) for split, markers in found.items()}


def shards_of(markers: dict[int, Json]) -> Shards:
    sizes = [entry["bytes"] for marker in markers.values() for entry in marker["files"].values()]
    return Shards(list(markers), sum(int(marker["count"]) for marker in markers.values()), sum(sizes))


def row_files(output: str, splits: dict[str, Shards]) -> list[str]:
    return [
        storage.join(output, split, rows_name(index)) for split, shards in splits.items() for index in shards.indexes
    ]


def pictures(output: str, splits: dict[str, Shards], most: int) -> dict[str, list[Picture]]:
    """Pictures of each split: of `most` a quarter for validation."""
    wanted = {SPLITS[0]: most - most // 4, SPLITS[1]: most // 4}
    return {
        split: samples.kept_pictures(storage.join(output, split), shards.indexes, wanted[split])
        for split, shards in splits.items()
        if shards.indexes and wanted[split]
    }


def render(name: str, output: str, survey: Survey, splits: dict[str, Shards], most: int) -> str:
    """The whole page; `survey` is of the rows of `splits`, `most` the number of pictures."""
    plan = manifest.read_plan(output) or {}
    finished = storage.exists(storage.join(output, MANIFEST))
    versions = (manifest.read_object(storage.join(output, MANIFEST)) or {}).get("versions", {}) if finished else {}
    total, done = len(export.targets(plan)), sum(len(shards.indexes) for shards in splits.values())
    return page.render_template(
        "export.html.j2",
        name=name,
        state="" if finished else f"Not finished: {number(done)} of {number(total)} shards are done.",
        facts=facts(plan, splits),
        line=funnel_line(plan["funnel"]),
        steps=steps(plan["funnel"]),
        splits=split_rows(plan["samples"], splits),
        decisions=decisions(plan["overlaps"]),
        charts=[chart for chart in page.size_charts(survey, {}) if chart],
        captions=page.captions(survey),
        pictures=pictures(output, splits, most),
        inputs=[(item.get("kind", "table"), item.get("path") or item.get("name", "")) for item in plan["input"]],
        settings=plan["settings"],
        versions=versions,
        card=CARD if finished else "",
    )


def facts(plan: Json, splits: dict[str, Shards]) -> list[tuple[str, str]]:
    """The numbers at the top of the page, each with its label."""
    kept, read = sum(plan["samples"].values()), plan["funnel"]["samples_read"]
    return [
        (number(kept), "pictures with captions"),
        (share(kept, read), f"of {number(read)} samples read"),
        (number(plan["samples"][SPLITS[1]]), "for validation"),
        (page.size(sum(shards.bytes for shards in splits.values())), "in tars and their rows"),
        (number(sum(len(shards.indexes) for shards in splits.values())), "shards"),
    ]


def dropped(funnel: Json) -> dict[str, int]:
    return {name: count for name, count in funnel.items() if name != "samples_read" and name not in SPLITS}


def funnel_line(funnel: Json) -> str:
    gone = sum(dropped(funnel).values())
    if not gone:
        return "No drop list was given, or none of its samples is here: every sample is kept."
    return f"{number(gone)} samples ({share(gone, funnel['samples_read'])}) were dropped."


def steps(funnel: Json) -> list[Json]:
    """What is left after each drop list, and the two splits."""
    read = left = int(funnel["samples_read"])
    rows = [page.step("Samples read", "", left, 0, read, "")]
    for reason, gone in dropped(funnel).items():
        left -= gone
        rows.append(page.step(f"Less {reason}", "repeats", left, gone, read, STEPS.get(reason, reason)))
    return rows + [split_step(split, int(funnel[split]), read) for split in SPLITS if split in funnel]


def split_step(split: str, count: int, read: int) -> Json:
    drawn = charts.bar([Segment("kept", count, f"{split}: {number(count)}")], read)
    return {"label": split.capitalize(), "count": number(count), "share": share(count, read), "bar": drawn, "lost": ""}


def split_rows(planned: dict[str, int], splits: dict[str, Shards]) -> list[tuple[str, ...]]:
    """Name, samples, shards and bytes of each split."""
    return [
        (split, number(planned[split]), number(len(shards.indexes)), page.size(shards.bytes))
        for split, shards in splits.items()
    ]


def decisions(overlaps: list[Json]) -> list[tuple[str, ...]]:
    """What a person decided about each overlap."""
    return [
        (
            f"{overlap['threshold']:.4g}",
            number(overlap["references"]),
            number(overlap["duplicates"]),
            number(overlap["uids"]),
            overlap["who"] or "–",
        )
        for overlap in overlaps
    ]
