"""The prior's attention, form by form, forward and backward: `python tests/benchmarks/attention.py [--rounds 10]`.

Every kind of mask at 256 + 1,024 positions as in the paper, 64 + 256 and 64 + 64; 4 heads of 64. `whole mask` is
torch's scaled_dot_product_attention with the (L, L) mask, what a plain implementation does; the kind `causal` is dense
attention. The best of several rounds, all forms in turn. Kept: what forward holds for backward besides queries, keys
and values. On the CPU in float32, in CPU time of one thread, which other programs disturb least; where there is a GPU
there, in float32, float16 and bfloat16, with the peak of its memory over the inputs. `*` marks what `auto` takes.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter, process_time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.training.prior import masks
from gesso.training.prior.attention import FORMS, attend, chosen
from gesso.training.prior.masks import KINDS, Layout

SIZES = [(1, Layout(256, 32)), (8, Layout(64, 16)), (8, Layout(64, 8))]
HEADS, HEAD = 4, 64
MIB = 2**20


class Case(NamedTuple):
    """One line of the table but for its form."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    layout: Layout
    kind: str


class Inputs(NamedTuple):
    """Queries, keys and values as a layer makes them, (b, h, L, c) over (b, L, h, c), and the output's gradient."""

    qkv: tuple[Tensor, Tensor, Tensor]
    gradient: Tensor


def inputs_of(case: Case) -> Inputs:
    shape = (case.batch, case.layout.length, HEADS, HEAD)
    made = [torch.randn(shape, device=case.device, dtype=case.dtype).transpose(1, 2) for _ in range(4)]
    q, k, v = (x.requires_grad_() for x in made[:3])
    return Inputs((q, k, v), made[3])


def whole_mask(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def forms_of(case: Case) -> dict[str, Callable[..., Tensor]]:
    """The forms that run there, by name."""
    cuda = case.device.type == "cuda"
    left_out = {"joined"} if cuda else {"flex"}
    if case.kind == "causal":
        left_out |= {"structured", "joined"}
    forms: dict[str, Callable[..., Tensor]] = {
        name: partial(attend, kind=case.kind, layout=case.layout, form=name) for name in FORMS if name not in left_out
    }
    if case.kind != "causal":
        forms["whole mask"] = partial(whole_mask, masks.mask(case.kind, case.layout).to(case.device))
    return forms


def seconds(form: Callable[..., Tensor], inputs: Inputs) -> float:
    """One forward and backward: of the clock on a GPU, of the CPU elsewhere."""
    if not inputs.gradient.is_cuda:
        start = process_time()
        torch.autograd.grad(form(*inputs.qkv), inputs.qkv, inputs.gradient)
        return process_time() - start
    torch.cuda.synchronize()
    start = perf_counter()
    torch.autograd.grad(form(*inputs.qkv), inputs.qkv, inputs.gradient)
    torch.cuda.synchronize()
    return perf_counter() - start


def kept(form: Callable[..., Tensor], inputs: Inputs) -> int:
    """Bytes of the storages that forward holds for backward, each once, without the inputs'."""
    own = {x.untyped_storage().data_ptr() for x in inputs.qkv}
    found: dict[int, int] = {}

    def hold(x: Tensor) -> Tensor:
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
        out = form(*inputs.qkv)
    del out
    return sum(size for place, size in found.items() if place not in own)


def peak(form: Callable[..., Tensor], inputs: Inputs) -> int:
    """Bytes of GPU memory over what the inputs take; 0 on a CPU."""
    if not inputs.gradient.is_cuda:
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds(form, inputs)
    return torch.cuda.max_memory_allocated() - before


def rows(case: Case, rounds: int) -> Iterator[str]:
    inputs, forms = inputs_of(case), forms_of(case)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds + 2):
        for name, form in forms.items():
            times[name].append(seconds(form, inputs))
    auto = chosen(case.device, case.dtype, case.kind, case.layout)
    for name, form in forms.items():
        best = 1e3 * min(times[name][2:])
        memory = f"{kept(form, inputs) / MIB:.1f} | {peak(form, inputs) / MIB:.1f}"
        place = f"{case.device.type} | {str(case.dtype)[6:]} | {case.batch} × {case.layout.length}"
        yield f"| {place} | {case.kind} | {name}{' *' if name == auto else ''} | {best:.2f} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    places = [(torch.device("cpu"), torch.float32)]
    if torch.cuda.is_available():
        places = [(torch.device("cuda"), dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    print("| device | dtype | b × L | kind | form | forward + backward, ms | kept, MiB | GPU peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for device, dtype in places:
        for batch, layout in SIZES:
            for kind in KINDS:
                print(*rows(Case(device, dtype, batch, layout, kind), rounds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
