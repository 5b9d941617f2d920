"""`gesso train dvae`: clean shards → a discrete VAE (paper section 2), on one core or many GPUs.

    position ─ order of (seed, epoch) ─▶ sample ─ crop ─▶ encoder ─ relaxed codes ─▶ decoder ─▶ logit-Laplace + KL

Order, crops and noise depend on seed, epoch and sample alone: a run that is stopped and started again on as many
processes and threads ends with the same weights (on CPU to the last bit), on other numbers with the same up to
rounding. Several processes: `torchrun --nproc_per_node 8 -m gesso train dvae …`.
"""

import os
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, cast

from gesso import storage
from gesso.errors import UserError
from gesso.flags import Formatter, add_flags, at_least, path, read_flags
from gesso.training.dvae import record
from gesso.training.dvae.settings import PRESETS, STEPS, DvaeConfig, LearnSettings, LoopSettings, Run

if TYPE_CHECKING:
    from gesso.processes import Group
    from gesso.training.data.split import Damaged, Split
    from gesso.training.dvae.figures import Figures
    from gesso.training.dvae.trainer import Trainer

DESCRIPTION = """\
Clean shards → a discrete VAE (paper section 2). The same command again goes on where it stopped; --steps says only
when to stop, the schedules are the preset's.
"""


def build_parser(preset: str = "paper") -> ArgumentParser:
    parser = ArgumentParser("gesso train dvae", description=DESCRIPTION, formatter_class=Formatter)
    what = parser.add_argument_group("input and output")
    what.add_argument("--data", type=path, metavar="DIR", help="what `gesso export` was given as --output")
    what.add_argument("--output", type=path, metavar="DIR", help="where the run goes, a folder of this machine")
    what.add_argument("--preset", choices=tuple(PRESETS), default="paper", help="defaults of all that follows")
    what.add_argument("--steps", type=int, default=STEPS[preset], metavar="INT", help="the update to stop after")
    dry_help = "tell what the preset takes, and do nothing"
    what.add_argument("--dry_run", action="store_true", default=SUPPRESS, help=dry_help)
    add_flags(parser, "dvae", DvaeConfig)
    add_flags(parser, "training", LearnSettings)
    add_flags(parser, "how it is done", LoopSettings)
    parser.set_defaults(**PRESETS[preset])
    return parser


def parse(argv: Sequence[str]) -> tuple[Run, bool]:
    """The run, and whether it is a dry one."""
    first = ArgumentParser(add_help=False)
    first.add_argument("--preset", choices=tuple(PRESETS), default="paper")
    given = build_parser(first.parse_known_args(argv)[0].preset).parse_args(argv)
    at_least(1, steps=given.steps)
    dry = hasattr(given, "dry_run")
    if not dry and not (given.data and given.output):
        raise UserError("give --data, what `gesso export` wrote, and --output, where the run goes; or --dry_run")
    if given.output and not storage.is_local(given.output):
        raise UserError(f"--output is {given.output}: give a folder of this machine, or of one that it has mounted")
    settings = (read_flags(given, kind) for kind in (DvaeConfig, LearnSettings, LoopSettings))
    return Run(given.data or "", given.output or "", given.preset, given.steps, *settings), dry  # type: ignore[arg-type]


def main(argv: Sequence[str]) -> int:
    """`gesso train dvae`: trains to the last step, or until it is told to stop."""
    run, dry = parse(argv)
    if dry:
        from gesso.training.dvae import dry_run

        print(dry_run.tell(run, int(os.environ.get("WORLD_SIZE", "1"))))
        return 0
    from gesso.processes import processes, stopping

    with processes() as group, stopping() as stop:
        through = begin_and_train(run, group, lambda: group.agreed(bool(stop)))
        if group.rank == 0:
            print(f"{run.output}: {through}; `gesso report {run.output}` shows it")
    return 0


def begin_and_train(run: Run, group: "Group", stop: Callable[[], bool]) -> str:
    """Opens the data and the run, and trains; how far it came, in words."""
    train, validation = group.first(lambda: open_data(run))
    try:
        return train_on(run, group, train, validation, stop)
    except OSError as error:
        told = error.strerror or str(error)
        raise UserError(f"{run.output} cannot be written ({told}): mend that, the same command goes on") from error


def open_data(run: Run) -> "tuple[Split, Split]":
    """Both splits. Raises UserError where they, or the settings, are not those that the run was begun with."""
    from gesso.training.data.split import open_split

    old = record.check(run)
    damaged = cast("Damaged", run.loop.damaged)
    train, validation = (open_split(run.data, split, damaged) for split in ("train", "validation"))
    record.check_data(run, old.get("data", {}), record.data_of(train, validation))
    return train, validation


def train_on(run: Run, group: "Group", train: "Split", validation: "Split", stop: Callable[[], bool]) -> str:
    from gesso.training.dvae.counting import size
    from gesso.training.dvae.trainer import Trainer

    with closing(Trainer(run, group, train, validation)) as trainer:
        if trainer.step >= run.steps:
            return f"update {trainer.step:,} is done already, more --steps go on"
        if group.rank == 0:
            record.sweep(run.output)
            parameters = {half: size(getattr(trainer.model, half)) for half in ("encoder", "decoder")}
            record.write(run, record.data_of(train, validation), parameters)
        with open_figures(run, group, trainer) as figures:
            loop(run, trainer, figures, stop)
    return f"through update {trainer.step:,}" if trainer.step == run.steps else f"stopped after update {trainer.step:,}"


def open_figures(run: Run, group: "Group", trainer: "Trainer") -> "Figures":
    from gesso.training.dvae.counting import count
    from gesso.training.dvae.figures import Figures, peak

    most = peak(group.device, run.loop.precision)
    operations = count(run.dvae).operations / most if most else 0.0
    return Figures(run.output, group, trainer.step, run.steps, run.learn.batch_size, operations)


def loop(run: Run, trainer: "Trainer", figures: "Figures", stop: Callable[[], bool]) -> None:
    """An update, its figures, now and then an evaluation and a checkpoint; to the last step, or until `stop`.

    Figures are written before the checkpoint: what a killed run leaves behind its last checkpoint is made again.
    """
    with trainer.batches() as batches:
        while trainer.step < run.steps:
            update = trainer.update(next(batches))
            step, stopped = trainer.step, stop()
            last, values, nats = step == run.steps, {}, None
            regular = step % run.loop.log_every == 0
            if regular or last:
                values = {**update, **trainer.usage(keep=not regular), **figures.speed(step), **trainer.place()}
            if step % run.loop.evaluate_every == 0 or last:
                with figures.pause():
                    found = trainer.evaluate()
                    figures.write_pictures(step, found)
                values, nats = {**values, **found.values}, found.values["val_nats_per_dim"]
            figures.write(step, values)
            if trainer.improves(nats) or step % run.loop.save_every == 0 or last or stopped:
                trainer.save()
            trainer.check_saving()
            figures.show(step, {**update, **values})
            if stopped:
                return
