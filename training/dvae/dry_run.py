"""`gesso train dvae --dry_run`: what a preset takes, in words. Nothing is read or written."""

from gesso.training.dvae.counting import FLOAT, STATES, Takes, count
from gesso.training.dvae.schedules import rates
from gesso.training.dvae.settings import Run
from gesso.training.dvae.trainer import DTYPES

MIB = 1 << 20


def tell(run: Run, processes: int) -> str:
    """Parameters, operations, memory by kind of each process, and the schedules."""
    takes = count(run.dvae, DTYPES[run.loop.precision], run.loop.recompute)
    return "\n".join([*parameters(takes), "", *memory(run, takes, processes), "", *schedules(run)])


def parameters(takes: Takes) -> list[str]:
    return [
        f"parameters of the encoder  {takes.encoder:>13,}",
        f"parameters of the decoder  {takes.decoder:>13,}",
        f"together                   {takes.parameters:>13,}",
        f"operations of a picture    {takes.operations / 1e9:>13,.1f} GFLOP, forward and backward",
    ]


def memory(run: Run, takes: Takes, processes: int) -> list[str]:
    """By kind, MiB of one process: shares of the weights' states with fsdp, else all of them."""
    shares = processes if run.loop.parallel == "fsdp" else 1
    held = -(-run.learn.batch_size // (processes * run.loop.accumulate))
    kinds = [(name, takes.parameters * FLOAT / shares) for name in STATES]
    kinds.append(("weights in lower precision", takes.copies))
    kinds.append((f"activations of {held} pictures", takes.activations * held))
    lines = [f"{name:27}{amount / MIB:>13,.0f} MiB" for name, amount in kinds]
    total = sum(amount for _, amount in kinds)
    return [*lines, f"{'memory of a process':27}{total / MIB:>13,.0f} MiB, {processes} in all"]


def schedules(run: Run) -> list[str]:
    """The rates at the beginning, the ends of the schedules, and at points between."""
    ends = {run.learn.beta_steps, run.learn.temperature_steps, run.learn.learning_rate_steps}
    marks = sorted({0, *ends, *(max(ends) * part // 4 for part in (1, 2, 3)), run.steps})
    lines = [f"{'update':>10}  {'step size':>10}  {'temperature':>11}  {'beta':>6}"]
    for step in marks:
        now = rates(step, run.learn)
        lines.append(f"{step:>10,}  {now.learning_rate:>10.3g}  {now.temperature:>11.4f}  {now.beta:>6.3f}")
    return lines
