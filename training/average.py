"""The moving average of the weights, in float32 in the CPU's memory, blended in every few updates. torch.

From a GPU the weights are copied on a stream of their own into pinned memory, and blended by a thread, while the
training goes on (paper section 4: decay 0.99, every 25 updates).
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class Average:
    """average ← decay × average + (1 - decay) × weights, after each update whose number is a multiple of `every`.

    `parameters` are plain tensors by name (of a spread model, a process's shards), all on one device. `tensors` are the
    averages; read them, or fill them in place on a resume, after `wait` only. They depend on the updates alone, not on
    when copies and thread finish.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float, every: int) -> None:
        self._parameters = {name: value.detach() for name, value in parameters.items()}
        self._weight, self._every = 1 - decay, every
        self.tensors = {name: to_cpu(value).clone() for name, value in self._parameters.items()}
        devices = {value.device for value in self._parameters.values() if value.is_cuda}
        self._copies = Copies(self._parameters, devices.pop()) if devices else None
        self._thread = ThreadPoolExecutor(1, "average")
        self._blending: Future[None] | None = None

    def update(self, step: int) -> None:
        """Call it after update `step`, with its new weights in the parameters. Waits for the blending before it."""
        if step % self._every:
            return
        self.wait()
        if self._copies is None:
            self._blend(self._parameters)
        else:
            self._copies.start()
            self._blending = self._thread.submit(self._blend_copies, self._copies)

    def before_change(self) -> None:
        """Call it before the parameters are changed: the changes that follow on this stream wait for the copies."""
        if self._copies is not None:
            self._copies.hold()

    def wait(self) -> None:
        """Until `tensors` are those after the last `update`. Raises what the thread raised, from then on each time."""
        if self._blending is not None:
            self._blending.result()
            self._blending = None

    def _blend_copies(self, copies: "Copies") -> None:
        copies.done.synchronize()
        self._blend(copies.tensors)

    @torch.no_grad()
    def _blend(self, weights: Mapping[str, Tensor]) -> None:
        for name, average in self.tensors.items():
            average.lerp_(to_cpu(weights[name]), self._weight)


class Copies:
    """Copies of a GPU's tensors in pinned memory, in their own type, made on a stream of their own."""

    def __init__(self, sources: Mapping[str, Tensor], device: torch.device) -> None:
        self._sources, self._device = sources, device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.tensors = {
            name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for name, value in sources.items()
        }
        self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """Copies the sources as the current stream leaves them; returns at once."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for name, value in self._sources.items():
                self.tensors[name].copy_(value, non_blocking=True)
            self.done.record()

    def hold(self) -> None:
        """Lets the current stream wait for the copies."""
        torch.cuda.current_stream(self._device).wait_event(self.done)


def to_cpu(tensor: Tensor) -> Tensor:
    """In float32 on the CPU; of a tensor that is so already, itself."""
    return tensor.to("cpu", torch.float32)
