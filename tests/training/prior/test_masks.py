"""The masks against the paper's words, written down once more entry by entry, and against the counts of the design."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.training.prior.masks import KINDS, Layout, distances, kind_of, mask, pairs, sees

PAPER = Layout(text=256, grid=32)
LAYOUTS = [Layout(1, 2), Layout(1, 2, 1), Layout(3, 4, 3), Layout(7, 5, 11), Layout(2, 13, 11), Layout(5, 9, 5)]


def seen_in_the_image(kind: str, layout: Layout, position: int) -> set[int]:
    """The image keys of an image query, from the paper's description."""
    half, grid = layout.kernel // 2, layout.grid
    if kind == "row":
        keys = set(range(position - grid, position + 1))
    elif kind == "column":
        keys = set(range(position % grid, position + 1, grid))
    elif kind == "causal":
        keys = set(range(position + 1))
    else:
        around = range(-half, half + 1)
        keys = {position + grid * down + right for down in range(-half, 1) for right in around}
    return {key for key in keys if 0 <= key <= position}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_entry(kind: str, layout: Layout) -> None:
    expected = torch.zeros(layout.length, layout.length, dtype=torch.bool)
    for query in range(layout.length):
        expected[query, : min(query + 1, layout.text)] = True
        for key in seen_in_the_image(kind, layout, query - layout.text) if query >= layout.text else ():
            expected[query, layout.text + key] = True
    assert torch.equal(mask(kind, layout), expected)


@pytest.mark.parametrize(
    ("kind", "expected"), [("causal", 819_840), ("row", 328_304), ("column", 311_936), ("convolution", 352_209)]
)
def test_counts_at_the_papers_size(kind: str, expected: int) -> None:
    assert pairs(kind, PAPER) == expected == int(mask(kind, PAPER).sum())


def test_the_papers_image_keys() -> None:
    assert distances("row", PAPER) == list(range(33))
    assert distances("column", PAPER) == list(range(0, 1024, 32))
    assert len(distances("convolution", PAPER)) == 61


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.builds(Layout, st.integers(1, 9), st.integers(2, 9), st.integers(0, 6).map(lambda half: 2 * half + 1)),
)
def test_counts_of_any_layout(kind: str, layout: Layout) -> None:
    assert pairs(kind, layout) == int(mask(kind, layout).sum())


def test_one_pair_is_a_plain_bool() -> None:
    assert sees("row", PAPER, 256 + 40, 256 + 8) is True
    assert sees("row", PAPER, 256 + 40, 256 + 7) is False


def test_the_papers_schedule() -> None:
    kinds = [kind_of(layer, 64) for layer in range(1, 65)]
    assert Counter(kinds) == {"row": 47, "column": 16, "convolution": 1}
    assert kinds[:8] == ["row", "column", "row", "row", "row", "column", "row", "row"]
    assert kinds[-4:] == ["row", "column", "row", "convolution"]


@pytest.mark.parametrize(
    ("layers", "kinds"), [(1, ["convolution"]), (2, ["row", "convolution"]), (3, ["row", "column", "convolution"])]
)
def test_short_schedules(layers: int, kinds: list[str]) -> None:
    assert [kind_of(layer, layers) for layer in range(1, layers + 1)] == kinds
