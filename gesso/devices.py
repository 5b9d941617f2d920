"""Is there a GPU? Told before torch is loaded. Standard library only."""

import ctypes
import os
import sys
from collections.abc import Sequence

from gesso.errors import UserError

DRIVER = "libcuda.so.1"


def check_device(name: str) -> None:
    """Raises UserError where `name`, as of --device, is `cuda` and this machine has no driver for it."""
    if name == "cuda" and not has_cuda_driver():
        raise UserError("--device is cuda and this machine has no CUDA driver: give --device cpu")


def has_cuda_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def preset_of(argv: Sequence[str], with_gpu: str, without: str) -> str:
    """The value of --preset among a training's flags; where there is none, one for this machine, which is said."""
    for number, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name == "--preset":
            return value if equals else next(iter(argv[number + 1 :]), "")
    has_gpu = has_cuda_driver()
    preset = with_gpu if has_gpu else without
    if os.environ.get("RANK", "0") == "0" and not {"-h", "--help"} & set(argv):
        why = "a CUDA driver" if has_gpu else "no CUDA driver"
        print(f"--preset {preset}, since this machine has {why}", file=sys.stderr)
    return preset
