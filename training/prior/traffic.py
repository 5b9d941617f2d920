"""What an update of a prior sends, and the time it takes, estimated. Nothing is sent; counting alone knows torch.

within a machine    gathers and reduce-scatters of blocks, while others are computed
between machines    plain all-reduce of the matrices' gradients, while backward goes on; PowerSGD's P and Q' after it
over all processes  one float32 all-reduce of all other gradients, after backward
"""

from typing import NamedTuple

from gesso.training.prior.counting import flops
from gesso.training.prior.memory import FLOAT, WIRE_BYTES, Setup, factor_sizes


class Cluster(NamedTuple):
    """The machines, all alike."""

    machines: int
    gpus: int  # of a machine
    bandwidth: float  # of a machine's network, which its GPUs share, bytes a second in each direction
    link: float  # of a GPU to the others of its machine, the same
    peak: float  # of a GPU, FLOP/s
    mfu: float  # share of the peak that is used, recomputation left out of the count


class Traffic(NamedTuple):
    """Bytes that each process hands to collectives in an update."""

    gathered: float  # matrices, whole, in forward and in backward
    scattered: float  # their gradients, whole
    plain: float  # gradients of its shards, all-reduced over the replicas
    compressed: float  # P and Q' in place of them; 0 without PowerSGD
    bucket: float  # all other gradients, float32

    @property
    def between(self) -> float:
        """Of the matrices, over the replicas."""
        return self.compressed or self.plain

    @property
    def saving(self) -> float:
        """Share of the plain all-reduce that PowerSGD spares."""
        return 1 - self.between / self.plain if self.plain else 0.0


class Times(NamedTuple):
    """Seconds of an update."""

    compute: float
    within: float
    between: float
    bucket: float
    exposed: float  # of communication for which nothing is computed

    @property
    def update(self) -> float:
        return self.compute + self.exposed


def traffic(setup: Setup) -> Traffic:
    """Without a second replica nothing is all-reduced over them, and without a second process nothing is sent."""
    whole, reduced = setup.matrices * setup.shards, setup.weight_bytes * setup.matrices
    gathers = 2 * setup.compute.accumulate * setup.compute_bytes if setup.fsdp else 0
    scatters = setup.weight_bytes if setup.fsdp else 0
    several = setup.replicas > 1
    compressed = WIRE_BYTES[setup.training.wire] * sum(factor_sizes(setup)) * several
    bucket = FLOAT * setup.replicated * (setup.processes > 1)
    return Traffic(gathers * whole, scatters * whole, reduced * several, compressed, bucket)


def times(setup: Setup, cluster: Cluster) -> Times:
    """Rings: an all-reduce passes twice what it is handed through each process, a gather once; and each ring enters a
    machine once, so that those of all ordinals share its network."""
    sent, several = traffic(setup), cluster.machines > 1
    each = flops(setup.config) * setup.training.batch_size / setup.processes
    compute = each / (cluster.peak * cluster.mfu)
    network = cluster.bandwidth if several else cluster.link
    link = min(cluster.link, network) if setup.shards > cluster.gpus else cluster.link
    rings = min(setup.shards, cluster.gpus) if several else 1
    within = passed(sent.gathered + sent.scattered, setup.shards) / link
    between = 2 * rings * passed(sent.between, setup.replicas) / network
    bucket = 2 * passed(sent.bucket, setup.processes) / network
    hidden = 0 if sent.compressed else backward_share(setup) * compute
    exposed = max(0, within - compute) + max(0, between - hidden) + bucket
    return Times(compute, within, between, bucket, exposed)


def passed(size: float, processes: int) -> float:
    """Of `size` bytes what a ring of processes passes on."""
    return size * (processes - 1) / processes


def backward_share(setup: Setup) -> float:
    """Part of the computation that plain all-reduces run beside: the backward pass of the last part of the batch."""
    return (3 / 4 if setup.compute.recompute else 2 / 3) / setup.compute.accumulate
