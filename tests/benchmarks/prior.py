"""Tokens a second and memory of training a prior, against lucidrains/DALLE-pytorch and against dense causal attention.

`python tests/benchmarks/prior.py [--peer FOLDER] [--rounds 2] [--updates 4]`, where FOLDER holds the peer:

    pip install --target FOLDER --no-deps dalle-pytorch axial-positional-embedding rotary-embedding-torch einops \\
        ftfy wcwidth

All have the same width, depth, heads, positions, vocabularies, batch and precision, make full updates of AdamW on
random tokens, and run in processes of their own, in turns; the best round counts. The peer's own choices stay: its
attention of the same kinds, its gated MLP, which is twice as large inside, and logits of both vocabularies everywhere.
Captions have 16 tokens, the rest is padding.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from math import isfinite
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

LAYERS, HEADS, SIZE, TEXT, GRID, TEXTS, CODES = 8, 4, 64, 256, 32, 16_384, 8192
CAPTION = 16
Update = Callable[[Tensor, Tensor], None]

CONTENDERS = ("gesso", "gesso, dense causal SDPA", "DALLE-pytorch, row column conv", "DALLE-pytorch, full")


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    text = torch.randint(1, TEXTS, (batch, TEXT), generator=random)
    return text, torch.randint(0, CODES, (batch, GRID**2), generator=random)


def build_ours(masks: str, device: torch.device, dtype: torch.dtype) -> Update:
    from gesso.processes import Group
    from gesso.training.adamw import AdamW
    from gesso.training.distributed.reduction import PlainReduction
    from gesso.training.distributed.sharding import Spread, blocks_of
    from gesso.training.precision.resblock_scale import ResblockScales
    from gesso.training.prior.model import Prior, loss
    from gesso.training.prior.settings import PriorConfig, Tokens

    model = Prior(PriorConfig(LAYERS, HEADS, SIZE, TEXT, masks, tokens=Tokens(GRID, CODES, TEXTS))).to(device)
    model.initialize(0)
    model.set_precision(dtype, dtype if dtype == torch.float16 else torch.float32)
    scales = ResblockScales(2 * LAYERS, 1, device, dtype == torch.float16)
    scales.scale(model.residuals())
    blocks = blocks_of(model, model.residuals())
    reduction = PlainReduction(blocks, Spread(model, 1, 1), Group(0, 1, device), scales.values)
    optimizer = AdamW({name: value.detach() for name, value in model.named_parameters()}, blocks.matrices, (), 0.0)
    padding = TEXTS + torch.arange(TEXT, device=device)

    def update(text: Tensor, codes: Tensor) -> None:
        text = torch.where(torch.arange(TEXT, device=device) < CAPTION, text, padding)
        loss(model(text, codes), len(text) * (CAPTION - 1), codes.numel()).backward()  # type: ignore[no-untyped-call]
        reduced = reduction.reduce()
        scales.step(reduced.finite)
        made = isfinite(reduced.norm)
        if made:
            optimizer.step(reduction.gradients(), 1e-4)
        reduction.finish(made)

    return update


def build_peer(kinds: tuple[str, ...], device: torch.device, dtype: torch.dtype, folder: str) -> Update:
    stub_what_the_peer_does_not_need()
    sys.path.insert(0, folder)
    from dalle_pytorch import DALLE, DiscreteVAE  # type: ignore[import-not-found]

    vae = DiscreteVAE(image_size=GRID * 8, num_layers=3, num_tokens=CODES, codebook_dim=8, hidden_dim=8)
    model: nn.Module = DALLE(
        dim=HEADS * SIZE,
        vae=vae,
        num_text_tokens=TEXTS,
        text_seq_len=TEXT,
        depth=LAYERS,
        heads=HEADS,
        dim_head=SIZE,
        attn_types=kinds,
        rotary_emb=False,
        shift_tokens=False,
    ).to(device)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)

    def update(text: Tensor, codes: Tensor) -> None:
        text = torch.where(torch.arange(TEXT, device=device) < CAPTION, text, 0)  # 0 is its padding
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            value = model(text, codes, return_loss=True)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def stub_what_the_peer_does_not_need() -> None:
    """Its tokenizers and its VQGAN, which it imports whether they are used or not."""

    class Anything(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__init__": lambda *_: None, "version": ""})

    names = ("taming", "taming.models", "taming.models.vqgan", "omegaconf", "pkg_resources", "youtokentome")
    for name in (*names, "transformers", "tokenizers", "tokenizers.processors"):
        sys.modules.setdefault(name, Anything(name))


def run(name: str, updates: int, batch: int, precision: str, folder: str) -> dict[str, float]:
    """Seconds of an update and peak MiB, in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    mixed = ("axial_row", "axial_col", "axial_row", "axial_row", "axial_row", "axial_col", "axial_row", "conv_like")
    kinds = mixed if "row" in name else ("full",)
    ours = name.startswith("gesso")
    masks = "causal" if "dense" in name else "sparse"
    update = build_ours(masks, device, dtype) if ours else build_peer(kinds, device, dtype, folder)
    text, codes = (part.to(device) for part in inputs(batch))
    update(text, codes)
    wait(device)
    begun = perf_counter()
    for _ in range(updates):
        update(text, codes)
    wait(device)
    return {"seconds": (perf_counter() - begun) / updates, "mib": peak(device)}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def apart(name: str, flags: list[str]) -> dict[str, float]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *flags, "--only", name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the folder with dalle-pytorch; without it ours alone")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(run(given.only, given.updates, given.batch, given.precision, given.peer)))
        return
    shape = f"{LAYERS} layers, width {HEADS * SIZE}, {TEXT + GRID**2} positions, batch {given.batch}, {given.precision}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{shape}, {device}; the best of {given.rounds} rounds of {given.updates} updates")
    contenders = CONTENDERS if given.peer else CONTENDERS[:2]
    rounds = [{name: apart(name, sys.argv[1:]) for name in contenders} for _ in range(given.rounds)]
    best = {name: min(each[name]["seconds"] for each in rounds) for name in contenders}
    print(f"{'':34}{'tokens/s':>10}{'of ours':>9}{'peak MiB':>10}")
    for name in contenders:
        tokens, memory = given.batch * (TEXT + GRID**2) / best[name], max(each[name]["mib"] for each in rounds)
        print(f"{name:34}{tokens:>10,.0f}{best[CONTENDERS[0]] / best[name]:>9.2f}{memory:>10,.0f}")


if __name__ == "__main__":
    main()
