"""Slots hold what later positions see, for every kind of mask, and a position alone decides where."""

import pytest
import torch

from gesso.training.prior import masks
from gesso.training.prior.masks import KINDS, Layout
from gesso.training.prior.slots import Slots, count_of, keep, read

LAYOUTS = [Layout(3, 4, 3), Layout(256, 32, 11), Layout(5, 7, 5)]


def filled(kind: str, layout: Layout, as_tensor: bool) -> list[set[int]]:
    """Which image positions each position reads, when every position keeps its own number in its slot."""
    slots = Slots(kind, layout, torch.float32, torch.device("cpu"))
    cache, found = torch.full((2, 1, 1, slots.count, 1), -1.0), list[set[int]]()
    for position in range(layout.image):
        place = slots.place(torch.tensor([position]) if as_tensor else position)
        keep(cache, place, torch.full((2, 1, 1, 1), float(position)))
        near = read(cache, slots.blocks, place)
        assert torch.equal(near[0], near[1])
        held = near[0].flatten()
        found.append({int(each) for each in held[place.hidden.flatten() == 0]})
    return found


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_position_reads_what_its_mask_shows(kind: str, layout: Layout, as_tensor: bool) -> None:
    whole = masks.mask(kind, layout)[layout.text :, layout.text :]
    expected = [set(row.nonzero().flatten().tolist()) for row in whole]
    assert filled(kind, layout, as_tensor) == expected


def test_slots_of_the_paper() -> None:
    layout = Layout(256, 32, 11)
    assert [count_of(kind, layout) for kind in KINDS] == [33, 1024, 166, 1024]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_after_some_positions(kind: str) -> None:
    layout = Layout(3, 4, 3)
    slots = Slots(kind, layout, torch.float32, torch.device("cpu"))
    for count in range(layout.image + 1):
        kept = slots.kept(count)
        assert len(set(slots.slots(kept).tolist())) == len(kept) == min(count, slots.count)
        assert kept.tolist() == list(range(count))[-slots.count :]
