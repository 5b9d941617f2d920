"""The training of a prior, one process's part: batches, updates, evaluations, state. The loop is training/loop.py.

pairs ─ Prior ─ loss ─ backward under the blocks' scales ─ reduction ─ finite? ─ clip ─ AdamW ─ average on the CPU
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method

from gesso.processes import Group
from gesso.training.adamw import AdamW
from gesso.training.average import Average
from gesso.training.checkpoint import Tensors
from gesso.training.data.order import State
from gesso.training.distributed.parallel import gradient_sync, local, reshard, sharded_like
from gesso.training.distributed.powersgd import PowerSGD
from gesso.training.distributed.reduction import build_reduction
from gesso.training.distributed.sharding import Blocks, Spread, blocks_of, shard_count, spread
from gesso.training.loop import Evaluated, Values
from gesso.training.plateau import LearningRate
from gesso.training.precision.resblock_scale import ResblockScales
from gesso.training.prior import evaluation
from gesso.training.prior.model import IMAGE_WEIGHT, TEXT_WEIGHT, Prior, loss
from gesso.training.prior.pairs import Batch, Pairs
from gesso.training.prior.pictures import Painter
from gesso.training.prior.settings import Run
from gesso.training.spikes import Diverged, SpikeDetector

Json = dict[str, Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BETAS, EPS = (0.9, 0.96), 1e-8  # of AdamW (DALL-E paper, B.2)
VARIANCE_LIMIT = 5.0  # the running variance is clipped to it (DALL-E paper, D)
MOST_SKIPPED = 100  # updates in a row, after which the training has diverged; about 5% are skipped in the paper


class Trainer:
    """What `training.loop` asks of a trainer, for a prior."""

    best_metric = "val_loss"

    def __init__(self, run: Run, group: Group, pairs: Pairs, painter: Painter) -> None:
        self._run, self._group, self._pairs, self._painter = run, group, pairs, painter
        settings, compute = run.training, run.compute
        self.prior, self._blocks, self._spread = build(run, group)
        self._roots = [self.prior]
        self._scales = ResblockScales(
            2 * run.prior.layers, group.size * compute.accumulate, group.device, settings.precision == "fp16"
        )
        self._scales.scale(self.prior.residuals())
        self._parameters = dict(self.prior.named_parameters())
        self._shards = {name: local([value.detach()])[0] for name, value in self._parameters.items()}
        self._reduction = build_reduction(self._blocks, self._spread, group, self._scales.values, self._compressor())
        narrow = self._blocks.matrices.keys() if settings.moments == 16 else ()
        decayed = [name for name, value in self._parameters.items() if value.dim() == 2]
        self._optimizer = AdamW(self._shards, narrow, decayed, settings.weight_decay, BETAS, EPS, VARIANCE_LIMIT)
        self._average = Average(self._shards, settings.ema, settings.ema_every)
        self._rate = LearningRate(
            settings.learning_rate, settings.warmup, settings.patience, settings.threshold, settings.halvings
        )
        self._spikes = SpikeDetector(run.loop.spike)
        self.step, self._data_state = 0, State(settings.seed)
        self._skipped = self._skipped_in_a_row = self._truncated = 0

    @contextmanager
    def batches(self) -> Iterator[Iterator[Batch]]:
        """This process's part of each batch that follows, without end."""
        loader = self._pairs.loader(self._data_state)
        try:
            yield iter(loader)
        finally:
            loader.close()

    def update(self, batch: Batch) -> Values:
        """One step of AdamW on the mean loss of all processes' pairs; returns its metrics.

        Where gradients are not finite the update is skipped, and only the scales of their blocks change. Raises
        Diverged where the loss is not finite or spikes, and after a hundred skipped updates in a row.
        """
        rate = self._rate.rate(self.step + 1)
        sums = self._backward(batch)
        reduced = self._reduction.reduce()
        *read, norm = torch.cat([sums, reduced.norm.view(1)]).tolist()  # the one wait for the device
        terms = mean_losses(*read)
        self._spikes.check(self.step, terms["loss"])
        self._scales.step(reduced.finite)
        made = isfinite(norm)
        if made:
            factor = min(1.0, self._run.training.clip / max(norm, EPS))
            self._average.before_change()
            self._optimizer.step(self._reduction.gradients(), rate, factor)
        self._reduction.finish(made)
        self._count(made, batch)
        return {**terms, "learning_rate": rate, "gradient_norm": norm, **self._traffic()}

    def interval_metrics(self, reset: bool) -> Values:
        """Skipped updates and captions cut since the run began, the blocks' scales, and where the next batch begins."""
        counts = {"skipped": self._skipped, "captions_cut": self._truncated_in_all()}
        return {**counts, **self._scales.metrics(), "epoch": self._data_state.epoch, "index": self._data_state.index}

    def evaluate(self) -> Evaluated:
        """Evaluates the averaged weights on the validation split, draws pictures, and may halve the learning rate."""
        with self._averaged_weights():
            values = evaluation.evaluate(self._spread.model, self.prior, self._pairs.validation(), self._group)
            images = self._painter.paint(self.prior, self.step, self._group)
        self._rate.observe(self.step, values["val_loss"])
        return Evaluated(values, images)

    def tensors(self) -> Tensors:
        """Weights, their average, AdamW's moments (16-bit codes as float16, bit for bit), PowerSGD's errors summed."""
        self._average.wait()
        kinds = {"average": self._average.tensors, **self._optimizer.moments, "error": self._reduction.errors()}
        return {
            "model": {name: value.detach() for name, value in self._parameters.items()},
            **{kind: self._as_parameters(named) for kind, named in kinds.items() if named},
        }

    def state(self) -> Json:
        """Step, place in the data, scales, learning rate's halvings, mean loss, counts."""
        return {
            "step": self.step,
            "adam_updates": self._optimizer.updates,
            "data": asdict(self._data_state),
            "scales": self._scales.state(),
            "rate": self._rate.state(),
            "mean_loss": self._spikes.mean,
            "skipped": self._skipped,
            "truncated": self._truncated_in_all(),
        }

    def restore(self, state: Json, tensors: Tensors) -> None:
        """Continues from a checkpoint, on any number of processes."""
        self.step, self._data_state = state["step"], State(**state["data"])
        self._optimizer.updates, self._skipped = state["adam_updates"], state["skipped"]
        self._scales.restore(state["scales"])
        self._rate.restore(state["rate"])
        self._spikes.mean = state["mean_loss"]
        self._reduction.restore({name: local([value])[0] for name, value in tensors.get("error", {}).items()})
        self._truncated = 0 if self._group.rank else state["truncated"]

    def _backward(self, batch: Batch) -> Tensor:
        """Gradients of the batch, part by part; summed losses of captions and images of all processes, and tokens."""
        parts, device = self._run.compute.accumulate, self._group.device
        text, codes = batch.text.to(device, non_blocking=True), self._pairs.codes(batch)
        tokens = self._token_counts(text, codes)
        totals, size = torch.zeros(2, device=device), len(text) // parts
        for number in range(parts):
            part = slice(number * size, (number + 1) * size)
            with gradient_sync(self._spread.model, self._roots, last=number == parts - 1):
                nll = self._spread.model(text[part], codes[part])
                loss(nll, *tokens.float()).backward()  # type: ignore[no-untyped-call]
            totals += torch.stack([nll.text, nll.image]).detach()
        return torch.cat([self._group.total(totals).double(), tokens])

    def _token_counts(self, text: Tensor, codes: Tensor) -> Tensor:
        """Tokens of captions and of images that count in the loss of the full batch, float64 (2,)."""
        counted = self.prior.counted(text[:, 1:]).sum()
        counts = torch.stack([counted, torch.full_like(counted, codes.numel())]).double()
        return self._group.total(counts).clamp(min=1)

    def _count(self, made: bool, batch: Batch) -> None:
        """Ends an update, made or skipped. Raises Diverged."""
        self._skipped += not made
        self._skipped_in_a_row = 0 if made else self._skipped_in_a_row + 1
        if self._skipped_in_a_row == MOST_SKIPPED:
            raise Diverged(f"the gradients of {MOST_SKIPPED} updates in a row were not finite")
        self.step, self._data_state, self._truncated = self.step + 1, batch.state, self._truncated + batch.truncated
        self._average.update(self.step)

    def _truncated_in_all(self) -> int:
        """Captions that were cut, in all processes."""
        return int(self._group.total(torch.tensor(self._truncated, device=self._group.device)))

    def _traffic(self) -> Values:
        """MiB that this process gave to all-reduces over the replicas, and that compression spared; of an update."""
        traffic = self._reduction.traffic()
        found = {"sent_mib": traffic.sent / 2**20, "saved_mib": traffic.saved / 2**20}
        return {name: value for name, value in found.items() if value}

    def _compressor(self) -> PowerSGD | None:
        settings, spread = self._run.training, self._spread
        if not settings.compression_rank:
            return None
        shards = {name: self._shards[name] for name in self._blocks.matrices}
        shapes = {name: (value.shape[0], value.shape[1]) for name, value in shards.items()}
        rank = max(1, settings.compression_rank // spread.shards)
        wire = DTYPES[settings.wire]
        return PowerSGD(shapes, rank, spread.replicas, settings.seed, self._group.device, wire, settings.error_buffers)

    def _as_parameters(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """State by name, sharded as the parameters are; 16-bit codes as float16, which collectives know."""
        carried = {name: as_half(value) for name, value in named.items()}
        return {name: sharded_like(self._parameters[name], value) for name, value in carried.items()}

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The model with its averaged weights, in evaluation mode."""
        self._average.wait()
        saved = {name: value.clone() for name, value in self._shards.items()}
        self._load(self._average.tensors)
        self.prior.eval()
        try:
            yield
        finally:
            self.prior.train()
            reshard(self._roots)
            self._load(saved)

    @torch.no_grad()
    def _load(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._shards[name].copy_(value)


def mean_losses(text_sum: float, image_sum: float, text_tokens: float, image_tokens: float) -> Values:
    """Of an update, over the tokens of all processes."""
    text_loss, image_loss = text_sum / text_tokens, image_sum / image_tokens
    mean = TEXT_WEIGHT * text_loss + IMAGE_WEIGHT * image_loss
    return {"loss": mean, "text_loss": text_loss, "image_loss": image_loss}


def build(run: Run, group: Group) -> tuple[Prior, Blocks, Spread]:
    """The model with its initial weights, spread over the processes; nothing larger than a shard is allocated."""
    compute, dtype = run.compute, DTYPES[run.training.precision]
    prior = on_meta(run, dtype)
    shards = shard_count(group, compute.parallel, compute.shards, local_processes(), run.prior.width)
    sharded = compute.parallel == "fsdp" and group.size > 1
    if not sharded:
        allocate(prior, run.training.seed, group.device)
    spreading = spread(prior, blocks_of(prior, prior.residuals()), group, compute.parallel, shards, dtype)
    if sharded:
        allocate(prior, run.training.seed, group.device)
        register_fsdp_forward_method(prior, "next_logits")
    return prior, blocks_of(prior, prior.residuals()), spreading


def on_meta(run: Run, dtype: torch.dtype) -> Prior:
    """The model without memory; `dtype` is that of the blocks' arithmetic, and in fp16 of their matrices."""
    with torch.device("meta"):
        prior = Prior(run.prior, run.compute.attention)
    prior.set_precision(dtype, dtype if dtype == torch.float16 else torch.float32)
    if run.compute.recompute:
        prior.recompute()
    if run.compute.compile:
        for block in prior.residuals():
            block.compile()
    return prior


def allocate(prior: Prior, seed: int, device: torch.device) -> None:
    """Gives the model, or this process's shards of it, memory and initial weights."""
    prior.to_empty(device=device)
    prior.initialize(seed)


def as_half(value: Tensor) -> Tensor:
    """16-bit codes as float16, the same memory; other tensors as they are."""
    return value.view(torch.float16) if value.dtype == torch.int16 else value


def local_processes() -> int:
    """Processes of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
