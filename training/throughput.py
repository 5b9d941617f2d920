"""Speed of a training: images or tokens a second, memory, and the share of the GPUs' peak that is used. torch."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import torch

from gesso.processes import Group

# Dense peak of a GPU's matrix units in fp16 and bf16, FLOP/s (vendors' data sheets).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "V100": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12}
# In fp32 torch computes convolutions in TF32 where a GPU can.
PEAKS_FP32 = {
    "H200": 494e12,
    "H100": 494e12,
    "A100": 156e12,
    "V100": 15.7e12,
    "L40S": 183e12,
    "L40": 90e12,
    "L4": 60e12,
}


class Throughput:
    """Measures the time between two records."""

    def __init__(
        self, group: Group, step: int, items: int, flops: float = 0.0, peak: float = 0.0, unit: str = "images"
    ) -> None:
        """`items`: of an update, in `unit`; `flops`: operations of an item, forward and backward; `peak`: of one GPU,
        FLOP/s. Without `flops` or `peak` there is no MFU.
        """
        self._group, self._step, self._items, self._unit = group, step, items, unit
        self._share = flops / (peak * group.size) if peak else 0.0
        self._since = monotonic()

    def measure(self, step: int) -> dict[str, float]:
        """`images_per_second` (or other items) since the last call, `memory_mib`, and `mfu` where it is known."""
        now = monotonic()
        rate = (step - self._step) * self._items / max(1e-9, now - self._since)
        self._since, self._step = now, step
        mfu = {"mfu": rate * self._share} if self._share else {}
        return {f"{self._unit}_per_second": rate, "memory_mib": memory(self._group.device), **mfu}

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time of the body out of the measurement."""
        start = monotonic()
        yield
        self._since += monotonic() - start


def memory(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_flops(device: torch.device, precision: str) -> float:
    """Peak FLOP/s of a GPU; 0 where it is not known, as on a CPU."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    table = PEAKS_FP32 if precision == "fp32" else PEAKS
    return next((value for part, value in table.items() if part in name), 0.0)
