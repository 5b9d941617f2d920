"""How far a directory of each kind is, from its files: a function that reads it at each call. No pyarrow, no torch.

index                       the markers of the tars that the plan counts
collection, img2dataset     status.CollectionProgress: the plan, markers, progress files
export, tokens              the markers of both splits
embeddings                  the markers of the blocks that the plan counts
matches, repeats            the markers of parts, until the manifest counts the result
dvae, prior, contrastive    run.json and metrics.jsonl
generated                   the captions that have a record of their pictures
tokenizer, detector, bundle whether the file that is written last is there
"""

from collections.abc import Callable
from math import isfinite
from typing import Any

from gesso import progress, storage
from gesso.dataset import export, manifest
from gesso.dataset.kinds import RUN, TRAININGS, Kind
from gesso.dataset.layout import MANIFEST
from gesso.dataset.progress import IndexProgress
from gesso.generation.layout import GENERATED, MODEL, RECORD
from gesso.progress import State
from gesso.training import metrics_file
from gesso.training.layout import METRICS

Json = dict[str, Any]

Reader = Callable[[], State]
LAST = {  # the file that is written last
    "tokenizer": "tokenizer.json",
    "detector": "detector.safetensors",
    "bundle": MODEL,
    "generated": GENERATED,
}
# Of a training's metrics, with their names for people.
SHOWN = {"loss": "loss", "val_loss": "validation loss", "val_psnr": "validation PSNR"}


def reader(path: str, kind: Kind) -> Reader:
    """For every kind but collections."""
    readers: dict[str, Callable[[str], Reader]] = {
        "export": export.ExportProgress,
        "tokens": export.ExportProgress,
        "index": lambda path: IndexProgress(path, (manifest.read_plan(path) or {}).get("shards", 0)),
        "embeddings": lambda path: lambda: embeddings(path),
        "matches": lambda path: lambda: search(path),
        "repeats": lambda path: lambda: search(path),
        "tokenizer": lambda path: lambda: last_file(path, LAST["tokenizer"]),
        "detector": lambda path: lambda: last_file(path, LAST["detector"]),
        "bundle": lambda path: lambda: last_file(path, LAST["bundle"]),
        "generated": lambda path: lambda: generated(path),
        **{name: lambda path: lambda: training(path) for name in TRAININGS},
    }
    return readers[kind.name](path)


def is_finished(path: str, kind: Kind) -> bool:
    if kind.name in TRAININGS:
        now = training(path)
        return now.total is not None and now.done >= now.total
    return is_written(path, LAST.get(kind.name, MANIFEST))


def embeddings(path: str) -> State:
    """The blocks that are committed, and the images in them."""
    markers = manifest.committed(path)
    images = sum(int(marker["successes"]) for marker in markers.values())
    plan = manifest.read_plan(path)
    total = plan["shards"] if plan else len(markers)
    done = len(markers)
    views = plan["settings"].get("views", 1) if plan else 1
    text = f"{images:,} images embedded" + (f" in {views} views each" if views > 1 else "")
    return State(done, total, lambda rate: f"{progress.line(done, total, 'shards', rate)} · {text}")


def search(path: str) -> State:
    """The parts of a search that are committed; of how many is not written down. Then what was found."""
    described = manifest.read_object(storage.join(path, MANIFEST)) if is_written(path, MANIFEST) else None
    if described:
        return State(1, 1, lambda rate: found(described))
    done = len(manifest.committed(path))
    return State(done, None, lambda rate: f"parts searched: {done:,}")


def found(manifest: Json) -> str:
    """What a search's manifest counts."""
    if "dropped" in manifest:
        dropped = " · ".join(f"{reason} {count:,}" for reason, count in manifest["dropped"].items())
        return f"{manifest['samples']:,} samples · {dropped}"
    views = manifest["reference"].get("views", 1)
    in_views = f" in {views} views each" if views > 1 else ""
    return f"{manifest['references']:,} references{in_views} among {manifest['samples']:,} training pictures"


def training(path: str) -> State:
    """A run's last update, its speed at the last record that has one, and the time that is left at that speed."""
    about = storage.read_json(storage.join(path, RUN))
    records = metrics_file.read(storage.join(path, METRICS))
    step, steps = int(records[-1]["step"]) if records else 0, about.get("settings", {}).get("steps")
    last = {name: value for record in records for name, value in record.items() if isfinite(value)}
    figures = [f"{text} {last[name]:.4g}" for name, text in SHOWN.items() if name in last]
    shown = progress.line(step, steps, "updates", update_rate(about, last)) if steps else f"update {step:,}"
    return State(step, steps, lambda rate: " · ".join([shown, *figures]))


def update_rate(about: Json, last: Json) -> float:
    """Updates a second, from a run's last speed in images or tokens; 0 where none is known."""
    items = {
        "images_per_second": about.get("settings", {}).get("batch_size"),
        "tokens_per_second": about.get("loop", {}).get("tokens_per_update"),
    }
    return next((last[name] / count for name, count in items.items() if count and name in last), 0.0)


def generated(path: str) -> State:
    """The captions whose pictures are all there."""
    plan = manifest.read_plan(path) or {}
    total = plan.get("captions", 0)
    done = sum(item.path.endswith(f"/{RECORD}") for item in storage.walk(path))
    return State(done, total, lambda rate: progress.line(done, total, "captions", rate))


def is_written(path: str, name: str) -> bool:
    return storage.exists(storage.join(path, name))


def last_file(path: str, name: str) -> State:
    there = is_written(path, name)
    return State(int(there), 1, lambda rate: f"{name} is {'written' if there else 'not written yet'}")
