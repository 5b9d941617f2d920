"""`gesso train prior`: captions and image tokens → a sparse transformer (DALL-E paper, section 2.2), on many machines.

    position ─ order of (seed, epoch) ─▶ caption under BPE dropout, one view's codes ─▶ prior ─▶ NLL of the next tokens

Order, views and dropout depend on seed, epoch and sample alone. Several processes:
`torchrun --nproc_per_node 8 -m gesso train prior …`; several machines: `torchrun --nnodes … --rdzv_endpoint …`.
"""

import os
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gesso import storage
from gesso.dataset import identity
from gesso.devices import preset_of
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, at_least, one_of, path, read_flags
from gesso.training import run_record
from gesso.training.launch import Stop, drive, launch
from gesso.training.prior.settings import (
    PRESETS,
    STEPS,
    ComputeSettings,
    PriorConfig,
    Run,
    SampleSettings,
    TrainSettings,
)
from gesso.training.settings import LoopSettings
from gesso.training.tokenizer.settings import copy

if TYPE_CHECKING:
    from gesso.processes import Group
    from gesso.training.prior.pairs import Source
    from gesso.training.throughput import Throughput

KIND = "prior"
VERSIONED = ("gesso", "numpy", "tokenizers", "torch")
DESCRIPTION = """\
Trains a prior (DALL-E paper, arXiv 2102.12092, section 2.2) on tokens of `gesso encode`, or on an export whose pictures
a dVAE encodes in the training. Run the same command again to continue a run that was stopped.
"""
PRESET_HELP = "sets the defaults of the flags below; without it base where there is a CUDA driver, else tiny"


def build_parser(preset: str = "12b") -> Parser:
    parser = Parser("gesso train prior", DESCRIPTION)
    what = parser.add_argument_group("input and output")

    def add(name: str, metavar: str, text: str) -> None:
        what.add_argument(name, type=path, metavar=metavar, default=SUPPRESS, help=text)

    add("--data", "DIR", "the --output of `gesso encode`, or with --dvae that of `gesso export`")
    add("--tokenizer", "DIR", "the --output of `gesso train tokenizer`")
    add("--dvae", "PATH", "the dVAE of the tokens, to draw samples; of an export, to encode its pictures")
    add("--output", "DIR", "local folder for checkpoints, metrics and evaluations")
    what.add_argument("--preset", choices=tuple(PRESETS), default=preset, help=PRESET_HELP)
    steps_help = "number of updates after which to stop"
    what.add_argument("--steps", type=int, default=STEPS[preset], metavar="INT", help=steps_help)
    add_flags(parser, "model", PriorConfig)
    add_flags(parser, "training", TrainSettings)
    add_flags(parser, "computation (may change when a run is continued)", ComputeSettings)
    add_flags(parser, "data loading, logging, checkpoints (may change when a run is continued)", LoopSettings)
    add_flags(parser, "samples (may change when a run is continued)", SampleSettings)
    parser.set_defaults(**PRESETS[preset])
    return parser


def parse(argv: Sequence[str]) -> Run:
    preset = preset_of(argv, "base", "tiny")
    one_of(tuple(PRESETS), preset=preset)
    given = build_parser(preset).parse_args(argv)
    at_least(1, steps=given.steps)
    missing = [name for name in ("data", "tokenizer", "output") if not hasattr(given, name)]
    if missing:
        raise UserError(f"--{missing[0]} is missing: give --data, --tokenizer and --output")
    if not storage.is_local(given.output):
        raise UserError(f"--output is {given.output}: give a local folder")
    return Run(
        data=given.data,
        tokenizer=given.tokenizer,
        dvae=getattr(given, "dvae", ""),
        output=given.output,
        preset=given.preset,
        steps=given.steps,
        prior=read_flags(given, PriorConfig),
        training=read_flags(given, TrainSettings),
        compute=read_flags(given, ComputeSettings),
        loop=read_flags(given, LoopSettings),
        sampling=read_flags(given, SampleSettings),
    )


def main(argv: Sequence[str]) -> int:
    """`gesso train prior`: trains to the last step, or until SIGTERM or Ctrl-C."""
    run = parse(argv)
    return launch(run.output, lambda group, stop: train(run, group, stop))


def train(run: Run, group: "Group", stop: Stop) -> str:
    """Starts or continues a run; returns how far it came, in words. `stop` is asked after each update."""
    from gesso.training.loop import disk_errors
    from gesso.training.prior.pairs import Pairs, fitted
    from gesso.training.prior.trainer import Trainer

    source = group.first(lambda: open_source(run))
    run = fitted(run, source)
    settings = {**run.record(), **source.record()}
    with disk_errors(run.output):
        check_fits(run, group)
        pairs = Pairs(run, group, source)
        trainer = Trainer(run, group, pairs, pairs.painter())
        return drive(
            run,
            trainer,
            group,
            settings,
            lambda: write_record(run, settings, source),
            lambda step: build_throughput(run, group, step),
            stop,
        )


def check_fits(run: Run, group: "Group") -> None:
    """Raises UserError where the run cannot be spread over the processes, or, by the estimate of `gesso plan`, needs
    more memory than a process has."""
    from gesso.processes import check_memory
    from gesso.training.prior import memory

    way_out = "give a smaller --preset or --batch_size, --accumulate, or --recompute; `gesso plan` shows what takes it"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def check() -> None:
        found = memory.estimate(memory.setup(run.prior, run.training, run.compute, group.size, local))
        needed = found.total + (found.average if group.device.type == "cpu" else 0)
        check_memory(needed, group.device, way_out)

    group.first(check)


def open_source(run: Run) -> "Source":
    """What the run is trained on. Raises UserError where it, or the settings, are not those that the run began with."""
    from gesso.dataset import kinds
    from gesso.training.prior import pairs

    command = "gesso train prior"
    kinds.expect(run.data, f"{command} --data", "tokens", "export")
    kinds.expect(run.tokenizer, f"{command} --tokenizer", "tokenizer")
    kinds.check_output(run.output, command, KIND)
    source = pairs.open_source(run)
    old = run_record.read(run.output, KIND)
    if old:
        new = {**pairs.fitted(run, source).record(), **source.record()}
        run_record.check_settings(run.output, old["settings"], new)
    run_record.check_data(run.output, old.get("data", {}), source.identity())
    return source


def write_record(run: Run, settings: dict[str, Any], source: "Source") -> None:
    """run.json, anew each time a run is started or continued; beside it the tokenizer, which `gesso generate` reads."""
    from gesso.training.prior.counting import parameters

    copy(run.tokenizer, run.output)
    run_record.write(
        run.output,
        KIND,
        preset=run.preset,
        settings={**settings, "steps": run.steps},
        loop={**asdict(run.compute), "tokens_per_update": run.training.batch_size * run.prior.positions},
        data=source.identity(),
        dvae={"path": identity.hint(source.dvae, run.output) if source.dvae else ""},
        parameters=parameters(run.prior)._asdict(),
        versions=run_record.versions(VERSIONED),
    )


def build_throughput(run: Run, group: "Group", step: int) -> "Throughput":
    from gesso.training.prior.counting import flops
    from gesso.training.throughput import Throughput, peak_flops

    positions = run.prior.positions
    peak = peak_flops(group.device, run.training.precision)
    operations = flops(run.prior) / positions if peak else 0.0
    return Throughput(group, step, run.training.batch_size * positions, operations, peak, "tokens")
