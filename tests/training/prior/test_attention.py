"""Every form of attention against the dense one, outputs and gradients in float64; and what the dense one shows."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gesso.training.prior.attention import FORMS, attend, block_mask, chosen
from gesso.training.prior.masks import KINDS, Layout, mask

CPU = torch.device("cpu")
LAYOUTS = [
    Layout(1, 2),
    Layout(3, 5),
    Layout(7, 6),
    Layout(4, 13, 5),
    Layout(40, 8, 3),
    Layout(5, 16, 1),
    Layout(90, 16),
]
DIFFERENTIABLE = [form for form in FORMS if form not in ("dense", "flex")]


def inputs(layout: Layout, dtype: torch.dtype = torch.float64, batch: int = 2) -> list[Tensor]:
    """Queries, keys and values, (b, 3, L, 4), as views of one projection; and a gradient."""
    made = torch.Generator().manual_seed(0)
    shape = (batch, layout.length, 4, 3, 4)
    whole = torch.randn(shape, generator=made, dtype=torch.float64).to(dtype).requires_grad_()
    return [whole[:, :, number].transpose(1, 2) for number in range(4)]


def both(form: str, kind: str, layout: Layout) -> list[Tensor]:
    """Output and gradients."""
    q, k, v, gradient = inputs(layout)
    out = attend(q, k, v, kind, layout, form)
    return [out, *torch.autograd.grad(out, (q, k, v), gradient)]


def assert_equal(form: str, kind: str, layout: Layout) -> None:
    for found, expected in zip(both(form, kind, layout), both("dense", kind, layout), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", DIFFERENTIABLE)
def test_a_form_equals_the_dense_one(form: str, kind: str, layout: Layout) -> None:
    assert_equal(form, kind, layout)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(DIFFERENTIABLE),
    st.sampled_from(KINDS),
    st.builds(Layout, st.integers(1, 30), st.integers(2, 12), st.sampled_from([1, 3, 7, 11])),
)
def test_at_any_layout(form: str, kind: str, layout: Layout) -> None:
    assert_equal(form, kind, layout)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("layout", LAYOUTS[1:4])
@pytest.mark.parametrize("kind", KINDS)
def test_flex_equals_the_dense_one_forward(kind: str, layout: Layout) -> None:
    q, k, v, _ = (x.detach() for x in inputs(layout))
    expected = attend(q, k, v, kind, layout, "dense")
    torch.testing.assert_close(attend(q, k, v, kind, layout, "flex"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "blocks"), [("row", 34), ("column", 27), ("convolution", 40), ("causal", 55)])
def test_blocks_at_the_papers_size(kind: str, blocks: int) -> None:
    """Of 100 blocks of 128 × 128; columns are transposed."""
    found = block_mask(kind, Layout(256, 32), CPU)
    assert found.full_kv_num_blocks is not None
    assert int(found.kv_num_blocks.sum() + found.full_kv_num_blocks.sum()) == blocks


def test_the_dense_one_is_a_mean_of_what_is_seen() -> None:
    layout = Layout(3, 4, 3)
    zeros, values = torch.zeros(1, 1, layout.length, 2), torch.eye(layout.length)[None, None]
    for kind in KINDS:
        seen = mask(kind, layout).float()
        expected = seen / seen.sum(1, keepdim=True)
        torch.testing.assert_close(attend(zeros, zeros, values, kind, layout, "dense")[0, 0], expected)


def test_scores_are_divided_by_the_root_of_the_head_size() -> None:
    layout = Layout(2, 2)
    q, k = torch.full((1, 1, 6, 4), 1.0), torch.zeros(1, 1, 6, 4)
    k[:, :, 1] = 3.0
    out = attend(q, k, torch.eye(6)[None, None], "row", layout, "dense")
    assert float(out[0, 0, 1, 1]) == pytest.approx(1 / (1 + torch.e ** -(3 * 4 / 2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_on_a_cpu_are_rounded_float32(dtype: torch.dtype) -> None:
    layout = Layout(20, 16)
    q, k, v, gradient = inputs(layout, dtype)
    out = attend(q, k, v, "row", layout)
    exact = attend(q.float(), k.float(), v.float(), "row", layout)
    assert out.dtype == dtype
    assert torch.equal(out, exact.to(dtype))
    for found, expected in zip(
        torch.autograd.grad(out, (q, k, v), gradient),
        torch.autograd.grad(exact, (q, k, v), gradient.float()),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_what_is_chosen() -> None:
    cuda, paper, tiny = torch.device("cuda"), Layout(256, 32), Layout(32, 8)
    assert chosen(CPU, torch.float32, "row", paper) == "joined"
    assert chosen(CPU, torch.float32, "row", tiny) == "sdpa"
    assert chosen(CPU, torch.float32, "causal", paper) == "sdpa"
    assert chosen(cuda, torch.bfloat16, "row", paper) == "flex"
    assert chosen(cuda, torch.float32, "row", paper) == "sdpa"
    assert chosen(cuda, torch.bfloat16, "causal", paper) == "sdpa"


@pytest.mark.parametrize("form", DIFFERENTIABLE)
def test_under_checkpointing(form: str) -> None:
    layout = Layout(9, 8)
    q, k, v, gradient = inputs(layout)
    run = partial(attend, kind="row", layout=layout, form=form)
    out = checkpoint(run, q, k, v, use_reentrant=False)
    found = torch.autograd.grad(out, (q, k, v), gradient)
    for one, expected in zip(found, both(form, "row", layout)[1:], strict=True):
        assert torch.equal(one, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["row", "column"])
@pytest.mark.parametrize("form", DIFFERENTIABLE)
def test_compiled_in_one_graph(form: str, kind: str) -> None:
    layout = Layout(9, 16)
    q, k, v, gradient = inputs(layout)
    torch.compiler.reset()
    run = torch.compile(partial(attend, kind=kind, layout=layout, form=form), fullgraph=True)
    out = run(q, k, v)
    found = [out, *torch.autograd.grad(out, (q, k, v), gradient)]
    for one, expected in zip(found, both(form, kind, layout), strict=True):
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-12)
