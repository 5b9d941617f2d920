"""`gesso train dvae`: clean shards → a discrete VAE (DALL-E paper, section 2.1), on a CPU or on many GPUs.

    position ─ order of (seed, epoch) ─▶ sample ─ crop ─▶ encoder ─ relaxed codes ─▶ decoder ─▶ logit-Laplace + KL

Order, crops and noise depend on seed, epoch and sample alone. A run that is stopped and continued on as many processes
and threads ends with the same weights (on a CPU to the last bit), on another number with the same up to rounding.
Several processes: `torchrun --nproc_per_node 8 -m gesso train dvae …`.
"""

import os
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from gesso import storage
from gesso.devices import preset_of
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, at_least, one_of, path, read_flags
from gesso.training import run_record
from gesso.training.dvae.settings import PRESETS, STEPS, DvaeConfig, Run, TrainSettings
from gesso.training.launch import Stop, drive, launch
from gesso.training.settings import ComputeSettings, LoopSettings

if TYPE_CHECKING:
    from gesso.processes import Group
    from gesso.training.data.shards import Damaged
    from gesso.training.data.split import Split
    from gesso.training.dvae.trainer import Trainer
    from gesso.training.throughput import Throughput

KIND = "dvae"
VERSIONED = ("gesso", "numpy", "opencv-python-headless", "simplejpeg", "torch")
DESCRIPTION = """\
Trains a discrete VAE (DALL-E paper, arXiv 2102.12092, section 2.1) on the shards of an export. Run the same command
again to continue a run that was stopped. --steps says only when to stop; the schedules have their own flags.
"""


PRESET_HELP = "sets the defaults of the flags below; without it paper where there is a CUDA driver, else tiny"


def build_parser(preset: str = "paper") -> Parser:
    parser = Parser("gesso train dvae", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument("--data", type=path, metavar="DIR", default=SUPPRESS, help="the --output of `gesso export`")
    what.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        default=SUPPRESS,
        help="local folder for checkpoints, metrics and evaluations",
    )
    what.add_argument("--preset", choices=tuple(PRESETS), default=preset, help=PRESET_HELP)
    what.add_argument(
        "--steps", type=int, default=STEPS[preset], metavar="INT", help="number of updates after which to stop"
    )
    dry_help = "print parameters, memory and schedules, and train nothing"
    what.add_argument("--dry_run", action="store_true", default=SUPPRESS, help=dry_help)
    add_flags(parser, "model", DvaeConfig)
    add_flags(parser, "training", TrainSettings)
    add_flags(parser, "computation (may change when a run is continued)", ComputeSettings)
    add_flags(parser, "data loading, logging, checkpoints (may change when a run is continued)", LoopSettings)
    parser.set_defaults(**PRESETS[preset])
    return parser


def parse(argv: Sequence[str]) -> tuple[Run, bool]:
    """The run, and whether it is a dry one."""
    preset = preset_of(argv, "paper", "tiny")
    one_of(tuple(PRESETS), preset=preset)
    given = build_parser(preset).parse_args(argv)
    at_least(1, steps=given.steps)
    dry, data, output = hasattr(given, "dry_run"), getattr(given, "data", ""), getattr(given, "output", "")
    if not dry and not (data and output):
        raise UserError("give --data, the --output of `gesso export`, and --output; or --dry_run")
    if output and not storage.is_local(output):
        raise UserError(f"--output is {output}: give a local folder")
    run = Run(
        data=data,
        output=output,
        preset=given.preset,
        steps=given.steps,
        dvae=read_flags(given, DvaeConfig),
        training=read_flags(given, TrainSettings),
        compute=read_flags(given, ComputeSettings),
        loop=read_flags(given, LoopSettings),
    )
    return run, dry


def main(argv: Sequence[str]) -> int:
    """`gesso train dvae`: trains to the last step, or until SIGTERM or Ctrl-C."""
    run, dry = parse(argv)
    if dry:
        from gesso.training.dvae import dry_run

        print(dry_run.describe(run, int(os.environ.get("WORLD_SIZE", "1"))))
        return 0
    return launch(run.output, lambda group, stop: train(run, group, stop))


def train(run: Run, group: "Group", stop: Stop) -> str:
    """Starts or continues a run; returns how far it came, in words. `stop` is asked after each update."""
    from gesso.training.dvae.trainer import Trainer
    from gesso.training.loop import disk_errors

    splits = group.first(lambda: open_data(run))
    with disk_errors(run.output):
        check_fits(run, group)
        trainer = Trainer(run, group, *splits)
        return drive(
            run,
            trainer,
            group,
            run.record(),
            lambda: write_record(run, trainer, *splits),
            lambda step: build_throughput(run, group, step),
            stop,
        )


def check_fits(run: Run, group: "Group") -> None:
    """Raises UserError where the run needs more memory than a process has, by the counts of --dry_run."""
    from gesso.processes import check_memory
    from gesso.training.dvae.counting import count
    from gesso.training.dvae.dry_run import memory_by_kind
    from gesso.training.dvae.trainer import DTYPES

    cost = count(run.dvae, DTYPES[run.compute.precision], run.compute.recompute)
    needed = sum(memory_by_kind(run, cost, group.size).values())
    way_out = "give a smaller --preset or --batch_size, --accumulate, or --recompute; --dry_run shows what takes it"
    group.first(lambda: check_memory(needed, group.device, way_out))


def open_data(run: Run) -> "tuple[Split, Split]":
    """Both splits. Raises UserError where they, or the settings, are not those that the run began with."""
    from gesso.dataset import kinds
    from gesso.training.data.split import open_split

    kinds.expect(run.data, "gesso train dvae", "export")
    kinds.check_output(run.output, "gesso train dvae", KIND)
    old = run_record.read(run.output, KIND)
    if old:
        run_record.check_settings(run.output, old["settings"], run.record())
    damaged = cast("Damaged", run.loop.damaged)
    train, validation = (open_split(run.data, split, damaged) for split in ("train", "validation"))
    run_record.check_data(run.output, old.get("data", {}), data_record(train, validation))
    return train, validation


def data_record(train: "Split", validation: "Split") -> dict[str, Any]:
    return {"train": train.identity(), "validation": validation.identity()}


def write_record(run: Run, trainer: "Trainer", train: "Split", validation: "Split") -> None:
    """run.json, anew each time a run is started or continued."""
    from gesso.training.dvae.counting import size

    run_record.write(
        run.output,
        KIND,
        preset=run.preset,
        settings={**run.record(), "steps": run.steps},
        loop=asdict(run.compute),
        data=data_record(train, validation),
        parameters={half: size(getattr(trainer.model, half)) for half in ("encoder", "decoder")},
        versions=run_record.versions(VERSIONED),
    )


def build_throughput(run: Run, group: "Group", step: int) -> "Throughput":
    from gesso.training.dvae.counting import count
    from gesso.training.throughput import Throughput, peak_flops

    peak = peak_flops(group.device, run.compute.precision)
    flops = count(run.dvae).flops if peak else 0.0
    return Throughput(group, step, run.training.batch_size, flops, peak)
