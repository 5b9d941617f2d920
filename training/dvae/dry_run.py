"""`gesso train dvae --dry_run`: parameters, memory and schedules of a run as text. Nothing is read or written."""

from gesso.training.dvae.counting import FLOAT, STATES, Cost, count
from gesso.training.dvae.schedules import rates
from gesso.training.dvae.settings import Run
from gesso.training.dvae.trainer import DTYPES

MIB = 1 << 20


def describe(run: Run, processes: int) -> str:
    """Parameters, FLOPs, memory of each process by kind, and the schedules."""
    cost = count(run.dvae, DTYPES[run.compute.precision], run.compute.recompute)
    return "\n".join([*parameters(cost), "", *memory(run, cost, processes), "", *schedules(run)])


def parameters(cost: Cost) -> list[str]:
    return [
        f"parameters of the encoder  {cost.encoder:>13,}",
        f"parameters of the decoder  {cost.decoder:>13,}",
        f"parameters in all          {cost.parameters:>13,}",
        f"operations per picture     {cost.flops / 1e9:>13,.1f} GFLOP, forward and backward",
    ]


def memory_by_kind(run: Run, cost: Cost, processes: int) -> dict[str, float]:
    """Bytes of one process by kind; with fsdp the weights and their states are sharded."""
    shards = processes if run.compute.parallel == "fsdp" else 1
    pictures = -(-run.training.batch_size // (processes * run.compute.accumulate))
    states = dict.fromkeys(STATES, cost.parameters * FLOAT / shards)
    activations = {f"activations of {pictures} pictures": cost.activations * pictures}
    return {**states, "weights in lower precision": cost.copies, **activations}


def memory(run: Run, cost: Cost, processes: int) -> list[str]:
    """MiB of one process by kind, and their sum."""
    kinds = memory_by_kind(run, cost, processes)
    lines = [f"{name:27}{amount / MIB:>13,.0f} MiB" for name, amount in kinds.items()]
    total = sum(kinds.values())
    return [*lines, f"{'memory of one process':27}{total / MIB:>13,.0f} MiB; processes: {processes}"]


def schedules(run: Run) -> list[str]:
    """The scheduled values at the start, at the ends of the schedules, and between."""
    ends = {run.training.beta_steps, run.training.temperature_steps, run.training.learning_rate_steps}
    marks = sorted({0, *ends, *(max(ends) * part // 4 for part in (1, 2, 3)), run.steps})
    lines = [f"{'update':>10}  {'learning rate':>13}  {'temperature':>11}  {'beta':>6}"]
    for step in marks:
        now = rates(step, run.training)
        lines.append(f"{step:>10,}  {now.learning_rate:>13.3g}  {now.temperature:>11.4f}  {now.beta:>6.3f}")
    return lines
