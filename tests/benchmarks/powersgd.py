"""PowerSGD on a slow link, and its loss: `python tests/benchmarks/powersgd.py [--rate 1gbit] [--updates 150]`.

The first table (Linux, root, iproute2): updates a second of 4 gloo processes, each a machine in a network namespace of
its own, joined by a bridge, what each sends throttled by tc's token bucket. A machine has the matrices of a transformer
in 8 shards, as 8 GPUs would; forward and backward pass are a pause. All machines share the cores of this one.

The second: the same for one machine that has all cores of this one, the link a pause as long as a ring of the 4 takes.

The third: a byte-level transformer trained by 4 replicas on the topics of Python's own help, with plain sums, with
PowerSGD at the paper's relative rank, and with a new Q in every update.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter, sleep
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from gesso.training.distributed.powersgd import PowerSGD, gaussian
from tests.replicas import together

MACHINES, GPUS = 4, 8
CPU = torch.device("cpu")
RELATIVE_RANK = 0.25  # total rank / width; the paper's are 0.23 to 0.27

CONTEXT, BATCH = 64, 8  # bytes; windows a replica

Shapes = dict[str, tuple[int, int]]
Tensors = dict[str, Tensor]


def shards(layers: int, width: int) -> Shapes:
    """(out, in) of the shards of a machine's 8 GPUs: every matrix split along its wide side."""
    narrow, wide = (width // GPUS, width), (4 * width // GPUS, width)
    one = {**dict.fromkeys("qkvo", narrow), "first": wide, "second": (width, 4 * width // GPUS)}
    return {f"{layer}.{gpu}.{name}": one[name] for layer in range(layers) for name in one for gpu in range(GPUS)}


def rank_of(width: int) -> int:
    """Of a GPU's shards."""
    return round(RELATIVE_RANK * width) // GPUS


# ── updates a second ──


class Speed(NamedTuple):
    """Of one way to sum gradients: of an update its seconds, those that it waited for the link, bytes handed over."""

    way: str
    seconds: float
    link: float
    sent: int


class Link:
    """The all-reduce of the group, with the seconds that it took since all processes had come to it."""

    seconds, sent = 0.0, 0

    def sum(self, tensors: list[Tensor]) -> None:
        dist.barrier()
        begun = perf_counter()
        for tensor in tensors:
            dist.all_reduce(tensor)
            self.sent += tensor.nbytes
        self.seconds += perf_counter() - begun


class Paced(Link):
    """The all-reduce of a machine that has no others: a pause, as long as a ring of all takes at `rate` bits/s."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def sum(self, tensors: list[Tensor]) -> None:
        begun, sent = perf_counter(), sum(tensor.nbytes for tensor in tensors)
        sleep(8 * sent * 2 * (MACHINES - 1) / MACHINES / self._rate)
        self.sent += sent
        self.seconds += perf_counter() - begun


def bits(rate: str) -> float:
    """Bits a second of a rate as tc writes it: 1gbit, 125mbit."""
    units = {"gbit": 1e9, "mbit": 1e6, "kbit": 1e3}
    return next(float(rate.removesuffix(unit)) * factor for unit, factor in units.items() if rate.endswith(unit))


def plain(gradients: Tensors, wire: torch.dtype, link: Link) -> Callable[[], None]:
    flat = torch.cat([gradient.flatten() for gradient in gradients.values()]).to(wire)
    return lambda: link.sum([flat])


def compressed(gradients: Tensors, width: int, buffers: str, link: Link) -> Callable[[], None]:
    shapes = {name: (gradient.shape[0], gradient.shape[1]) for name, gradient in gradients.items()}
    power = PowerSGD(shapes, rank_of(width), MACHINES, 0, CPU, torch.float16, buffers)

    def update() -> None:
        for name, gradient in gradients.items():
            power.accumulate(name, gradient)
        power.compress(link.sum)
        for name in gradients:
            power.gradient(name)
        power.feedback(bool(power.squared_norm().isfinite()))

    return update


def machine(number: int, given: argparse.Namespace) -> None:
    """One of the processes, in its own network namespace: joins the others, measures; the first prints JSON."""
    join(number, given.rate)
    torch.set_num_threads(1)
    for speed in measured(Link(), given, dist.barrier):
        if number == 0:
            print(json.dumps(speed), flush=True)


def measured(link: Link, given: argparse.Namespace, meet: Callable[[], Any]) -> Iterator[Speed]:
    """The speed of each way; `meet` waits for the other machines."""
    gradients = {n: torch.randn(s) / s[1] for n, s in shards(given.layers, given.width).items()}
    ways = {
        "plain, fp32": plain(gradients, torch.float32, link),
        "plain, fp16": plain(gradients, torch.float16, link),
        "PowerSGD, fp32 buffers": compressed(gradients, given.width, "fp32", link),
        "PowerSGD, 1-6-9 buffers": compressed(gradients, given.width, "1-6-9", link),
    }
    for way, update in ways.items():
        yield timed(way, update, link, given, meet)
    meet()


def timed(
    way: str, update: Callable[[], None], link: Link, given: argparse.Namespace, meet: Callable[[], Any]
) -> Speed:
    """The mean of some updates after a first one."""
    update()
    meet()
    link.seconds, link.sent, begun = 0.0, 0, perf_counter()
    for _ in range(given.repeats):
        sleep(given.compute)
        update()
    meet()
    repeats = given.repeats
    return Speed(way, (perf_counter() - begun) / repeats, link.seconds / repeats, link.sent // repeats)


def join(number: int, rate: str) -> None:
    """Tells the parent that the namespace is there, waits for its interface, throttles it, joins the group."""
    print("ready", flush=True)
    sys.stdin.readline()
    run("ip", "addr", "add", f"10.0.0.{number + 1}/24", "dev", "e0")
    for interface in ("lo", "e0"):
        run("ip", "link", "set", interface, "up")
    run("tc", "qdisc", "add", "dev", "e0", "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
    os.environ["GLOO_SOCKET_IFNAME"] = "e0"
    dist.init_process_group("gloo", "tcp://10.0.0.1:29500", rank=number, world_size=MACHINES)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def machines(flags: list[str]) -> Iterator[list["subprocess.Popen[str]"]]:
    """The processes, each at the bridge of this process's network namespace."""
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "link", "set", "bridge", "up")
    started = []
    for number in range(MACHINES):
        command = ["unshare", "--net", sys.executable, __file__, "--machine", str(number), *flags]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        yield started
    finally:
        for process in started:
            process.kill()


def switch(flags: list[str]) -> None:
    """In a network namespace of its own: connects the machines and passes on what the first prints."""
    with machines(flags) as started:
        for number, process in enumerate(started):
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            peer = ("peer", "name", "e0", "netns", str(process.pid))
            run("ip", "link", "add", f"port{number}", "type", "veth", *peer)
            run("ip", "link", "set", f"port{number}", "master", "bridge", "up")
        for process in started:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        for line in started[0].stdout or []:
            print(line, end="", flush=True)
        assert not any(process.wait(60) for process in started)


def speeds(flags: list[str]) -> list[Speed]:
    command = ["unshare", "--net", sys.executable, __file__, "--switch", *flags]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Speed(*json.loads(line)) for line in found.splitlines()]


def show_speeds(found: list[Speed]) -> None:
    columns = ("MB sent", "s an update", "of it link", "updates/s", "× plain fp16", "link × fp16")
    print(f"{'':24}" + "".join(f"{column:>14}" for column in columns))
    half = found[1]
    for way, seconds, link, sent in found:
        cells = (sent / 1e6, seconds, link, 1 / seconds, half.seconds / seconds, half.link / link)
        print(f"{way:24}" + "".join(f"{cell:14.2f}" for cell in cells))


# ── loss ──


class Block(nn.Module):
    """Pre-LN attention and MLP, its six matrices separate."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.first, self.second = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](x)
        q, k, v = (one(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.second(F.gelu(self.first(self.norms[1](x))))


def model_of(width: int, layers: int) -> nn.Sequential:
    """Of bytes; a causal model needs no positions to learn some."""
    torch.manual_seed(0)
    blocks = [Block(width, width // 32) for _ in range(layers)]
    return nn.Sequential(nn.Embedding(256, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 256))


def loss_of(model: nn.Module, text: Tensor, starts: Tensor) -> Tensor:
    windows = text[starts[:, None] + torch.arange(CONTEXT + 1)]
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


class Compressed:
    """The gradients of a model's blocks, in the shards of each replica's 8 GPUs."""

    def __init__(self, model: nn.Module, width: int, fresh: bool) -> None:
        self.matrices = {
            name: p for name, p in model.named_parameters() if p.dim() == 2 and "weight" in name and len(name) > 9
        }
        self.fresh, self.update = fresh, 0
        shapes = {name: (part.shape[0], part.shape[1]) for name, part in self.cut(self.matrices).items()}
        rank = rank_of(width)
        self.powers = [PowerSGD(shapes, rank, MACHINES, 0, CPU, torch.float16, "1-6-9") for _ in range(MACHINES)]

    @staticmethod
    def cut(tensors: Mapping[str, Tensor | None]) -> Tensors:
        parts = {n: t.chunk(GPUS, int("second" in n)) for n, t in tensors.items() if t is not None}
        return {f"{name}.{gpu}": part for name, each in parts.items() for gpu, part in enumerate(each)}

    def accumulate(self, replica: int) -> None:
        """Moves the gradients of the matrices into the replica's buffers."""
        for name, part in self.cut({name: matrix.grad for name, matrix in self.matrices.items()}).items():
            self.powers[replica].accumulate(name, part)
        for matrix in self.matrices.values():
            matrix.grad = None

    def reduce(self) -> None:
        """Sets the gradients of the matrices to their compressed sums."""
        first, self.update = self.powers[0], self.update + 1
        if self.fresh:
            q = {name: gaussian(self.update, name, old.shape[0], old.shape[1], CPU) for name, old in first.q.items()}
            for power in self.powers:
                power.q = q
        together(MACHINES, lambda replica, all_reduce: self.powers[replica].compress(all_reduce))
        for name, matrix in self.matrices.items():
            parts = [first.gradient(f"{name}.{gpu}") for gpu in range(GPUS)]
            matrix.grad = torch.cat(parts, int("second" in name))
        for power in self.powers:
            power.feedback(True)


def losses(way: str, given: argparse.Namespace) -> list[float]:
    """The validation loss after each tenth of the updates, nats a byte."""
    text = torch.tensor(list("".join(topics.values()).encode()))
    train, held = text[: -len(text) // 10], text[-len(text) // 10 :]
    model = model_of(given.lm_width, given.lm_layers)
    reduced = None if way == "plain" else Compressed(model, given.lm_width, way == "a new Q every update")
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, (0.9, 0.96))
    generator, found = torch.Generator().manual_seed(1), []
    for update in range(1, given.updates + 1):
        optimizer.zero_grad()
        for replica in range(MACHINES):
            starts = torch.randint(len(train) - CONTEXT, (BATCH,), generator=generator)
            (loss_of(model, train, starts) / MACHINES).backward()  # type: ignore[no-untyped-call]
            if reduced:
                reduced.accumulate(replica)
        if reduced:
            reduced.reduce()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        halvings = max(0, 10 * update // given.updates - 4)  # five, in the second half, as the paper at its plateaus
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, update / 30) / 2**halvings
        optimizer.step()
        if update % (given.updates // 10) == 0:
            with torch.no_grad():
                found.append(float(loss_of(model, held, torch.arange(0, len(held) - CONTEXT, CONTEXT)[:512])))
    if reduced:
        show_errors(way, reduced)
    return found


def show_errors(way: str, reduced: Compressed) -> None:
    """How far the replicas' buffers have gone apart: their difference is noise that is never sent."""
    errors = torch.stack([torch.cat([p.error(n).flatten() for n in p.shapes]) for p in reduced.powers])
    print(f"{way}: norm of a replica's buffer / of their mean: {errors.norm() / 2 / errors.mean(0).norm():.1f}")


def show_losses(given: argparse.Namespace) -> None:
    ways = ("plain", "PowerSGD", "a new Q every update")
    found = [losses(way, given) for way in ways]
    print(f"{'updates':>8}" + "".join(f"{way:>22}" for way in ways))
    for tenth, row in enumerate(zip(*found, strict=True), 1):
        print(f"{tenth * (given.updates // 10):8}" + "".join(f"{loss:22.3f}" for loss in row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", default="1gbit", help="what each machine may send, as tc writes it")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--compute", type=float, default=0.0, help="seconds of the pause")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=150, help="of the second table")
    parser.add_argument("--lm_width", type=int, default=128)
    parser.add_argument("--lm_layers", type=int, default=2)
    parser.add_argument("--only", choices=("speed", "alone", "loss"))
    parser.add_argument("--machine", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--switch", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    flags = [word for word in sys.argv[1:] if word != "--switch"]
    if given.machine is not None:
        machine(given.machine, given)
    elif given.switch:
        switch(flags)
    else:
        tables(given, flags)


def tables(given: argparse.Namespace, flags: list[str]) -> None:
    if given.only in (None, "speed"):
        show_speeds(speeds(flags))
    if given.only in (None, "alone"):
        print(f"one machine alone, {torch.get_num_threads()} threads")
        show_speeds(list(measured(Paced(bits(given.rate)), given, lambda: None)))
    if given.only in (None, "loss"):
        torch.set_num_threads(1)  # each replica is a thread
        show_losses(given)


if __name__ == "__main__":
    main()
