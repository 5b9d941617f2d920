"""Memory of one process of a prior's training, estimated by kind. Nothing is allocated. torch.

    states     weights, gradients that are kept, moments, error buffers: there all the time
    backward   activations, gathered blocks, gradients on their way: while gradients are computed
    update     PowerSGD's factors, the optimizer's temporary tensors: while weights are updated

The total is that of the states and of the larger of the two phases. All values are bytes. Not counted: the CUDA
context, NCCL's buffers and fragmentation, about 1 GiB of a GPU; scores and keys that the attention forms `structured`
and `sdpa` hold; float32 copies by which a CPU computes in fp16 and bf16.
"""

from typing import NamedTuple

import torch

from gesso.errors import UserError
from gesso.processes import Group
from gesso.training.adamw import GROUPED
from gesso.training.distributed.sharding import shard_count
from gesso.training.prior.counting import parameters
from gesso.training.prior.settings import ComputeSettings, PriorConfig, TrainSettings

FLOAT, HALF = 4, 2  # bytes
ERROR_BYTES = {"1-6-9": HALF, "fp16": HALF, "fp32": FLOAT}
WIRE_BYTES = {"fp16": HALF, "fp32": FLOAT}
MATRIX_COPIES = 6  # float32, of the shards in a group of AdamW: gradient, clipped gradient, weight, both moments, root
BASIS_COPIES = 3  # float32, of all P: stacked, their reflectors, their basis
REPLICATED_COPIES = 2  # of a float32 parameter: clipped gradient, root


class States(NamedTuple):
    """What is there from the first update to the last."""

    weights: float
    gradients: float
    moments: float
    error_buffers: float
    projections: float  # PowerSGD's fixed Q, float32


class Backward(NamedTuple):
    """At the peak of a forward and backward pass, which is in a block, or before all of them in the losses."""

    streams: float  # the identity stream, float32, as it enters each residual block and the last norm
    insides: float  # what other blocks keep; 0 where they are recomputed
    block: float  # what the current block keeps, and the gradients of its activations
    gathered: float  # matrices of two blocks, the current and the prefetched; else copies in bf16
    arriving: float  # gradients of the current block, and those of the last in their reduce-scatter
    losses: float  # or the last norm's output, log-probabilities and their gradients, float32

    @property
    def peak(self) -> float:
        return self.streams + self.insides + max(self.block + self.gathered + self.arriving, self.losses)


class Update(NamedTuple):
    """At the peak of reduction and optimizer."""

    factors: float  # PowerSGD's P and Q', float32
    temporaries: float  # of the optimizer for the parameters that it updates together, or of making all P orthonormal


class Memory(NamedTuple):
    """Bytes of one process, on its device but for the average."""

    states: States
    backward: Backward
    update: Update
    average: float  # in the CPU's memory, float32, and copies of the weights on their way to it

    @property
    def total(self) -> float:
        """Of the device, at the peak."""
        return sum(self.states) + max(self.backward.peak, sum(self.update))


class Setup(NamedTuple):
    """A training, and how it is spread: `shards` processes hold all weights together, `replicas` such groups."""

    config: PriorConfig
    training: TrainSettings
    compute: ComputeSettings
    shards: int
    replicas: int

    @property
    def processes(self) -> int:
        return self.shards * self.replicas

    @property
    def fsdp(self) -> bool:
        return self.compute.parallel == "fsdp" and self.processes > 1

    @property
    def samples(self) -> int:
        """Pairs of a process that pass through the model at once."""
        return -(-self.training.batch_size // (self.processes * self.compute.accumulate))

    @property
    def weight_bytes(self) -> int:
        """Of an element of a matrix, and of its reduced gradient: fp16 is kept as it is, bf16 as float32."""
        return HALF if self.training.precision == "fp16" else FLOAT

    @property
    def compute_bytes(self) -> int:
        return FLOAT if self.training.precision == "fp32" else HALF

    @property
    def matrices(self) -> int:
        """Elements of the matrices that a process holds."""
        return parameters(self.config).matrices // self.shards

    @property
    def replicated(self) -> int:
        """Elements of everything else, which each process holds whole, in float32."""
        counts = parameters(self.config)
        return counts.gains_and_biases + counts.embeddings

    @property
    def rank(self) -> int:
        """Of PowerSGD in one process; 0 without."""
        whole = self.training.compression_rank
        return max(1, whole // self.shards) if whole else 0


def setup(config: PriorConfig, training: TrainSettings, compute: ComputeSettings, processes: int, local: int) -> Setup:
    """How `gesso train prior` spreads it, with `local` processes on a machine. Raises UserError where it cannot."""
    group = Group(0, processes, torch.device("meta"))
    shards = shard_count(group, compute.parallel, compute.shards, local, config.width)
    parts = processes * compute.accumulate
    if training.batch_size % parts:
        factors = f"{processes} processes times --accumulate {compute.accumulate}"
        raise UserError(f"--batch_size is {training.batch_size}: give a multiple of {parts}, {factors}")
    if compute.parallel == "ddp" and processes > 1 and training.compression_rank:
        raise UserError("--parallel is ddp, which reduces gradients itself: give fsdp with --compression_rank")
    return Setup(config, training, compute, shards, processes // shards)


def estimate(setup: Setup) -> Memory:
    """All kinds."""
    kept = states(setup)
    average = FLOAT * (setup.matrices + setup.replicated) + kept.weights
    return Memory(kept, backward(setup), update(setup), average)


def states(setup: Setup) -> States:
    training = setup.training
    weights = setup.weight_bytes * setup.matrices + FLOAT * setup.replicated
    moments = 2 * (training.moments // 8 * setup.matrices + FLOAT * setup.replicated)
    errors = ERROR_BYTES[training.error_buffers] * setup.matrices if setup.rank else 0
    return States(weights, gradients(setup), moments, errors, FLOAT * factor_sizes(setup)[1])


def gradients(setup: Setup) -> float:
    """Those that are kept: the float32 bucket; of the matrices unless they go into error buffers at once; under DDP its
    buckets; and where FSDP accumulates, whole gradients, in the dtype in which they are reduced."""
    bucket, matrices = FLOAT * setup.replicated, setup.weight_bytes * setup.matrices
    kept = bucket + (0 if setup.rank and setup.fsdp else matrices)
    if setup.compute.parallel == "ddp" and setup.processes > 1:
        kept += bucket + matrices
    if setup.fsdp and setup.compute.accumulate > 1:
        kept += setup.weight_bytes * setup.matrices * setup.shards
    return kept


def backward(setup: Setup) -> Backward:
    stream, layers = FLOAT * setup.samples * setup.config.positions * setup.config.width, setup.config.layers
    insides = layers * (attention_bytes(setup) + mlp_bytes(setup)) - mlp_bytes(setup)
    kept = 0 if setup.compute.recompute else insides
    streams = (2 * layers + 1) * stream
    return Backward(streams, kept, block(setup, stream), gathered(setup), arriving(setup), losses(setup))


def block(setup: Setup, stream: float) -> float:
    """Of an MLP, the larger one: after the derivative of GELU, when half of the gradients of its matrices are still to
    come; or at the end, with that of GELU's input, its own input and the gradient of that."""
    unit = setup.compute_bytes * stream / FLOAT
    to_come = min(arriving(setup), 4 * setup.compute_bytes * setup.config.width**2)
    return max(mlp_bytes(setup) + 4 * unit + 2 * stream - to_come, 6 * unit)


def attention_bytes(setup: Setup) -> float:
    """Kept in an attention block: its input in low precision, q, k, v, the output, log-sums of exponents. With sparse
    masks the output in two layouts; in the form `dense` all probabilities, too."""
    config, rows = setup.config, setup.samples * setup.config.positions
    scores = config.heads * rows * config.positions if setup.compute.attention == "dense" else 0
    parts = 6 if config.masks == "sparse" else 5
    return setup.compute_bytes * (parts * rows * config.width + scores) + FLOAT * rows * config.heads


def mlp_bytes(setup: Setup) -> float:
    """Kept in an MLP block: its input in low precision, and that of GELU and its output, four times as wide."""
    return setup.compute_bytes * 9 * setup.samples * setup.config.positions * setup.config.width


def losses(setup: Setup) -> float:
    """From the last norm on: its output, the part of it that each unembedding takes, log-probabilities, and of the
    larger of these two the gradients before and after the softmax."""
    config = setup.config
    hidden = FLOAT * setup.samples * config.positions * config.width
    found = log_probabilities(setup)
    return 2 * hidden + sum(found) + 2 * max(found)


def log_probabilities(setup: Setup) -> tuple[float, float]:
    """Of captions, were all their positions full, and of images."""
    config, each = setup.config, FLOAT * setup.samples
    text, image = (config.text_positions - 1) * config.text_ids, config.tokens.grid**2 * config.tokens.codes
    return each * text, each * image


def gathered(setup: Setup) -> float:
    """An attention block has a third of a layer's matrices and an MLP the rest: two blocks in a row have them all."""
    layer = 12 * setup.config.width**2
    if setup.fsdp:
        return setup.compute_bytes * layer
    if setup.training.precision == "bf16":
        return HALF * (2 / 3 if setup.compute.recompute else setup.config.layers) * layer
    return 0


def arriving(setup: Setup) -> float:
    """Under FSDP: gradients of one kind of block in the dtype of computation, of the other in that of the reduction."""
    attention, low, reduced = 4 * setup.config.width**2, setup.compute_bytes, setup.weight_bytes
    return attention * max(2 * low + reduced, low + 2 * reduced) if setup.fsdp else 0


def update(setup: Setup) -> Update:
    config, (p, q) = setup.config, factor_sizes(setup)
    matrices = MATRIX_COPIES * max(4 * config.width**2 / setup.shards, min(GROUPED["cuda"], setup.matrices))
    largest = REPLICATED_COPIES * max(config.text_ids, config.tokens.codes) * config.width
    return Update(FLOAT * (p + q), FLOAT * max(matrices, largest, BASIS_COPIES * p))


def shard_shapes(setup: Setup) -> list[tuple[int, int]]:
    """(out, in) of each matrix of a layer in one process: split along the longer side."""
    width, shards = setup.config.width, setup.shards
    whole = [(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]
    return [(out, into // shards) if into > out else (out // shards, into) for out, into in whole]


def factor_sizes(setup: Setup) -> tuple[int, int]:
    """Elements of all P, (in, rank), and of all Q', (out, rank), of a process."""
    shapes, layers = shard_shapes(setup), setup.config.layers
    ranks = [min(setup.rank, *shape) for shape in shapes]
    p = sum(into * rank for (_, into), rank in zip(shapes, ranks, strict=True))
    q = sum(out * rank for (out, _), rank in zip(shapes, ranks, strict=True))
    return layers * p, layers * q
