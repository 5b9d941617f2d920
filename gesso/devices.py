"""Is there a GPU? Told before torch is loaded. Standard library only."""

import ctypes

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
