"""`gesso plan`: memory, communication and time of a prior's training. Nothing is allocated or sent."""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gesso import progress
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, at_least, one_of, read_flags
from gesso.training.prior.plan_settings import Plan
from gesso.training.prior.settings import PRESETS, STEPS, ComputeSettings, PriorConfig, Tokens, TrainSettings
from gesso.training.prior.sizes import size

if TYPE_CHECKING:
    from gesso.training.prior.memory import Setup
    from gesso.training.prior.traffic import Cluster

DESCRIPTION = """\
Estimates what training a prior takes: memory of a GPU by kind, communication and time of an update, and what to change
where the memory does not suffice. Takes the flags of `gesso train prior` that matter; its data is not read.
"""
GRIDS = {"small": 16, "tiny": 8}  # of the dVAEs that these presets are for
DEVICE = "V100"  # the paper's


def build_parser(preset: str = "12b") -> Parser:
    parser = Parser("gesso plan", DESCRIPTION)
    parser.add_argument("--preset", choices=tuple(PRESETS), default=preset, help="sets the defaults of the flags below")
    steps_help = "number of updates of the whole run"
    parser.add_argument("--steps", type=int, default=STEPS[preset], metavar="INT", help=steps_help)
    add_machines(parser)
    tokens = parser.add_argument_group("tokens (in a training given by the data)")
    defaults = Tokens(grid=GRIDS.get(preset, Tokens().grid))
    for name, text in (("grid", "codes along a side"), ("codes", "codes of the dVAE"), ("texts", "tokenizer's tokens")):
        tokens.add_argument(f"--{name}", type=int, default=getattr(defaults, name), metavar="INT", help=text)
    add_flags(parser, "model", PriorConfig)
    add_flags(parser, "training", TrainSettings)
    add_flags(parser, "computation", ComputeSettings)
    parser.set_defaults(**PRESETS[preset])
    return parser


def add_machines(parser: Parser) -> None:
    """The flags of machines and their networks."""
    group = parser.add_argument_group("machines")
    group.add_argument("--machines", type=int, default=1, metavar="INT", help="number of machines")
    group.add_argument("--gpus", type=int, default=8, metavar="INT", help="GPUs of a machine")

    def add(name: str, default: str, text: str) -> None:
        group.add_argument(name, type=size, default=default, metavar="SIZE", help=text)

    add("--memory", "16GiB", "memory of a GPU; the estimate is printed in the same unit, GB or GiB")
    add("--bandwidth", "8Gbit", "of a machine's network in each direction, per second; its GPUs share it")
    add("--link", "130GB", "of a GPU to the others of its machine in each direction, per second")
    group.add_argument("--peak", type=float, default=0.0, metavar="TFLOPS", help="of a GPU; 0: that of --device")
    group.add_argument("--device", default=DEVICE, metavar="NAME", help="a GPU whose peak is known, as V100 or H100")
    group.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is used, without recomputation")


def parse(argv: Sequence[str]) -> Plan:
    """Raises UserError where a value is out of its range."""
    names = Parser("gesso plan", add_help=False)
    names.add_argument("--preset", default="12b")
    preset = names.parse_known_args(argv)[0].preset
    one_of(tuple(PRESETS), preset=preset)
    given = build_parser(preset).parse_args(argv)
    check(given)
    kept = ("steps", "machines", "gpus", "memory", "bandwidth", "link", "device", "mfu")
    return Plan(
        preset=preset,
        config=read_flags(given, PriorConfig, tokens=Tokens(given.grid, given.codes, given.texts)),
        training=read_flags(given, TrainSettings),
        compute=read_flags(given, ComputeSettings),
        peak=given.peak * 1e12,
        **{name: getattr(given, name) for name in kept},
    )


def check(given: Namespace) -> None:
    """Raises UserError for the first number out of its range."""
    at_least(1, steps=given.steps, machines=given.machines, gpus=given.gpus, codes=given.codes, texts=given.texts)
    at_least(2, grid=given.grid)
    at_least(0, peak=given.peak)
    if not 0 < given.mfu <= 1:
        raise UserError(f"--mfu is {given.mfu:g}: give a share above 0, up to 1")


def main(argv: Sequence[str]) -> int:
    """`gesso plan`: prints the estimate, also where the training does not fit."""
    plan = parse(argv)
    progress.announce("loading torch")
    from gesso.training.prior import plan_text

    print(plan_text.describe(plan, setup_of(plan), cluster_of(plan)))
    return 0


def setup_of(plan: Plan) -> "Setup":
    """Raises UserError where the batch or the weights cannot be split over the processes."""
    from gesso.training.prior.memory import setup

    return setup(plan.config, plan.training, plan.compute, plan.processes, plan.gpus)


def cluster_of(plan: Plan) -> "Cluster":
    from gesso.training.prior.traffic import Cluster

    peak = plan.peak or peak_of(plan.device, plan.training.precision)
    return Cluster(plan.machines, plan.gpus, plan.bandwidth.bytes, plan.link.bytes, peak, plan.mfu)


def peak_of(device: str, precision: str) -> float:
    """Peak FLOP/s of a GPU by its name. Raises UserError where it is not known."""
    from gesso.training.throughput import PEAKS, PEAKS_FP32

    table = PEAKS_FP32 if precision == "fp32" else PEAKS
    if device.upper() not in table:
        raise UserError(f"--device is {device!r}: give one of {', '.join(table)}, or --peak, its TFLOP/s")
    return table[device.upper()]
