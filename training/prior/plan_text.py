"""The estimate of `gesso plan` as text. torch only counts."""

from collections.abc import Iterator

from gesso.progress import seconds
from gesso.training.prior.advice import ways
from gesso.training.prior.counting import parameters
from gesso.training.prior.memory import Memory, Setup, estimate
from gesso.training.prior.plan_settings import Plan
from gesso.training.prior.sizes import shown
from gesso.training.prior.traffic import Cluster, Times, Traffic, times, traffic

WIDTH = 58  # of the texts before numbers
# The fields of the three parts of Memory, in their order.
STATES = (
    "weights",
    "gradients that are kept",
    "AdamW's moments",
    "PowerSGD's error buffers",
    "PowerSGD's fixed Q",
)
BACKWARD = (
    "identity stream at each residual block, float32",
    "what else the other blocks keep",
    "the current block's, and its activations' gradients",
    "gathered blocks, the current and the prefetched",
    "gradients of blocks before they are reduced",
    "before these: log-probabilities and their gradients",
)
UPDATE = ("PowerSGD's P and Q'", "temporary tensors")


def describe(plan: Plan, setup: Setup, cluster: Cluster) -> str:
    """All parts, a blank line between two."""
    memory = estimate(setup)
    parts = [
        header(plan, setup),
        memory_lines(plan, memory),
        traffic_lines(plan, setup, traffic(setup)),
        time_lines(plan, setup, times(setup, cluster), cluster),
        verdict(plan, setup, memory),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def header(plan: Plan, setup: Setup) -> Iterator[str]:
    counts = parameters(plan.config)
    matrices, others = counts.matrices, counts.total - counts.matrices
    yield f"{plan.preset}: {counts.total:,} parameters, {matrices:,} in matrices of blocks, {others:,} in float32"
    replicas = f"{setup.replicas:,} replica{'s'[: setup.replicas > 1]}"
    shards = f"weights in {setup.shards:,} shards" if setup.shards > 1 else "whole weights"
    yield f"machines × GPUs: {plan.machines:,} × {plan.gpus:,}; {replicas} of {shards}"
    parts = f" in {setup.compute.accumulate} parts" if setup.compute.accumulate > 1 else ""
    each = plan.training.batch_size // plan.processes
    yield f"{plan.training.batch_size:,} pairs an update, {each:,} a GPU{parts}, {plan.training.precision}"


def memory_lines(plan: Plan, memory: Memory) -> Iterator[str]:
    """Kinds that take nothing are left out."""
    binary = plan.memory.binary

    def kinds(names: tuple[str, ...], sizes: tuple[float, ...]) -> Iterator[str]:
        yield from (row(name, shown(amount, binary)) for name, amount in zip(names, sizes, strict=True) if amount)

    yield "memory of a GPU"
    yield from kinds(STATES, memory.states)
    yield " while gradients are computed"
    yield from kinds(BACKWARD, memory.backward)
    yield " while weights are updated"
    yield from kinds(UPDATE, memory.update)
    yield row("total: all the time, and the larger of the two phases", shown(memory.total, binary))
    average = f"{shown(memory.average * plan.gpus, binary)} a machine"
    yield row("in the CPU's memory: average of the weights", shown(memory.average, binary), average)


def traffic_lines(plan: Plan, setup: Setup, sent: Traffic) -> Iterator[str]:
    """Bytes that a GPU hands to each kind of collective."""
    binary, amounts = plan.memory.binary, []
    if setup.fsdp:
        amounts += [("all-gathers of blocks", sent.gathered, ""), ("reduce-scatters of gradients", sent.scattered, "")]
    if setup.replicas > 1:
        amounts.append(("all-reduce over replicas, plain", sent.plain, ""))
    if sent.compressed:
        share = f"{sent.saving:.1%} less, rank {setup.rank} of a shard"
        amounts.append(("all-reduce over replicas, PowerSGD", sent.compressed, share))
    if sent.bucket:
        amounts.append(("all-reduce of the other gradients, float32", sent.bucket, ""))
    yield "communication of an update, of a GPU" if amounts else "communication: none, there is one GPU"
    yield from (row(name, shown(amount, binary), note) for name, amount, note in amounts)


def time_lines(plan: Plan, setup: Setup, spent: Times, cluster: Cluster) -> Iterator[str]:
    """Seconds of an update by kind, and of the whole run."""
    rate = plan.training.batch_size / spent.update
    network = f"{shown(cluster.bandwidth, False)}/s of a machine" if plan.machines > 1 else "its link"
    when = "after backward" if traffic(setup).compressed else "beside backward"
    yield "time of an update"
    yield row("computation", f"{spent.compute:.2f} s", f"{cluster.mfu:.0%} of {cluster.peak / 1e12:g} TFLOP/s")
    if spent.within:
        note = f"beside the computation, {shown(cluster.link, False)}/s of a GPU"
        yield row("gathers and reduce-scatters", f"{spent.within:.2f} s", note)
    if spent.between:
        yield row("all-reduce over replicas", f"{spent.between:.2f} s", f"{when}, {network}")
    if spent.bucket:
        yield row("all-reduce of the other gradients", f"{spent.bucket:.2f} s", "after backward")
    yield row("total, with what does not overlap", f"{spent.update:.2f} s", f"{rate:,.1f} images/s")
    yield row(f"whole run of {plan.steps:,} updates", seconds(plan.steps * spent.update))


def verdict(plan: Plan, setup: Setup, memory: Memory) -> Iterator[str]:
    """One line; where it does not fit also what to change."""
    binary, limit = plan.memory.binary, plan.memory.bytes
    sizes = f"{shown(memory.total, binary)} of {shown(limit, binary)}"
    if memory.total <= limit:
        yield f"fits: {sizes} of a GPU; CUDA and NCCL take about 1 GiB besides"
        return
    found = ways(setup, plan.gpus, limit)
    yield f"does not fit: {sizes} of a GPU; " + ("what would take less:" if found else "only a smaller model would")
    if not binary and memory.total <= limit * 1.024**3:
        yield row("--memory in GiB, as GPUs sold by GB have it", shown(limit * 1.024**3, False), "fits")
    for way in found:
        yield row(way.flags, shown(way.total, binary), "fits" if way.total <= limit else "still too much")


def row(name: str, amount: str, note: str = "") -> str:
    return f"  {name:{WIDTH}}{amount:>15}  {note}".rstrip()
