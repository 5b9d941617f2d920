"""`gesso train detector`: pictures → a near-duplicate detector, by InfoNCE between a picture and its altered copy.

    position ─ permutation of (seed, epoch) ─▶ picture ─ augment.plain ───────▶ detector ─┐
                                                       └ augment.transformed ─▶ detector ─┴─▶ similarities / 0.07

Order and random numbers depend on seed and position alone, so a run that is stopped and started again, with as many
processes, ends with the same weights (on CPU to the last bit). Several processes: `torchrun --nproc_per_node 8 -m
gesso train detector …`. b pairs of a process, B of all, D dimension.
"""

from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext
from time import monotonic
from typing import TYPE_CHECKING

from gesso import storage
from gesso.dedup.settings import PRESETS, DetectorConfig, Run, TrainSettings
from gesso.devices import preset_of
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, at_least, one_of, path, read_flags
from gesso.lock import lock
from gesso.progress import Display, State, line

if TYPE_CHECKING:
    from gesso.dedup.trainer import Metrics, Trainer
    from gesso.processes import Group

DESCRIPTION = """\
Trains a near-duplicate detector on pictures (CLIP paper, arXiv 2103.00020, appendix C). Run the same command again to
continue a run that was stopped.
"""


INIT_HELP = "initial weights: a detector to train further, or a state dict of the backbone"
PRESET_HELP = "sets the defaults of the flags below; without it paper where there is a CUDA driver, else small"


def build_parser(preset: str = "paper") -> Parser:
    parser = Parser("gesso train detector", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--data",
        type=path,
        required=True,
        nargs="+",
        metavar="DIR",
        default=SUPPRESS,
        help="folders of pictures or of .tar shards",
    )
    what.add_argument(
        "--output",
        type=path,
        required=True,
        metavar="DIR",
        default=SUPPRESS,
        help="folder for checkpoint, metrics and detector",
    )
    what.add_argument("--preset", choices=tuple(PRESETS), default=preset, help=PRESET_HELP)
    what.add_argument("--init", type=path, metavar="FILE", help=INIT_HELP)
    what.add_argument("--save_every", type=int, default=100, metavar="INT", help="updates between two checkpoints")
    what.add_argument("--workers", type=int, default=1, metavar="INT", help="processes that prepare pictures")
    add_flags(parser, "detector", DetectorConfig)
    add_flags(parser, "training", TrainSettings)
    parser.set_defaults(**PRESETS[preset])
    return parser


def parse(argv: Sequence[str]) -> Run:
    preset = preset_of(argv, "paper", "small")
    one_of(tuple(PRESETS), preset=preset)
    given = build_parser(preset).parse_args(argv)
    at_least(1, save_every=given.save_every)
    at_least(0, workers=given.workers)
    if not storage.is_local(given.output):
        raise UserError(f"--output is {given.output}: give a folder of this machine, or of one that it has mounted")
    shape, training = read_flags(given, DetectorConfig), read_flags(given, TrainSettings)
    return Run(tuple(given.data), given.output, given.init, shape, training, given.save_every, given.workers)


def main(argv: Sequence[str]) -> int:
    """`gesso train detector`: trains to the last step, or until SIGTERM."""
    run = parse(argv)
    from gesso.dataset import kinds
    from gesso.dedup.trainer import Trainer
    from gesso.processes import announce_step, exit_code, processes, stopping

    for folder in run.data:
        kinds.expect(folder, "gesso train detector", *kinds.SHARDS, "export")
    kinds.check_output(run.output, "gesso train detector", "detector")
    with processes() as group, stopping() as stop, ExitStack() as stack:
        group.first(lambda: stack.enter_context(lock(run.output)))
        check_fits(run, group)
        trainer = Trainer(run, group)
        announce_step(run.output, group, trainer.step)
        with closing(trainer):
            finished = train(run, trainer, group.rank == 0, lambda: group.agreed(bool(stop)))
        if group.rank == 0:
            stopped = f"stopped and saved after update {trainer.step}, the same command goes on from there"
            print(f"{run.output}: {'detector written' if finished else stopped}")
    return exit_code(stop)


def check_fits(run: Run, group: "Group") -> None:
    """Raises UserError where the run needs more memory than a process has: weights, gradients, moments, activations."""
    import torch

    from gesso.dedup import detector
    from gesso.processes import check_memory, kept_bytes

    side = run.detector.image_size
    with torch.device("meta"):
        model, pair = detector.Detector(run.detector), torch.empty(2, 3, side, side)
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    needed = 4 * weights + kept_bytes(model, pair) * run.training.batch_size / group.size
    group.first(lambda: check_memory(needed, group.device, "give a smaller --preset or --batch_size"))


def train(run: Run, trainer: "Trainer", is_first: bool, stop: Callable[[], bool]) -> bool:
    """The loop: updates, metrics, checkpoints. Returns whether it came to the last step. The first process shows it."""
    begin, first, steps = monotonic(), trainer.step, run.training.steps
    with Display() if is_first else nullcontext() as display:
        for batch in trainer.batches():
            metrics = trainer.update(batch)
            trainer.log(metrics, (trainer.step - first) / (monotonic() - begin))
            if display:
                display.show(shown(trainer.step, steps, metrics), last=trainer.step == steps)
            stopped = stop()
            if stopped or trainer.step % run.save_every == 0 or trainer.step == steps:
                trainer.save()
            if stopped:
                return False
    trainer.finish()
    return True


def shown(step: int, steps: int, metrics: "Metrics") -> State:
    """How far the training is, for people."""
    what = f"loss {metrics.loss:.3f} · nearest {100 * metrics.accuracy:.1f}%"
    return State(step, steps, lambda rate: f"{line(step, steps, 'updates', rate)} · {what}")
