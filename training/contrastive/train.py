"""`gesso train contrastive`: captions and pictures → a small CLIP that ranks what a prior draws (DALL-E paper, 2.6).

    position ─ order of (seed, epoch) ─▶ caption under BPE dropout, crop ─▶ open_clip's CLIP ─▶ its contrastive loss

Order, crops and dropout depend on seed, epoch and sample alone. Several processes:
`torchrun --nproc_per_node 8 -m gesso train contrastive …`.
"""

from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

from gesso import storage
from gesso.devices import preset_of
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, at_least, one_of, path, read_flags
from gesso.training import run_record
from gesso.training.contrastive.settings import (
    PRESETS,
    STEPS,
    ComputeSettings,
    ContrastiveConfig,
    Run,
    TrainSettings,
)
from gesso.training.launch import Stop, drive, launch
from gesso.training.settings import LoopSettings
from gesso.training.tokenizer.settings import POSITIONS, copy, file_of

if TYPE_CHECKING:
    from gesso.processes import Group
    from gesso.training.contrastive.trainer import Trainer
    from gesso.training.data.shards import Damaged
    from gesso.training.data.split import Split

COMMAND, KIND = "gesso train contrastive", "contrastive"
VERSIONED = ("gesso", "numpy", "open_clip_torch", "opencv-python-headless", "simplejpeg", "tokenizers", "torch")
DESCRIPTION = """\
Trains a contrastive model of captions and pictures, open_clip's CLIP under its loss, on the shards of an export: it
ranks the candidates of `gesso generate`. Run the same command again to continue a run that was stopped.
"""
PRESET_HELP = "sets the defaults of the flags below; without it small where there is a CUDA driver, else tiny"


def build_parser(preset: str = "base") -> Parser:
    parser = Parser(COMMAND, DESCRIPTION)
    what = parser.add_argument_group("input and output")

    def add(name: str, text: str) -> None:
        what.add_argument(name, type=path, metavar="DIR", default=SUPPRESS, help=text)

    add("--data", "the --output of `gesso export`")
    add("--tokenizer", "the --output of `gesso train tokenizer`")
    add("--output", "local folder for checkpoints, metrics and the tokenizer")
    what.add_argument("--preset", choices=tuple(PRESETS), default=preset, help=PRESET_HELP)
    steps_help = "number of updates after which to stop"
    what.add_argument("--steps", type=int, default=STEPS[preset], metavar="INT", help=steps_help)
    add_flags(parser, "model", ContrastiveConfig)
    add_flags(parser, "training", TrainSettings)
    add_flags(parser, "computation (may change when a run is continued)", ComputeSettings)
    add_flags(parser, "data loading, logging, checkpoints (may change when a run is continued)", LoopSettings)
    parser.set_defaults(**PRESETS[preset])
    return parser


def parse(argv: Sequence[str]) -> Run:
    preset = preset_of(argv, "small", "tiny")
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
        output=given.output,
        preset=given.preset,
        steps=given.steps,
        model=read_flags(given, ContrastiveConfig),
        training=read_flags(given, TrainSettings),
        compute=read_flags(given, ComputeSettings),
        loop=read_flags(given, LoopSettings),
    )


def main(argv: Sequence[str]) -> int:
    """`gesso train contrastive`: trains to the last step, or until SIGTERM or Ctrl-C."""
    run = parse(argv)
    return launch(run.output, lambda group, stop: train(run, group, stop))


def train(run: Run, group: "Group", stop: Stop) -> str:
    """Starts or continues a run; returns how far it came, in words. `stop` is asked after each update."""
    from gesso.training.contrastive.pairs import Pairs
    from gesso.training.contrastive.trainer import Trainer
    from gesso.training.loop import disk_errors
    from gesso.training.throughput import Throughput

    run, tokenizer, train, validation = group.first(lambda: open_data(run))
    settings = {**run.record(), "tokenizer_sha256": tokenizer}
    with disk_errors(run.output):
        check_fits(run, group)
        trainer = Trainer(run, group, Pairs(run, group.rank, group.size, train, validation))
        return drive(
            run,
            trainer,
            group,
            settings,
            lambda: write_record(run, settings, trainer, train, validation),
            lambda step: Throughput(group, step, run.training.batch_size),
            stop,
        )


def check_fits(run: Run, group: "Group") -> None:
    """Raises UserError where the run needs more memory than a process has."""
    from gesso.processes import check_memory
    from gesso.training.contrastive.counting import needed_bytes

    way_out = "give a smaller --preset or --batch_size, or --recompute"
    group.first(lambda: check_memory(needed_bytes(run, group.size), group.device, way_out))


def open_data(run: Run) -> "tuple[Run, str, Split, Split]":
    """The run with its tokenizer's size, the tokenizer's checksum, and both splits.

    Raises UserError where they, or the settings, are not those that the run began with.
    """
    from gesso.dataset import kinds
    from gesso.training.data.shards import file_sha256
    from gesso.training.data.split import open_split
    from gesso.training.tokenizer.bpe import Tokenizer

    kinds.expect(run.data, f"{COMMAND} --data", "export")
    kinds.expect(run.tokenizer, f"{COMMAND} --tokenizer", "tokenizer")
    kinds.check_output(run.output, COMMAND, KIND)
    run = replace(run, model=replace(run.model, texts=Tokenizer.open(run.tokenizer).size - POSITIONS))
    tokenizer = file_sha256(file_of(run.tokenizer))
    old = run_record.read(run.output, KIND)
    if old:
        run_record.check_settings(run.output, old["settings"], {**run.record(), "tokenizer_sha256": tokenizer})
    train, validation = (
        open_split(run.data, name, cast("Damaged", run.loop.damaged)) for name in ("train", "validation")
    )
    run_record.check_data(run.output, old.get("data", {}), data_record(train, validation))
    return run, tokenizer, train, validation


def data_record(train: "Split", validation: "Split") -> dict[str, Any]:
    return {"train": train.identity(), "validation": validation.identity()}


def write_record(run: Run, settings: dict[str, Any], trainer: "Trainer", train: "Split", validation: "Split") -> None:
    """run.json, anew each time a run is started or continued, and the tokenizer, which the model is used with."""
    from gesso.training.contrastive.counting import parameters

    copy(run.tokenizer, run.output)
    run_record.write(
        run.output,
        KIND,
        preset=run.preset,
        settings={**settings, "steps": run.steps},
        loop=asdict(run.compute),
        data=data_record(train, validation),
        parameters=parameters(trainer.model),
        versions=run_record.versions(VERSIONED),
    )
