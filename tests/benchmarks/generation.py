"""Speed and memory of drawing image tokens, against no cache, a cache of everything, and lucidrains/DALLE-pytorch.

`python tests/benchmarks/generation.py [--peer FOLDER] [--steps 8] [--batch 16]`: FOLDER holds the peer as in prior.py.

On a CPU: tokens a second of all rows, in CPU time of one thread, which other programs disturb least; each contender in
a process of its own. `steps` tokens are drawn after 0, 512 and 1,000 of 1,024, and the times are averaged: no cost
grows faster than the position. The last line draws all. Keys and values are counted from the tensors.

    no cache               a full pass a token, by the training's own attention
    a cache of everything  the same weights; keys and values of all positions in every layer, the caption's for each row
    DALLE-pytorch          generate_images as it is, which has no cache at its default scale of 1; with its cache at
                           another scale, which takes two passes a token; with its cache mended for a scale of 1;
                           and so without the convolution, which it computes anew for all positions at each token

On a GPU: pictures a second at batch 1, 8 and 64, and the share of the memory's peak bandwidth at which weights, keys
and values are read, with random weights. A cell that fails tells its error.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.generation.sampling import draw_codes, uniforms
from gesso.generation.settings import Sampling
from gesso.generation.tiles import Tile
from gesso.training.prior import counting, masks
from gesso.training.prior.decoding import Decoder, cache_bytes, layers_of, linear, normalised
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig, Tokens
from gesso.training.prior.slots import Slots

LAYERS, HEADS, SIZE, TEXT, GRID, TEXTS, CODES = 8, 4, 64, 256, 32, 16_384, 8192
PLACES = (0, 512, 1000)
SAMPLING = Sampling()
PEAKS = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12}  # bytes a second, of the SXM cards' data sheets

Step = Callable[[int], None]  # draws the token of a position, given those before it
Prepare = Callable[[int], Step]  # sets the state to that after so many tokens


class Setup:
    """The model, and tokens that were drawn already."""

    def __init__(self, batch: int) -> None:
        self.prior = random_prior(PriorConfig(LAYERS, HEADS, SIZE, TEXT, tokens=Tokens(GRID, CODES, TEXTS)))
        random = torch.Generator().manual_seed(0)
        self.text = torch.randint(0, TEXTS, (1, TEXT), generator=random)
        self.codes = torch.randint(0, CODES, (batch, GRID**2), generator=random)
        self.numbers = uniforms(range(batch), GRID**2)

    def draw(self, logits: Tensor, position: int) -> None:
        self.codes[:, position] = draw_codes(logits, self.numbers[:, position], SAMPLING)


def random_prior(config: PriorConfig, device: str = "cpu") -> Prior:
    with torch.device("meta"):
        prior = Prior(config)
    prior.to_empty(device=device).initialize(0)
    return prior.eval().requires_grad_(False)


def gesso(setup: Setup) -> tuple[Prepare, Callable[[], float]]:
    batch = len(setup.codes)
    decoder = Decoder(setup.prior, 1, batch)

    def prepare(position: int) -> Step:
        logits = [decoder.prefill(setup.text, setup.codes[0, :position])]

        def step(position: int) -> None:
            setup.draw(logits[0], position)
            logits[0] = decoder.advance(setup.codes[:, position], position)

        return step

    return prepare, lambda: decoder.nbytes[0] / batch + decoder.nbytes[1] / batch


def without_cache(setup: Setup) -> tuple[Prepare, Callable[[], float]]:
    text = setup.text.expand(len(setup.codes), -1)

    def step(position: int) -> None:
        setup.draw(setup.prior.next_logits(text, setup.codes, position), position)

    return lambda position: step, lambda: 0.0


def with_everything(setup: Setup) -> tuple[Prepare, Callable[[], float]]:
    """Keys and values of all positions, (2, b, h, T + N, c) a layer; a mask hides what is not seen."""
    prior, batch, layout = setup.prior, len(setup.codes), counting.layout_of(setup.prior.config)
    layers, kinds = list(layers_of(prior, torch.float32, torch.float32)), counting.kinds(prior.config)
    caches = [torch.randn(2, batch, HEADS, layout.length, SIZE) for _ in layers]
    seen = {kind: masks.mask(kind, layout) for kind in set(kinds)}
    places = (prior.row.weight[:, None] + prior.column.weight).flatten(0, 1)

    def step(position: int) -> None:
        at = layout.text + position
        x = prior.image(setup.codes[:, position - 1]) + places[position - 1]
        for kind, layer, cache in zip(kinds, layers, caches, strict=True):
            qkv = linear(normalised(x, layer.attention_norm), layer.qkv, torch.float32).view(batch, 3, HEADS, 1, SIZE)
            cache[:, :, :, at] = qkv[:, 1:, :, 0].transpose(0, 1)
            keys, values = cache[:, :, :, : at + 1]
            found = F.scaled_dot_product_attention(qkv[:, 0], keys, values, seen[kind][at : at + 1, : at + 1])
            x = x + linear(found.flatten(1), layer.post, torch.float32)
            inside = F.gelu(linear(normalised(x, layer.mlp_norm), layer.first, torch.float32))
            x = x + linear(inside, layer.second, torch.float32)
        setup.draw(prior.image_logits(prior.norm(x)), position)

    return lambda position: step, lambda: sum(cache.nbytes for cache in caches) / batch


def peer(
    setup: Setup, folder: str, cached: bool, scale: float, mended: bool, last: str
) -> tuple[Prepare, Callable[[], float]]:
    """The body of `DALLE.generate_images`' loop."""
    from prior import stub_what_the_peer_does_not_need

    stub_what_the_peer_does_not_need()
    sys.path.insert(0, folder)
    from dalle_pytorch import DALLE, DiscreteVAE  # type: ignore[import-not-found]
    from dalle_pytorch.dalle_pytorch import gumbel_sample, top_k  # type: ignore[import-not-found]

    vae = DiscreteVAE(image_size=GRID * 8, num_layers=3, num_tokens=CODES, codebook_dim=8, hidden_dim=8)
    kinds = ("axial_row", "axial_col", "axial_row", "axial_row", "axial_row", "axial_col", "axial_row", last)
    more = {"rotary_emb": False, "shift_tokens": False, "optimize_for_inference": cached}
    shape = {"num_text_tokens": TEXTS, "text_seq_len": TEXT, "depth": LAYERS, "heads": HEADS, "dim_head": SIZE}
    model = DALLE(dim=HEADS * SIZE, vae=vae, attn_types=kinds, **shape, **more).eval()
    text, held = setup.text.expand(len(setup.codes), -1), dict[str, Any]()

    def prepare(position: int) -> Step:
        held.clear()
        cache = held if cached else None
        if cached and position:
            logits_of(text, setup.codes[:, :position], cache)

        def step(position: int) -> None:
            filtered = top_k(logits_of(text, setup.codes[:, :position], cache)[:, -1, :], thres=0.5)
            setup.codes[:, position] = (
                gumbel_sample(filtered, temperature=1.0, dim=-1) - model.num_text_tokens
            ) % CODES

        return step

    def logits_of(text: Tensor, codes: Tensor, cache: Any) -> Tensor:
        if mended:
            return model(text.clone(), codes, cache=cache)
        return model.forward_with_cond_scale(text.clone(), codes, cond_scale=scale, cache=cache)

    return prepare, lambda: sum(each.nbytes for each in tensors(held)) / len(setup.codes)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors(each)


OURS = {"gesso": gesso, "a cache of everything": with_everything, "no cache": without_cache}
PEERS = {  # cached, scale, mended, the last layer's attention
    "DALLE-pytorch as it is": (False, 1.0, False, "conv_like"),
    "DALLE-pytorch, cache, scale 3": (True, 3.0, False, "conv_like"),
    "DALLE-pytorch, mended": (True, 1.0, True, "conv_like"),
    "DALLE-pytorch, mended, no conv": (True, 1.0, True, "axial_row"),
}


@torch.inference_mode()
def run(name: str, batch: int, steps: int, folder: str) -> dict[str, float]:
    """Seconds of a step of all rows, and MiB of keys and values a row, in this process."""
    setup = Setup(batch)
    prepare, held = OURS[name](setup) if name in OURS else peer(setup, folder, *PEERS[name])
    uncached = name in ("no cache", "DALLE-pytorch as it is")
    steps = 1 if uncached else steps
    times = []
    for place in PLACES:
        step = prepare(place)
        if not uncached:
            step(place)
        begun = process_time()
        for position in range(place + 1, place + 1 + steps):
            step(position)
        times.append((process_time() - begun) / steps)
    return {"seconds": sum(times) / len(times), "mib": held() / 2**20}


def apart(name: str, flags: list[str]) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, *flags, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def on_cpu(given: argparse.Namespace) -> None:
    shape = f"{LAYERS} layers, width {HEADS * SIZE}, {TEXT} + {GRID**2} positions, batch {given.batch}, fp32"
    print(f"{shape}, CPU, {torch.get_num_threads()} threads")
    names = [*OURS, *(PEERS if given.peer else ())]
    print(f"{'':32}{'tokens/s':>10}{'gesso is':>15}{'MiB a row':>11}")
    ours = 0.0
    for name in names:
        found = apart(name, sys.argv[1:])
        ours = ours or found["seconds"]
        times = f"{found['seconds'] / ours:,.2f} times"
        print(f"{name:32}{given.batch / found['seconds']:>10,.1f}{times:>15}{found['mib']:>11,.2f}", flush=True)
    print(f"counted: {' '.join(counted(given.batch))}")
    setup = Setup(given.batch)
    tile = Tile(setup.prior, 1, given.batch)
    begun = process_time()
    tile.draw(setup.text, range(given.batch), SAMPLING, setup.codes[0, :0])
    passed = process_time() - begun
    print(f"gesso, all {GRID**2:,} tokens of {given.batch} rows, prefill included: {passed:.1f} s", end=", ")
    print(f"{given.batch * GRID**2 / passed:,.1f} tokens/s")


def counted(batch: int) -> Iterator[str]:
    """Positions that are kept in all layers of a model, by arithmetic."""
    for layers in (LAYERS, 64):
        config = PriorConfig(layers, HEADS, SIZE, TEXT, tokens=Tokens(GRID, CODES, TEXTS))
        position = 2 * config.width * 4
        row, caption = (size / position for size in cache_bytes(config, 4))
        whole = layers * config.positions
        own = f"{row + caption:,.0f} positions are kept ({whole / (row + caption):.2f} times less)"
        yield f"of {whole:,.0f} in {layers} layers {own}, {row:,.0f} ({whole / row:.2f}) beside shared text;"


def on_gpu() -> None:
    """Each cell is guarded."""
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAKS.items() if key in name), 0.0)
    print(f"{name}, torch {torch.__version__}, peak {peak / 1e12:.2f} TB/s")
    cell("fp32 logits against the full pass", check_logits)
    models = {
        "1b preset, 36 layers, width 1536": PriorConfig(36, 24, 64, TEXT, tokens=Tokens(GRID, CODES, TEXTS)),
        "small, 8 layers, width 256": PriorConfig(LAYERS, HEADS, SIZE, TEXT, tokens=Tokens(GRID, CODES, TEXTS)),
    }
    for text, config in models.items():
        for precision in (torch.bfloat16, torch.float16):
            with suppress(RuntimeError):
                prior = random_prior(config, "cuda")
                prior.set_precision(precision, precision)
            for rows in (1, 8, 64):
                label = f"{text}, {str(precision)[6:]}, batch {rows:2}"
                cell(f"{label}, graph", lambda p=prior, r=rows: speed(p, r, peak, GRID**2))  # type: ignore[misc]
                if precision == torch.float16:
                    cell(f"{label}, eager", lambda p=prior, r=rows: speed(p, r, peak, 256, graph=False))  # type: ignore[misc]
        cell(f"{text}, batch 64, arrangements", lambda p=prior: check_arrangements(p))  # type: ignore[misc]
        if config.layers > LAYERS:
            cell(f"{label}, graph, compiled", lambda p=prior: speed(p, 64, peak, GRID**2, compiled=True))  # type: ignore[misc]


def cell(name: str, measure: Callable[[], str]) -> None:
    """Prints what was measured, or the error."""
    begun = perf_counter()
    try:
        told = measure()
    except Exception as error:  # noqa: BLE001 - one failure must not lose the other cells
        told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    print(f"{name:64} {told}  [{perf_counter() - begun:.1f} s]", flush=True)
    torch.cuda.empty_cache()


def speed(prior: Prior, rows: int, peak: float, steps: int, graph: bool = True, compiled: bool = False) -> str:
    """Pictures a second, and the share of the peak bandwidth, by the last `steps` tokens."""
    tile = Tile(prior, 1, rows, graph, compiled)
    text = torch.randint(0, TEXTS, (1, TEXT))
    count = GRID**2
    prefix = torch.zeros(count - steps, dtype=torch.int64)
    short = torch.zeros(count - 4, dtype=torch.int64)
    tile.draw(text, range(rows), SAMPLING, short)  # captures, compiles
    torch.cuda.synchronize()
    begun = perf_counter()
    tile.draw(text, range(rows), SAMPLING, prefix)
    torch.cuda.synchronize()
    step = (perf_counter() - begun) / steps
    moved = bytes_of_step(prior, rows)
    share = f"{moved / step / peak:.0%} of the peak" if peak else "peak unknown"
    return f"{rows / (step * count):8.2f} pictures/s, {1e3 * step:6.3f} ms a step, {moved / 1e9:.2f} GB, {share}"


def bytes_of_step(prior: Prior, rows: int) -> float:
    """Weights once; keys and values: the text's once, of each row what is read and written."""
    config, layout = prior.config, counting.layout_of(prior.config)
    size = prior.residuals()[0].compute.itemsize
    weights = size * counting.parameters(config).matrices + 4 * config.tokens.codes * config.width
    read = 0
    for kind in counting.kinds(config):
        slots = Slots(kind, layout, torch.float32, torch.device("cpu"))
        read += slots.count // slots.blocks + 1
    position = 2 * config.width * size
    return weights + position * (config.layers * layout.text + rows * read)


def check_logits() -> str:
    config = PriorConfig(4, 4, 64, TEXT, tokens=Tokens(GRID, CODES, TEXTS))
    prior = random_prior(config, "cuda")
    text, codes = torch.randint(0, TEXTS, (1, TEXT)), torch.randint(0, CODES, (8, GRID**2))
    decoder, worst = Decoder(prior, 1, 8), 0.0
    with torch.inference_mode():
        for place in (0, 500, 1000):
            codes[:, :place] = codes[0, :place]
            got = decoder.prefill(text.cuda(), codes[0, :place].cuda())
            for position in range(place, place + 20):
                want = prior.next_logits(text.expand(8, -1).cuda(), codes.cuda(), position)
                worst = max(worst, float((got - want).abs().max()))
                got = decoder.advance(codes[:, position].cuda(), torch.tensor([position], device="cuda"))
    return f"largest difference {worst:.1e}"


def check_arrangements(prior: Prior) -> str:
    """The same candidates in another arrangement of captions, and by a graph or without one."""
    text, short = torch.randint(0, TEXTS, (1, TEXT)), torch.zeros(GRID**2 - 64, dtype=torch.int64)
    one = Tile(prior, 1, 64).draw(text, range(64), SAMPLING, short).clone()
    other = Tile(prior, 16, 4).draw(text.expand(16, -1), [*range(4)] * 16, SAMPLING, short).clone()
    eager = Tile(prior, 1, 64, graph=False).draw(text, range(64), SAMPLING, short)
    same = (one[:4] == other[:4]).all(1).sum(), (one == eager).all(1).sum()
    return f"{int(same[0])} of 4 the same among 16 captions, {int(same[1])} of 64 the same without a graph"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="", help="the folder with dalle-pytorch; without it ours alone")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(run(given.only, given.batch, given.steps, given.peer)))
    elif torch.cuda.is_available():
        on_gpu()
    else:
        on_cpu(given)


if __name__ == "__main__":
    main()
