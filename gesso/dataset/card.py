"""An export's dataset card (README.md) with the front matter that hubs read, and its list of references to leave out.

The front matter follows Hugging Face's card metadata (hub-docs, datasetcard.md). No Beam; reads no files.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gesso.dataset.layout import DROPPED, LEFT_OUT, MANIFEST, SPLITS
from gesso.dataset.records import ROWS_READ, SUCCESS

if TYPE_CHECKING:
    import pyarrow as pa

Json = dict[str, Any]

# The fields of an overlap but for the list of its references.
DECISION_FIELDS = (
    *("path", "reference", "model", "threshold", "judged", "who", "when"),
    *("references", "pairs", "duplicates", "uids"),
)
POWERS = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")  # bounds of the hub's size categories
KNOWN_LICENCES = frozenset(
    {"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-2.0", "cc-by-sa-3.0", "pddl"}
)
SHOWN_LICENCES = 20
TARS = "tars"  # what `gesso index` read, as the kind of its input
KNOWN_SOURCES = ("shards", "images")  # of embeddings; others do not tell what they were made of
DROPS = {
    "overlap": "duplicates of reference pictures, by a person's decision",
    "repeat_exact": "the same picture as another sample's, which stays",
    "repeat_near": "a near-duplicate of another sample, which stays",
    "listed": "named by a drop list of the user's own",
}

LOADING = """\
Hugging Face datasets, from this folder or from a hub:

```python
from datasets import load_dataset

train = load_dataset("PATH", split="train", streaming=True)  # jpg, txt, json
```

webdataset:

```python
import webdataset as wds

samples = wds.WebDataset("train/{00000..LAST}.tar", shardshuffle=True).decode("pil").to_tuple("jpg", "txt")
```

One sample at random, without reading the tar before it (`offset` and `bytes` are the whole sample's range, `image_…`,
`caption_…` and `json_…` those of the files in it):

```python
import pandas as pd

row = pd.read_parquet("train/00000.parquet").iloc[123]
with open("train/00000.tar", "rb") as tar:
    tar.seek(row.image_offset)
    jpeg = tar.read(row.image_bytes)
```
"""
LIMITS = """\
- Captions are alternative texts and the like from the web: they may be wrong, and name people, brands and places.
- No filter for violence, nudity, personal data or bias has been applied by these tools.
- The rows have a licence only where the source's table has one; the picture behind a link may have another.
- Duplicates whose embeddings are not similar are not found; the decision covers only the nearest pairs that were
  searched.
- Links die: `url` says where a picture came from, not that it is still there.
"""


def render(plan: Json, bytes_of: Mapping[str, int], schema: "pa.Schema | None") -> str:
    """README.md of a planned export; `bytes_of` has the bytes of each split's files.

    `schema` has the columns that KEY.json may have; None where img2dataset wrote it.
    """
    sections = {
        "Splits": splits(plan, bytes_of),
        "Sources": sources(plan),
        "Funnel": funnel(plan),
        "Rules": rules(plan),
        "Overlap with reference pictures": overlaps(plan["overlaps"]),
        "Licences": licences(plan),
        "Loading": LOADING.replace("LAST", f"{max(1, shards_of(plan, SPLITS[0])) - 1:05d}"),
        "Known limits": LIMITS,
    }
    body = "\n".join(f"## {title}\n\n{text.strip()}\n" for title, text in sections.items())
    return f"{front_matter(plan, schema)}\n# Image-text pairs\n\n{opening(plan)}\n\n{body}"


def opening(plan: Json) -> str:
    total, done = sum(plan["samples"].values()), "deduplicated, shuffled" if plan["listed"] else "shuffled"
    origin = "from tars that others made: indexed" if of_index(plan) else "from links on the web: collected, filtered"
    return (
        f"{total:,} pictures with captions, {origin} and {done}\n"
        f"by gesso. `{MANIFEST}` has the size and checksum of every file; the order within a split is that of a\n"
        "global shuffle, so that shards may be read one after the other."
    )


def of_index(plan: Json) -> bool:
    """Whether the samples come from an index of tars."""
    return any(item.get("kind") == TARS for item in plan["source_input"])


def front_matter(plan: Json, schema: "pa.Schema | None") -> str:
    """The YAML block that hubs read; strings are quoted as in JSON, which is valid YAML."""
    fields: Json = {
        "pretty_name": "Image-text pairs, prepared by gesso"
        if of_index(plan)
        else "Image-text pairs, collected by gesso",
        **licence_fields(plan),
        **({"language": ["en"]} if plan["source_settings"].get("english") else {}),
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(sum(plan["samples"].values()))],
        "source_datasets": ["original"],
        "tags": ["webdataset", "image-text"],
    }
    lines = [line for name, value in fields.items() for line in yaml_lines(name, value)]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in SPLITS:
        if plan["samples"][split]:
            lines += [f"  - split: {split}", f"    path: {json.dumps(f'{split}/*.tar')}"]
    if schema is not None:
        from gesso.dataset import features

        lines.append(features.yaml_line(schema, plan.get("picture_suffixes", features.JPEG)))
    return "\n".join(["---", *lines, "---", ""])


def yaml_lines(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"{name}:", *(f"- {json.dumps(item, ensure_ascii=False)}" for item in value)]
    return [f"{name}: {json.dumps(value, ensure_ascii=False)}"]


def licence_fields(plan: Json) -> Json:
    """The licence of all samples where there is a single one that the hub knows; else `per-sample` or `unknown`."""
    counted = plan["licences"] or {}
    sole = next(iter(counted)).lower() if len(counted) == 1 else ""
    if sole in KNOWN_LICENCES:
        return {"license": sole}
    if plan["licence_column"]:
        return {"license": "other", "license_name": "per-sample"}
    return {"license": "unknown"}


def size_category(samples: int) -> str:
    """The hub's name for so many samples: n<1K, 1K<n<10K, …, n>1T."""
    power = next((at for at in range(len(POWERS)) if samples < 10 ** (3 + at)), None)
    if power is None:
        return f"n>{POWERS[-1]}"
    return f"{POWERS[power - 1]}<n<{POWERS[power]}" if power else f"n<{POWERS[0]}"


def shards_of(plan: Json, split: str) -> int:
    return sum(entry["split"] == split for entry in plan["shards"])


def splits(plan: Json, bytes_of: Mapping[str, int]) -> str:
    rows = [
        (split, f"{samples:,}", f"{shards_of(plan, split):,}", f"{bytes_of[split]:,}")
        for split, samples in plan["samples"].items()
    ]
    settings = plan["settings"]
    return (
        table(("split", "samples", "shards", "bytes"), rows)
        + f"\nThe validation samples are the {settings['validation_size']:,} with the smallest hashes of their keys, "
        f"whatever the sharding\nand the seed (which is {settings['seed']}, and decides the order)."
    )


def sources(plan: Json) -> str:
    rows = [(f"`{item['path']}`", item.get("kind", "table of links"), checksums(item)) for item in plan["input"]]
    rows += [(f"`{table_name(item)}`", source_kind(item), checksums(item)) for item in plan["source_input"]]
    return table(("what", "kind", "identified by"), rows)


def source_kind(item: Json) -> str:
    return f"{item['tars']:,} tars" if item.get("kind") == TARS else "table of links"


def table_name(item: Json) -> str:
    """Without the folder, which plans of gesso before December 2026 have."""
    return str(item["name"] if "name" in item else item["path"].rpartition("/")[2])


def checksums(item: Json) -> str:
    """The checksums of an input, or its size."""
    found = [f"{name} {value[:16]}…" for name, value in item.items() if name.endswith("sha256") and value]
    return ", ".join(found) or f"{item.get('bytes', 0):,} bytes"


def funnel(plan: Json) -> str:
    """From the rows of the tables of links, or the samples of tars, to those of the splits."""
    collected: Json = plan["source_funnel"] or {}
    indexed = of_index(plan)
    rows = [(name_of(name), f"{count:,}", step_meaning(name, indexed)) for name, count in collected.items()]
    rows += [(name_of(name), f"{count:,}", export_meaning(name)) for name, count in plan["funnel"].items()]
    text = table(("step", "number", "meaning"), rows)
    lost = {reason: count for reason, count in plan["not_found"].items() if count}
    if lost:
        counts = ", ".join(f"{count:,} of `{reason}`" for reason, count in lost.items())
        text += f"\nThe drop lists name samples that the shards do not hold: {counts}."
    return text + (f"\n`{DROPPED}` names every dropped sample with its reason." if plan["dropped"] else "")


def name_of(name: str) -> str:
    return f"`{name}`"


def step_meaning(name: str, indexed: bool = False) -> str:
    from gesso.dataset.reasons import meaning

    read, taken = ("samples of the tars", "indexed") if indexed else ("rows of the tables of links", "collected")
    return {ROWS_READ: read, SUCCESS: taken}.get(name, meaning(name))


def export_meaning(name: str) -> str:
    known = {"samples_read": "samples of the collected shards", **DROPS}
    return known.get(name, "exported")


def rules(plan: Json) -> str:
    """The settings of the collection and of this export."""
    settings = {**plan["source_settings"], **plan["settings"]}
    rows = [(f"`{name}`", f"`{json.dumps(value, ensure_ascii=False)}`") for name, value in settings.items()]
    return table(("setting", "value"), rows)


def overlaps(decisions: list[Json]) -> str:
    return "\n\n".join(map(overlap, decisions)) or "No overlap with reference pictures was searched for this export."


def overlap(decision: Json) -> str:
    """One decision: who, when, on which matches, and its consequences."""
    reference = decision["reference"]
    source = reference["source"] if reference["source"]["kind"] in KNOWN_SOURCES else {"path": reference["embeddings"]}
    model = ", ".join(f"{name} {value}" for name, value in decision["model"].items() if value is not None)
    in_views = f" in {reference['views']} views each" if reference.get("views", 1) > 1 else ""
    rows = [
        ("reference pictures", f"{decision['references']:,}{in_views}, `{source['path']}`"),
        ("model", model),
        ("pairs searched", f"{decision['pairs']:,}"),
        ("threshold (cosine)", f"{decision['threshold']:g}"),
        ("pairs judged one by one", f"{decision['judged']:,}"),
        ("decided by", f"{decision['who']}, {decision['when']}"),
        ("duplicate pairs", f"{decision['duplicates']:,}"),
        ("training samples dropped", f"{decision['uids']:,}"),
        ("references to leave out of evaluation", f"{len(decision['leave_out']):,}, listed in `{LEFT_OUT}`"),
    ]
    return table(("", ""), rows)


def licences(plan: Json) -> str:
    column = plan["licence_column"]
    if column is None:
        return "The rows have no licence column: the rights of each picture are those of its link."
    counted: dict[str, int] | None = plan["licences"]
    if counted is None:
        return f"The column `{column}` has too many different values to be listed here."
    rows = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    shown = [(value or "(none)", f"{count:,}") for value, count in rows[:SHOWN_LICENCES]]
    if rows[SHOWN_LICENCES:]:
        shown.append(("others", f"{sum(count for _, count in rows[SHOWN_LICENCES:]):,}"))
    return table((f"`{column}`", "samples"), shown)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def left_out(overlaps: list[Json]) -> str:
    """coco_overlap.json: the references that evaluation must leave out, and the decisions on them."""
    keys = sorted({key for each in overlaps for key in each["leave_out"]})
    decisions = [
        {**{name: each[name] for name in DECISION_FIELDS}, "left_out": len(each["leave_out"])} for each in overlaps
    ]
    value = {"format": 1, "kind": "left_out", "leave_out": keys, "overlaps": decisions}
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
