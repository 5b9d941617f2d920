"""Windows hold every key that their queries see, and their parts add up to the stream again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.training.prior.masks import KINDS, Layout, mask, pairs
from gesso.training.prior.windows import Windows, fold, image_of, keys_of, queries_of, reordered, seen, windows_of

LAYOUTS = st.builds(Layout, st.integers(1, 9), st.integers(2, 9), st.sampled_from([1, 3, 5, 11]))
PAPER = Layout(256, 32)


def stream(layout: Layout) -> torch.Tensor:
    """Its own positions, (1, 1, L, 1)."""
    return torch.arange(layout.length)[None, None, :, None]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), LAYOUTS, st.integers(1, 40))
def test_they_hold_what_is_seen(kind: str, layout: Layout, queries: int) -> None:
    windows = windows_of(kind, layout, queries)
    ours, keys = queries_of(stream(layout), layout, windows)[0, 0], keys_of(stream(layout), layout, windows)[0, 0]
    visible = seen(kind, layout, windows)
    expected = mask(kind, layout)[ours, keys.transpose(-1, -2)]
    assert torch.equal(visible, expected & (keys.transpose(-1, -2) >= layout.text))
    text = pairs(kind, layout) - int(visible.sum())
    assert text == layout.text * (layout.text + 1) // 2 + layout.image * layout.text


@pytest.mark.parametrize(
    ("kind", "queries", "expected"),
    [
        ("row", 1, Windows(32, 32, False)),
        ("row", 33, Windows(64, 32, False)),
        ("row", 2000, Windows(1024, 0, False)),
        ("column", 128, Windows(128, 0, True)),
        ("convolution", 32, Windows(32, 165, False)),
        ("causal", 32, Windows(1024, 0, False)),
    ],
)
def test_sizes(kind: str, queries: int, expected: Windows) -> None:
    assert windows_of(kind, PAPER, queries) == expected


def test_a_grid_that_nothing_divides_is_one_row_or_one_window() -> None:
    assert windows_of("row", Layout(3, 7), 7) == Windows(7, 7, False)
    assert windows_of("row", Layout(3, 7), 8) == Windows(49, 0, False)


def test_the_transposed_order_twice_is_raster_order() -> None:
    layout, windows = Layout(2, 3), Windows(3, 0, True)
    image = image_of(stream(layout), layout, windows)
    assert image.flatten().tolist() == [2, 5, 8, 3, 6, 9, 4, 7, 10]
    assert reordered(image, layout, windows).flatten().tolist() == list(range(2, 11))


def test_keys_are_views_where_windows_overlap() -> None:
    x = torch.zeros(1, 1, PAPER.length, 4)
    assert keys_of(x, PAPER, windows_of("convolution", PAPER, 32)).data_ptr() == x[:, :, 256 - 165 :].data_ptr()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), LAYOUTS, st.integers(1, 40))
def test_fold_is_the_gradient_of_keys(kind: str, layout: Layout, queries: int) -> None:
    windows = windows_of(kind, layout, queries)
    x = torch.zeros(2, 3, layout.length, 2, dtype=torch.float64, requires_grad=True)
    keys = keys_of(x, layout, windows)
    gradients = torch.randn_like(keys)
    (expected,) = torch.autograd.grad(keys, x, gradients)
    found = reordered(fold(gradients, windows), layout, windows)
    torch.testing.assert_close(found, expected[:, :, layout.text :], rtol=0, atol=1e-13)
