"""Batches of other processes: those of the training's own threads, in their order."""

import multiprocessing
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest
import torch

from gesso.errors import UserError
from gesso.training.data.loader import Batch, Loader
from gesso.training.data.loader_processes import from_processes
from gesso.training.data.order import State
from gesso.training.data.split import Split, open_split
from tests.exports import picture, write_export

# Of a machine of one core, which no more processes than that would suit.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("made") / "clean"
    return open_split(write_export(folder, (50, 5), pictures=lambda number: picture(number, side=48)), "train")


def batches(split: Split, count: int, processes: int, state: State | None = None) -> list[Batch]:
    with closing(Loader(split, 32, 7, 12, state=state, window=20, processes=processes)) as loader:
        return list(islice(loader, count))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one[1:] == other[1:]  # keys, epochs, state


def test_processes_prepare_the_same_batches(split: Split) -> None:
    expected = batches(split, 7, 0)  # into the second epoch
    assert_equal(batches(split, 7, 1), expected)
    assert_equal(batches(split, 7, 3), expected)


def test_they_go_on_from_a_state(split: Split) -> None:
    expected = batches(split, 7, 0)
    assert_equal(batches(split, 4, 2, expected[2].state), expected[3:])


def test_a_stream_can_be_iterated_again(split: Split) -> None:
    with closing(Loader(split, 32, 7, 12, processes=2)) as loader:
        assert_equal([next(iter(loader))], [next(iter(loader))])


def damaged(first: int, every: int) -> Iterator[int]:
    """A stream whose sixth batch cannot be read."""
    for number in range(first, 100, every):
        if number == 5:
            raise UserError("a shard is damaged")
        yield number


def test_a_damaged_sample_stops_at_its_batch() -> None:
    found = from_processes(damaged, 2)
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"^a shard is damaged$"):
        next(found)


def test_a_bug_in_a_process_is_no_mistake_of_the_user() -> None:
    def broken(first: int, every: int) -> Iterator[int]:
        raise ZeroDivisionError(first)
        yield every

    with pytest.raises(ZeroDivisionError):
        next(from_processes(broken, 1))


def test_no_process_stays_behind(split: Split) -> None:
    before = multiprocessing.active_children()
    batches(split, 2, 2)
    assert set(multiprocessing.active_children()) <= set(before)
