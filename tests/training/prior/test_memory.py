import pytest
import torch

from gesso.errors import UserError
from gesso.processes import Group, kept_bytes
from gesso.training.distributed.parallel import local
from gesso.training.distributed.sharding import blocks_of, spread
from gesso.training.prior import memory, traffic
from gesso.training.prior.memory import Setup, estimate
from gesso.training.prior.model import Prior, loss
from gesso.training.prior.settings import ComputeSettings, PriorConfig, Tokens, TrainSettings
from tests.spreading import DTYPES, fake_processes, measure

SMALL = PriorConfig(
    layers=4,
    heads=4,
    head_size=32,
    text_positions=32,
    kernel=5,
    masks="causal",
    padding_loss=True,
    tokens=Tokens(8, 512, 1000),
)
PAPER = Setup(PriorConfig(), TrainSettings(compression_rank=896), ComputeSettings(recompute=True), 8, 128)


def one_process(config: PriorConfig, precision: str = "fp32", recompute: bool = False) -> Setup:
    training = TrainSettings(precision=precision, batch_size=4)
    return Setup(config, training, ComputeSettings(recompute=recompute), 1, 1)


def built(setup: Setup) -> Prior:
    prior, dtype = Prior(setup.config), DTYPES[setup.training.precision]
    prior.set_precision(dtype, dtype if dtype == torch.float16 else torch.float32)
    if setup.compute.recompute:
        prior.recompute()
    prior.initialize(0)
    return prior


def inputs(setup: Setup) -> tuple[torch.Tensor, torch.Tensor]:
    config, samples = setup.config, setup.training.batch_size
    text = torch.ones(samples, config.text_positions, dtype=torch.int64)
    return text, torch.zeros(samples, config.tokens.grid**2, dtype=torch.int64)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_weights_and_kept_gradients_are_those_of_a_model(precision: str) -> None:
    setup = one_process(SMALL, precision)
    prior = built(setup)
    loss(prior(*inputs(setup)), 1.0, 1.0).backward()  # type: ignore[no-untyped-call]
    states = memory.states(setup)
    assert states.weights == sum(value.nbytes for value in prior.parameters())
    assert states.gradients == sum(value.grad.nbytes for value in prior.parameters() if value.grad is not None)


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_those_that_autograd_keeps(recompute: bool) -> None:
    setup = one_process(SMALL, recompute=recompute)
    found = memory.backward(setup)
    blocks = 0 if recompute else found.insides + memory.mlp_bytes(setup)
    losses = found.losses - 2 * max(memory.log_probabilities(setup))
    assert found.streams + blocks + losses == pytest.approx(kept_bytes(built(setup), *inputs(setup)), rel=0.1)


def test_sixteen_bit_moments_and_the_average() -> None:
    setup, matrices = one_process(SMALL), 12 * 4 * 128**2
    others = sum(value.numel() for value in built(setup).parameters()) - matrices
    assert memory.states(setup).moments == 2 * (2 * matrices + 4 * others)
    assert estimate(setup).average == 2 * 4 * (matrices + others)


WIDE, NARROW = (4, 62, 1), (8, 8, 8)  # layers, heads, pairs of a process


@pytest.mark.parametrize(
    ("precision", "recompute", "shape"),
    [
        ("fp16", True, WIDE),
        ("bf16", True, WIDE),
        ("fp32", False, WIDE),
        ("fp16", False, NARROW),
        ("fp32", True, NARROW),
    ],
)
def test_a_pass_on_one_of_1024_processes(precision: str, recompute: bool, shape: tuple[int, int, int]) -> None:
    """Blocks as wide as the paper's, or narrow beside the activations."""
    layers, heads, samples = shape
    training = TrainSettings(precision=precision, batch_size=1024 * samples, compression_rank=896)
    config = PriorConfig(layers=layers, heads=heads, masks="causal")
    check_pass(Setup(config, training, ComputeSettings(recompute=recompute), 8, 128))


@pytest.mark.slow
def test_the_papers_update() -> None:
    check_pass(PAPER._replace(config=PriorConfig(masks="causal")))


def check_pass(setup: Setup) -> None:
    """Weights and what is sent to the byte, the peak within a tenth."""
    measured, states, sent = measure(setup), memory.states(setup), traffic.traffic(setup)
    assert measured.weights == states.weights
    assert measured.sent == {"_allgather_base_": sent.gathered, "_reduce_scatter_base_": sent.scattered}
    assert memory.backward(setup).peak == pytest.approx(measured.peak, rel=0.1)


def test_factors_have_the_shapes_of_shards() -> None:
    with fake_processes(1024):
        with torch.device("meta"):
            prior = Prior(PriorConfig(layers=1))
        group = Group(0, 1024, torch.device("cpu"))
        spread(prior, blocks_of(prior, list(prior.blocks)), group, "fsdp", 8, torch.float16)
        shards = [tuple(shard.shape) for shard in local(blocks_of(prior, list(prior.blocks)).matrices.values())]
    one = PAPER._replace(config=PriorConfig(layers=1))
    assert memory.shard_shapes(one) == shards
    assert memory.factor_sizes(one) == (sum(into for _, into in shards) * 112, sum(out for out, _ in shards) * 112)


def test_accumulating_under_fsdp_keeps_whole_gradients() -> None:
    """FSDP reduce-scatters in the last part alone."""
    twice = PAPER._replace(compute=ComputeSettings(recompute=True, accumulate=2))
    more = memory.states(twice).gradients - memory.states(PAPER).gradients
    assert more == 2 * 12 * 64 * 3968**2


@pytest.mark.parametrize(
    ("training", "compute", "message"),
    [
        (TrainSettings(batch_size=100), ComputeSettings(), "--batch_size is 100: give a multiple of 16, 16 processes"),
        (TrainSettings(), ComputeSettings(shards=3), "--shards is 3: give a divisor of 16, the number of processes"),
        (TrainSettings(compression_rank=8), ComputeSettings(parallel="ddp"), "--parallel is ddp, which reduces"),
    ],
)
def test_what_cannot_be_spread(training: TrainSettings, compute: ComputeSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        memory.setup(SMALL, training, compute, 16, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: reads torch.cuda.max_memory_allocated")
@pytest.mark.parametrize("recompute", [False, True])
def test_peak_of_a_pass_on_a_gpu(recompute: bool) -> None:
    config = PriorConfig(layers=8, heads=16, masks="causal", padding_loss=True)
    setup = one_process(config, "fp16", recompute)
    before = torch.cuda.memory_allocated()
    prior = built(setup).cuda()
    text, codes = (value.cuda() for value in inputs(setup))
    for _ in range(2):  # the gradients of the first pass are there in the second, as the bucket is
        torch.cuda.reset_peak_memory_stats()
        loss(prior(text, codes), 1.0, 1.0).backward()  # type: ignore[no-untyped-call]
    states = memory.states(setup)
    expected = states.weights + states.gradients + memory.backward(setup).peak
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(expected, rel=0.1)
