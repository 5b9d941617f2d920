"""run.json: what a run was begun with, and whether a command goes on with it. No torch."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import storage
from gesso.dataset.manifest import LEFT_BEHIND
from gesso.errors import UserError
from gesso.flags import differences
from gesso.training.dvae.settings import Run
from gesso.training.layout import RECORD

if TYPE_CHECKING:
    from gesso.training.data.split import Split

Json = dict[str, Any]

KIND = "dvae"
VERSIONED = ("gesso", "numpy", "opencv-python-headless", "simplejpeg", "torch")
TOLD = ("precision", "parallel", "accumulate", "recompute", "compile")  # of how it is done


def data_of(train: "Split", validation: "Split") -> Json:
    return {"train": train.identity(), "validation": validation.identity()}


def write(run: Run, data: Json, parameters: dict[str, int]) -> None:
    """Settings, data, versions, and the number of parameters of each half."""
    record = {
        "format": 1,
        "kind": KIND,
        "preset": run.preset,
        "settings": {**run.record(), "steps": run.steps},
        "loop": {name: getattr(run.loop, name) for name in TOLD},
        "data": data,
        "parameters": parameters,
        "versions": {name: version(name) for name in VERSIONED},
    }
    storage.write_json(storage.join(run.output, RECORD), record)


def sweep(output: str) -> None:
    """Removes what killed runs have left half-written."""
    for item in storage.walk(output):
        if LEFT_BEHIND.search(item.path):
            storage.remove(item.path)


def check(run: Run) -> Json:
    """What a run was begun with, nothing for a new one.

    Raises UserError with every difference of the settings, and where another kind of run is there, or a damaged record.
    """
    path = storage.join(run.output, RECORD)
    if not storage.exists(path):
        return {}
    try:
        old: Json = storage.read_json(path)
        kind, settings = old["kind"], old["settings"] if old["kind"] == KIND else {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged ({error!r}): bring it back, or give another --output") from error
    if kind != KIND:
        raise UserError(f"{run.output} holds a run of another kind, {kind!r}: give another --output")
    check_settings(run, settings)
    return old


def check_settings(run: Run, old: Json) -> None:
    """Raises UserError with every difference to the settings that a run was begun with."""
    changed = differences(old, run.record())
    if changed:
        raise UserError(
            f"{run.output} was begun with other settings: {'; '.join(changed)}; give those, or another --output"
        )


def check_data(run: Run, old: Json, new: Json) -> None:
    """Raises UserError where a run was begun with other samples; shards that are left out since may differ."""
    for split, told in old.items():
        if told["manifest_sha256"] != new[split]["manifest_sha256"]:
            raise UserError(
                f"{run.output} was begun with other samples for {split}, of {told['path']}: give that --data, "
                "or another --output"
            )
