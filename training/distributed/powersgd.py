"""PowerSGD (DALL-E paper, section 2.5 and appendix E): gradients summed over replicas as thin factors. torch.

Each matrix has an error buffer E, to which its gradients are added; there is no other gradient. An update sends
P = E·Q, which is made orthonormal, and Q' = Eᵀ·P, and is G = P·Q'ᵀ, the same in every replica. What G has is taken from
the buffers, so that no gradient is lost: sum of all updates + sum of the buffers = sum of all gradients, at any rank.
Nothing here knows of processes: whoever compresses hands over a function that sums tensors over the replicas.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.training.data.randomness import seed_of
from gesso.training.precision import formats

EPSILON = 1e-6  # times the identity, added to P: zero gradients have a basis too
# What is sent in fp16 is multiplied by this power of two: sums up to 512 do not overflow, those from 5e-7 on are normal
# numbers. Gradients are parts of a sum, which is not larger with more replicas.
SCALE = {torch.float16: 2.0**7}

AllReduce = Callable[[list[Tensor]], None]  # replaces the elements of each tensor by their sums over the replicas


class Buffer(NamedTuple):
    """How error buffers are stored: `write(values, out)` converts float32 to `dtype`, `read` back to a new one."""

    dtype: torch.dtype
    write: Callable[[Tensor, Tensor], Tensor]
    read: Callable[[Tensor], Tensor]


BUFFERS = {
    "1-6-9": Buffer(
        torch.int16,
        lambda values, out: formats.encode(values, formats.MEAN, out),
        lambda codes: formats.decode(codes, formats.MEAN),
    ),
    "fp16": Buffer(torch.float16, lambda values, out: out.copy_(values), Tensor.float),
    "fp32": Buffer(
        torch.float32, lambda values, out: out.copy_(values) if values is not out else out, lambda same: same
    ),
}


class PowerSGD:
    """The gradients of one process's shards, compressed. In every update:

    `accumulate` for each matrix, `compress`, `squared_norm`, `gradient` for each matrix, `feedback`.

    shapes: (out, in) of each matrix as torch stores it; the paper's is the transpose, and so P is (in, rank) and Q is
        (out, rank). A rank above the smaller side is cut to it: nothing is lost then, nor saved.
    replicas: number of processes that hold the same shards. Their gradients are parts of a sum, not of a mean.
    seed: Q is Gaussian, drawn once from (seed, name), the same in every replica: the warm start of the original, by
        which Q would be the last Q', has no lower loss, a fresh Q every update a much higher one (paper, appendix E).
    wire: the dtype of P and Q' when they are sent: float16, bfloat16 or float32.
    buffers: a key of BUFFERS. In "1-6-9" elements from 16 on saturate.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        replicas: int,
        seed: int,
        device: torch.device,
        wire: torch.dtype,
        buffers: str,
    ) -> None:
        self.shapes, self.replicas, self.device, self.wire = dict(shapes), replicas, device, wire
        self.scale = SCALE.get(wire, 1.0)
        self.ranks = {name: min(rank, *shape) for name, shape in self.shapes.items()}
        self.buffer = BUFFERS[buffers]
        self.errors = {n: torch.zeros(s, dtype=self.buffer.dtype, device=device) for n, s in self.shapes.items()}
        self.q = {name: gaussian(seed, name, shape[0], self.ranks[name], device) for name, shape in self.shapes.items()}
        self.p: dict[str, Tensor] = {}  # orthonormal (in, rank), and Q' (out, rank), both fp32; empty between updates
        self.q_sum: dict[str, Tensor] = {}
        self.whole: dict[str, Tensor] = {}  # whether the buffers of this update are finite, scalars
        self.sent = 0  # bytes handed over to be summed in the last update
        self.clamped = torch.zeros((), dtype=torch.bool, device=device)  # whether anything was, in the last update

    @property
    def saved(self) -> int:
        """Bytes that the last update did not send, of those that gradients in the dtype of `wire` would take."""
        return sum(rows * columns for rows, columns in self.shapes.values()) * self.wire.itemsize - self.sent

    def error(self, name: str) -> Tensor:
        """The error buffer of a matrix, (out, in), as a new float32 tensor."""
        return self._read(name).clone()

    def _read(self, name: str) -> Tensor:
        """The same without a copy where the buffer is float32 itself."""
        return self.buffer.read(self.errors[name])

    def accumulate(self, name: str, gradient: Tensor) -> None:
        """Adds a gradient (out, in) to the error buffer (step 1). It is unscaled and finite."""
        self.buffer.write(self._read(name).add_(gradient), self.errors[name])

    def compress(self, all_reduce: AllReduce) -> None:
        """Sums the compressed gradients over the replicas: two calls of `all_reduce` (steps 2 to 5)."""
        self.sent = 0
        self.clamped.zero_()
        self.p = self._sum(self._projected, 1, all_reduce)
        orthogonalize(self.p)
        self.q_sum = self._sum(lambda name: self._read(name) @ self.p[name], 0, all_reduce)

    def _projected(self, name: str) -> Tensor:
        """P of this replica. NaN where the buffer is not finite, which reaches all: infinity would be clamped."""
        error = self._read(name)
        self.whole[name] = finite(error)
        return torch.where(self.whole[name], error.T @ self.q[name], torch.nan)

    def _sum(self, factor: Callable[[str], Tensor], side: int, all_reduce: AllReduce) -> dict[str, Tensor]:
        """The sum over the replicas of a factor of each matrix, (shape[side], rank), as float32; clamped.

        Each replica's own is clamped too: opposite infinities would be NaN, now and in all updates to come.
        """
        shapes = [(shape[side], self.ranks[name]) for name, shape in self.shapes.items()]
        sizes = [rows * rank for rows, rank in shapes]
        flat = torch.empty(sum(sizes), dtype=self.wire, device=self.device)
        for name, part in zip(self.shapes, torch.split(flat, sizes), strict=True):
            part.copy_(factor(name).flatten().mul_(self.scale))
        self._clamp(flat)
        all_reduce([flat])
        self.sent += flat.nbytes
        sums = torch.split(self._clamp(flat).float().div_(self.scale), sizes)
        return {name: part.view(shape) for name, shape, part in zip(self.shapes, shapes, sums, strict=True)}

    def _clamp(self, values: Tensor) -> Tensor:
        """Clamps infinities in place to the largest number of the dtype. NaN stays."""
        self.clamped |= values.isinf().any()
        largest = torch.finfo(values.dtype).max
        return values.clamp_(-largest, largest)

    def squared_norm(self) -> Tensor:
        """The squared L2 norm of the compressed gradients, a float32 scalar (step 7). Not finite where any P or Q' is.

        Each replica has the same. Where it is not finite, the update must be skipped.
        """
        return sum((q.square().sum() for q in self.q_sum.values()), torch.zeros((), device=self.device))

    def gradient(self, name: str) -> Tensor:
        """The compressed gradient (out, in), summed over the replicas, as a new float32 tensor (step 8)."""
        return self.q_sum[name] @ self.p[name].T

    def feedback(self, applied: bool) -> None:
        """Takes from the error buffers what the update had of them (step 9), and ends the update.

        applied: whether it was made. Where it was skipped, all gradients stay in the buffers for the next one. A buffer
        that is not finite becomes zero; no other loses anything.
        """
        whole = torch.stack(list(self.whole.values())).tolist()
        for (name, q), kept in zip(self.q_sum.items(), whole, strict=True):
            p, error = self.p[name], self._read(name)
            take = finite(p) & finite(q) & applied
            error.addmm_(torch.where(take, q, 0.0), torch.where(take, p, 0.0).T, alpha=-1 / self.replicas)
            self.buffer.write(error if kept else error.zero_(), self.errors[name])
        self.p, self.q_sum, self.whole = {}, {}, {}

    def summed(self, all_reduce: AllReduce) -> Iterator[tuple[str, Tensor]]:
        """The sum of each error buffer over the replicas, (out, in) as float32, for a checkpoint (step 10).

        One matrix after another is summed when it is asked for. Collective: each replica must ask for all.
        """
        for name in self.shapes:
            total = self.error(name)
            all_reduce([total])
            yield name, total

    def restore(self, sums: Iterable[tuple[str, Tensor]]) -> None:
        """Divides what `summed` gave among the replicas, whose number may be another than then (step 10)."""
        for name, total in sums:
            self.buffer.write(total.to(self.device, torch.float32) / self.replicas, self.errors[name])


def finite(values: Tensor) -> Tensor:
    """Whether all values are finite, a scalar. In one pass, by their sum: it must not overflow float32 itself."""
    return values.sum().isfinite()


def gaussian(seed: int, name: str, rows: int, columns: int, device: torch.device) -> Tensor:
    """A standard Gaussian matrix, drawn on the CPU: the same on any device."""
    if device.type == "meta":
        return torch.empty(rows, columns, device=device)
    generator = torch.Generator().manual_seed(seed_of("powersgd", seed, 0, name))
    return torch.randn(rows, columns, generator=generator).to(device)


def orthogonalize(matrices: dict[str, Tensor]) -> None:
    """Replaces each matrix (m, n), m ≥ n, by an orthonormal basis of its columns + 1e-6 of the identity.

    By Householder reflections, those of equal shape together. Gram–Schmidt fails where columns are nearly dependent.
    """
    groups: dict[torch.Size, list[str]] = {}
    for name, matrix in matrices.items():
        groups.setdefault(matrix.shape, []).append(name)
    for shape, names in groups.items():
        identity = torch.eye(*shape, device=matrices[names[0]].device)
        stacked = torch.stack([matrices[name] for name in names]).add_(identity, alpha=EPSILON)
        matrices.update(zip(names, torch.linalg.qr(stacked).Q, strict=True))
