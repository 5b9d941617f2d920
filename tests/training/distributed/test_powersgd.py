"""PowerSGD among replicas that are threads: exactness at full rank, conservation, faults, bytes sent."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gesso.training.distributed.powersgd import BUFFERS, AllReduce, PowerSGD, orthogonalize
from tests.replicas import together

Gradients = Mapping[str, Tensor]

CPU = torch.device("cpu")
SHAPES = {"wide": (6, 17), "tall": (17, 6), "square": (9, 9), "second": (6, 17)}
HUGE = 1e4  # elements of E whose P and Q' overflow fp16


def replicas(
    count: int,
    rank: int,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    wire: torch.dtype = torch.float32,
    buffers: str = "fp32",
) -> list[PowerSGD]:
    return [PowerSGD(shapes, rank, count, 7, CPU, wire, buffers) for _ in range(count)]


def gradients(count: int, seed: int, shapes: Mapping[str, tuple[int, int]] = SHAPES) -> list[Gradients]:
    """Of each replica, of every shape; elements of about 0.1."""
    generator = torch.Generator().manual_seed(seed)
    return [{n: 0.1 * torch.randn(s, generator=generator) for n, s in shapes.items()} for _ in range(count)]


def update(powers: list[PowerSGD], given: Sequence[Gradients], applied: bool = True) -> dict[str, Tensor]:
    """The compressed gradients of an update, which must be the same in every replica."""

    def work(replica: int, all_reduce: AllReduce) -> dict[str, Tensor]:
        power = powers[replica]
        for name, gradient in given[replica].items():
            power.accumulate(name, gradient)
        power.compress(all_reduce)
        found = {name: power.gradient(name) for name in power.shapes}
        power.feedback(applied and bool(power.squared_norm().isfinite()))
        return found

    first, *others = together(len(powers), work)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0, equal_nan=True)
    return first


def total(of: Sequence[Gradients], name: str) -> Tensor:
    return torch.stack([gradients[name] for gradients in of]).double().sum(0)


def errors(powers: list[PowerSGD], name: str) -> Tensor:
    return torch.stack([power.error(name) for power in powers]).double().sum(0)


@pytest.mark.parametrize("count", [1, 3])
def test_full_rank_is_the_plain_sum_and_leaves_no_error(count: int) -> None:
    powers, given = replicas(count, 100), gradients(count, 0)
    found = update(powers, given)
    for name in SHAPES:
        torch.testing.assert_close(found[name].double(), total(given, name), rtol=0, atol=1e-5)
        torch.testing.assert_close(errors(powers, name), torch.zeros(SHAPES[name]).double(), rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    rank=st.integers(1, 12),
    count=st.integers(1, 4),
    updates=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_no_gradient_is_lost_at_any_rank(
    shape: tuple[int, int], rank: int, count: int, updates: int, seed: int
) -> None:
    shapes = {"a": shape, "b": shape}
    powers = replicas(count, rank, shapes)
    given = [gradients(count, seed * 100 + number, shapes) for number in range(updates)]
    applied = [update(powers, each) for each in given]
    for name in shapes:
        true = torch.stack([total(each, name) for each in given]).sum(0)
        torch.testing.assert_close(total(applied, name) + errors(powers, name), true, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("buffers", "wire", "rounding"),
    [("fp32", torch.float16, 1e-5), ("1-6-9", torch.float16, 2e-2), ("fp16", torch.float16, 1e-2)],
)
def test_rounding_of_what_is_sent_is_fed_back_and_that_of_buffers_is_small(
    buffers: str, wire: torch.dtype, rounding: float
) -> None:
    powers = replicas(4, 2, wire=wire, buffers=buffers)
    given = [gradients(4, number) for number in range(10)]
    applied = [update(powers, each) for each in given]
    for name in SHAPES:
        true = torch.stack([total(each, name) for each in given]).sum(0)
        torch.testing.assert_close(total(applied, name) + errors(powers, name), true, rtol=0, atol=rounding)


def test_a_gradient_of_low_rank_is_sent_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(6, 2, generator=generator) @ torch.randn(2, 17, generator=generator)
    powers = replicas(2, 2, {"thin": (6, 17)})
    found = update(powers, [{"thin": thin}, {"thin": thin}])
    torch.testing.assert_close(found["thin"], 2 * thin, rtol=1e-4, atol=1e-4)


def test_the_norm_is_that_of_the_compressed_gradients() -> None:
    (power,) = replicas(1, 3)
    for name, gradient in gradients(1, 0)[0].items():
        power.accumulate(name, gradient)
    power.compress(lambda tensors: None)
    norms = sum(power.gradient(name).double().square().sum() for name in SHAPES)
    torch.testing.assert_close(power.squared_norm().double(), norms, rtol=1e-5, atol=0)


def test_q_is_fixed_the_same_in_every_replica_and_another_for_each_name() -> None:
    first, second = replicas(2, 3)
    before = {name: q.clone() for name, q in first.q.items()}
    update([first, second], gradients(2, 0))
    for name in SHAPES:
        assert torch.equal(first.q[name], before[name])
        assert torch.equal(first.q[name], second.q[name])
    assert not torch.equal(first.q["wide"], first.q["second"])


@pytest.mark.parametrize("buffers", BUFFERS)
def test_zero_gradients_give_zero_updates(buffers: str) -> None:
    powers = replicas(2, 3, wire=torch.float16, buffers=buffers)
    found = update(powers, [{name: torch.zeros(shape) for name, shape in SHAPES.items()}] * 2)
    for name, shape in SHAPES.items():
        assert torch.equal(found[name], torch.zeros(shape))
        assert torch.equal(errors(powers, name), torch.zeros(shape).double())


def test_a_shard_without_elements_is_sent_as_nothing() -> None:
    powers = replicas(2, 3, {"empty": (0, 4), "wide": (6, 17)})
    assert update(powers, gradients(2, 0, powers[0].shapes))["empty"].shape == (0, 4)
    assert powers[0].sent == 4 * (6 * 3 + 17 * 3)


def test_sums_that_overflow_are_clamped_and_what_they_lack_stays_in_the_buffers() -> None:
    shapes = {"huge": (6, 17), "small": (6, 17)}
    powers = replicas(3, 6, shapes, torch.float16)
    given = [{"huge": torch.full((6, 17), HUGE), "small": torch.full((6, 17), 0.1)} for _ in range(3)]
    found = update(powers, given)
    assert all(power.clamped for power in powers)
    for name in shapes:
        assert found[name].isfinite().all()
        whole = found[name].double() + errors(powers, name)
        torch.testing.assert_close(whole, total(given, name), rtol=1e-6, atol=1e-6)
    assert errors(powers, "huge").abs().min() > HUGE
    update(powers, [{name: -powers[0].error(name) for name in shapes}] * 3)
    assert not any(power.clamped for power in powers)


def test_opposite_overflows_cancel() -> None:
    powers = replicas(2, 3, {"wide": (6, 17)}, torch.float16)
    given = [{"wide": torch.full((6, 17), HUGE)}, {"wide": torch.full((6, 17), -HUGE)}]
    assert torch.equal(update(powers, given)["wide"], torch.zeros(6, 17))
    assert all(torch.equal(power.error("wide"), mine["wide"]) for power, mine in zip(powers, given, strict=True))
    assert all(power.clamped for power in powers)


def test_a_matrix_that_is_not_finite_keeps_its_buffer_though_the_others_are_taken_from() -> None:
    powers = replicas(1, 6, wire=torch.float32)
    given = gradients(1, 0)
    for name, gradient in given[0].items():
        powers[0].accumulate(name, gradient)
    powers[0].compress(lambda tensors: None)
    powers[0].q_sum["wide"][0, 0] = torch.nan
    assert not powers[0].squared_norm().isfinite()
    powers[0].feedback(applied=True)
    assert torch.equal(powers[0].error("wide"), given[0]["wide"])
    assert powers[0].error("tall").abs().max() < 1e-6


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_buffer_that_is_not_finite_is_zeroed_where_it_is_and_the_update_skipped_everywhere(bad: float) -> None:
    powers = replicas(3, 3, wire=torch.float16)
    given = gradients(3, 0)
    powers[1].errors["wide"][2, 3] = bad
    update(powers, given)
    for number, power in enumerate(powers):
        for name in SHAPES:
            kept = given[number][name] if (number, name) != (1, "wide") else torch.zeros(6, 17)
            assert torch.equal(power.error(name), kept)
    assert all(found.isfinite().all() for found in update(powers, given).values())


def test_a_skipped_update_leaves_its_gradients_for_the_next() -> None:
    powers, given = replicas(2, 100), [gradients(2, 0), gradients(2, 1)]
    update(powers, given[0], applied=False)
    found = update(powers, given[1])
    for name in SHAPES:
        torch.testing.assert_close(
            found[name].double(), total(given[0], name) + total(given[1], name), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (1, 3)])
def test_a_resume_with_another_number_of_replicas_keeps_the_sum(before: int, after: int) -> None:
    powers = replicas(before, 2)
    update(powers, gradients(before, 0))
    sums = together(before, lambda replica, all_reduce: dict(powers[replica].summed(all_reduce)))
    resumed = replicas(after, 2)
    for power in resumed:
        power.restore(sums[0].items())
    for name in SHAPES:
        torch.testing.assert_close(errors(resumed, name), errors(powers, name), rtol=0, atol=1e-6)
        assert torch.equal(resumed[0].error(name), resumed[-1].error(name))


def test_bytes_are_those_of_the_tensors_handed_over() -> None:
    power = replicas(1, 4, wire=torch.float16)[0]
    handed: list[Tensor] = []
    power.compress(handed.extend)
    assert power.sent == sum(tensor.nbytes for tensor in handed) == 2 * 4 * (6 + 17 + 17 + 6 + 9 + 9 + 6 + 17)
    assert power.sent + power.saved == 2 * (3 * 6 * 17 + 9 * 9)


@pytest.mark.parametrize(("width", "rank", "percent"), [(1920, 512, 83), (2688, 640, 85), (3968, 896, 86)])
def test_the_paper_s_models_send_as_much_less_as_the_paper_says(width: int, rank: int, percent: int) -> None:
    gpus, layers = 8, 2
    narrow, wide = (width // gpus, width), (4 * width // gpus, width)
    shards = {**dict.fromkeys(("q", "k", "v", "post"), narrow), "mlp.0": wide, "mlp.1": (width, 4 * width // gpus)}
    shapes = {f"{layer}.{name}": shape for layer in range(layers) for name, shape in shards.items()}
    power = PowerSGD(shapes, rank // gpus, 2, 0, torch.device("meta"), torch.float16, "1-6-9")
    handed: list[Tensor] = []
    power.compress(handed.extend)
    plain = sum(torch.empty(shape, dtype=torch.float16, device="meta").nbytes for shape in shapes.values())
    assert round(100 * (1 - sum(tensor.nbytes for tensor in handed) / plain)) == percent
    assert round(100 * power.saved / plain) == percent


def modified_gram_schmidt(matrix: Tensor) -> Tensor:
    basis = matrix.clone()
    for column in range(basis.shape[1]):
        basis[:, column] /= basis[:, column].norm()
        rest = basis[:, column + 1 :]
        rest -= basis[:, column : column + 1] @ (basis[:, column : column + 1].T @ rest)
    return basis


def deviation(basis: Tensor) -> float:
    """The largest element of BᵀB - I."""
    basis = basis.double()
    return float((basis.T @ basis - torch.eye(basis.shape[1])).abs().max())


def test_bases_are_orthonormal_where_gram_schmidt_s_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(s, 64, generator=generator)).Q for s in (512, 64))
    matrix = left * torch.logspace(0, -6, 64) @ right.T  # condition 1e6
    bases = {"a": matrix, "b": matrix.clone(), "zero": torch.zeros(512, 64), "other": torch.zeros(64, 3)}
    orthogonalize(bases)
    assert all(deviation(basis) <= 1e-6 for basis in bases.values())
    assert deviation(modified_gram_schmidt(matrix)) > 1e-3
