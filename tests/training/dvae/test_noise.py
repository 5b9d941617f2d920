"""The noise of a sample is its own."""

import torch

from gesso.training.dvae.noise import exponential

CPU = torch.device("cpu")
SHAPE = (2, 2, 5)


def test_neither_company_nor_order_changes_it() -> None:
    together = exponential("gumbel", 7, [0, 0, 1], ["a", "b", "a"], SHAPE, CPU)
    assert together.shape == (3, *SHAPE)
    for row, (epoch, key) in enumerate([(0, "a"), (0, "b"), (1, "a")]):
        assert torch.equal(exponential("gumbel", 7, [epoch], [key], SHAPE, CPU)[0], together[row])


def test_purpose_seed_epoch_and_key_change_it() -> None:
    names = [
        ("gumbel", 7, 0, "a"),
        ("evaluate", 7, 0, "a"),
        ("gumbel", 8, 0, "a"),
        ("gumbel", 7, 1, "a"),
        ("gumbel", 7, 0, "b"),
    ]
    drawn = [exponential(purpose, seed, [epoch], [key], SHAPE, CPU) for purpose, seed, epoch, key in names]
    assert len({tuple(one.flatten().tolist()) for one in drawn}) == len(names)


def test_it_is_exponential() -> None:
    drawn = exponential("gumbel", 0, range(4), [""] * 4, (50, 50, 10), CPU)
    assert (drawn > 0).all()
    assert abs(float(drawn.mean()) - 1) < 5 / len(drawn.flatten()) ** 0.5
