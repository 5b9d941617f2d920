"""run.json: the settings and the data that a run began with; whether a command continues that run. No torch.

    {"format": 1, "kind": "dvae", "preset": …, "settings": …, "loop": …, "data": …, "parameters": …, "versions": …}

`kind` is the model that is trained, `settings` decide the weights; a kind may have fewer parts or others.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from gesso import storage
from gesso.errors import UserError
from gesso.flags import differences
from gesso.training.layout import RECORD

Json = dict[str, Any]

FORMAT = 1


def write(output: str, kind: str, **parts: Any) -> None:
    storage.write_json(storage.join(output, RECORD), {"format": FORMAT, "kind": kind, **parts})


def read(output: str, kind: str) -> Json:
    """The record of a run, empty where there is none yet.

    Raises UserError where the output holds a run of another kind, or a record that is damaged.
    """
    path = storage.join(output, RECORD)
    if not storage.exists(path):
        return {}
    try:
        record: Json = storage.read_json(path)
        found, _ = record["kind"], record["settings"] if record["kind"] == kind else {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged ({error!r}): restore it, or give another --output") from error
    if found != kind:
        raise UserError(f"{output} holds a run of another kind, {found!r}: give another --output")
    return record


def check_settings(output: str, old: Json, new: Json) -> None:
    """Raises UserError with every difference to the settings that a run began with."""
    changed = differences(old, new)
    if changed:
        raise UserError(
            f"{output} was begun with other settings: {'; '.join(changed)}; give those, or another --output"
        )


def check_data(output: str, old: Json, new: Json) -> None:
    """Raises UserError where a run began with other samples of a split. Shards in quarantine may differ.

    Both are `Split.identity()` by split; `old` is empty for a new run.
    """
    for split, identity in old.items():
        if identity["manifest_sha256"] != new[split]["manifest_sha256"]:
            raise UserError(
                f"{output} was begun with other samples for {split}, of {identity['path']}: give that --data, "
                "or another --output"
            )


def versions(packages: Iterable[str]) -> dict[str, str]:
    return {name: version(name) for name in packages}
