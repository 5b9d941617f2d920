"""Is there a model of that name? Told before torch and open_clip are loaded. Standard library only."""

import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from gesso import storage
from gesso.errors import UserError

SHIPPED = "detector"


def is_detector(name: str) -> bool:
    """Whether `name`, as of --model, is the shipped detector, or a file or run of one; else it is open_clip's."""
    return name == SHIPPED or name.endswith(".safetensors") or Path(storage.plain(name)).exists()


def check_name(name: str) -> None:
    """Raises UserError where `name` is neither a detector nor one of open_clip's, as far as that is installed."""
    if name.endswith(".safetensors") and not Path(storage.plain(name)).exists():
        raise UserError(f"--model {name}: there is no such file")
    known = open_clip_names()
    if known and not is_detector(name) and name not in known:
        close = ", ".join(get_close_matches(name, known, 3, 0))
        raise UserError(f"--model {name} is not a file, a run or a model of open_clip: similar names are {close}")


def open_clip_names() -> list[str]:
    """The models that open_clip knows, by its files where it is not loaded yet; none where it is not installed."""
    if "open_clip" in sys.modules:
        return sorted(sys.modules["open_clip"].list_models())
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec else None
    return sorted(path.stem for folder in folders or () for path in Path(folder, "model_configs").glob("*.json"))
