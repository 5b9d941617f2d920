"""The training of a dVAE, one process's part of it: batches, updates, evaluations, state. The loop is training/loop.py.

batch ─ DVAE ─ loss ─ × scale ─ backward ─ ÷ scale ─ finite? ─ AdamW ─ moving average of the weights
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from gesso import storage
from gesso.errors import UserError
from gesso.images import Pixels
from gesso.processes import Group
from gesso.training import grids
from gesso.training.averaged_adamw import AveragedAdamW
from gesso.training.checkpoint import Tensors
from gesso.training.data.loader import Batch, Loader
from gesso.training.data.order import State
from gesso.training.data.split import Split
from gesso.training.distributed.parallel import gradient_sync, local, parallelize, total_norm
from gesso.training.dvae import evaluation, metrics
from gesso.training.dvae.layers import set_precision
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.noise import exponential
from gesso.training.dvae.schedules import rates
from gesso.training.dvae.settings import Run
from gesso.training.layout import CODES, GRID, USAGE, evaluation_name
from gesso.training.loop import Evaluated, Values
from gesso.training.precision.loss_scale import LossScale
from gesso.training.spikes import Diverged, SpikeDetector

Json = dict[str, Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW (DALL-E paper, A.2)
GRID_TITLE = "originals above, reconstructions under them"  # in TensorBoard


class Trainer:
    """What `training.loop` asks of a trainer, for a dVAE."""

    best_metric = "val_nats_per_dim"

    def __init__(self, run: Run, group: Group, train: Split, validation: Split) -> None:
        check_batch_size(run, group)
        self._run, self._group, self._train, self._validation = run, group, train, validation
        torch.manual_seed(run.training.seed)
        self.model = DVAE(run.dvae).to(memory_format=torch.channels_last).to(group.device)
        set_precision(self.model, DTYPES[run.compute.precision])
        if run.compute.recompute:
            self.model.recompute()
        if run.compute.compile:
            self.model.compile()
        self._blocks = self.model.blocks()
        self._parallel = parallelize(self.model, self._blocks, group, run.compute.parallel)
        settings = run.training
        self._optimizer = AveragedAdamW(
            self.model, settings.ema, settings.weight_decay, BETAS, EPS, blocks=self._blocks
        )
        self._scale, self._spikes = LossScale(run.compute.precision == "fp16"), SpikeDetector(run.loop.spike)
        self._counts = torch.zeros(run.dvae.vocabulary, dtype=torch.int64, device=group.device)
        self.step, self._data_state = 0, State(run.training.seed)

    @contextmanager
    def batches(self) -> Iterator[Iterator[Batch]]:
        """This process's part of each batch that follows, without end."""
        run, group = self._run, self._group
        loader = Loader(
            self._train,
            run.dvae.image_size,
            run.training.seed,
            run.training.batch_size,
            group.rank,
            group.size,
            self._data_state,
            run.loop.workers,
            processes=run.loop.loaders,
        )
        try:
            yield iter(loader)
        finally:
            loader.close()

    def update(self, batch: Batch) -> Values:
        """One step of AdamW on the mean loss of all processes' pictures; returns its metrics.

        Raises Diverged where loss or gradients are not finite, or the loss spikes; the weights are then unchanged.
        """
        now = rates(self.step, self._run.training)
        means = self._backward(batch, now.temperature, now.beta)
        gradients = self._optimizer.gradients
        self._scale.unscale(local(gradients))
        *terms, norm = torch.cat([means, total_norm(gradients).view(1)]).tolist()  # the one wait for the device
        self._spikes.check(self.step, terms[0])
        if self._scale.step(isfinite(norm)):
            self._optimizer.step(now.learning_rate)
        elif self._scale.exhausted:
            raise Diverged(f"the gradient of update {self.step + 1} is {norm}")
        self.step, self._data_state = self.step + 1, batch.state
        scale = {"loss_scale": self._scale.value} if self._scale.dynamic else {}
        return {**dict(zip(("loss", "nll", "kl"), terms, strict=True)), **now._asdict(), "gradient_norm": norm, **scale}

    def interval_metrics(self, reset: bool) -> Values:
        """Codes in use since the last reset and their perplexity, over all processes; where the next batch begins."""
        counts = self._group.total(self._counts.clone())
        if reset:
            self._counts.zero_()
        usage = {"codes_used": metrics.in_use(counts), "perplexity": metrics.perplexity(counts)}
        return {**usage, "epoch": self._data_state.epoch, "index": self._data_state.index}

    def evaluate(self) -> Evaluated:
        """Evaluates the averaged weights on the validation split; writes pictures and code counts below the run."""
        run, temperature = self._run, rates(self.step, self._run.training).temperature
        batch_size = max(1, run.training.batch_size // self._group.size // run.compute.accumulate)
        with self._optimizer.averaged():
            found = evaluation.evaluate(
                self.model,
                self._validation,
                run.loop.validation_samples,
                batch_size,
                temperature,
                self._group,
                run.loop.workers,
            )
            codes = evaluation.code_pictures(self.model, self._group.device)
        if self._group.rank:
            return Evaluated(found.values, {})
        grid = grids.pair_grid(found.originals, found.reconstructions)
        folder = storage.join(run.output, evaluation_name(self.step))
        write_evaluation(folder, grid, evaluation.code_grid(codes), found.counts)
        return Evaluated(found.values, {GRID_TITLE: grid})

    def tensors(self) -> Tensors:
        """Weights, their moving average, and AdamW's state; the same memory."""
        return self._optimizer.tensors()

    def state(self) -> Json:
        """Step, place in the data, loss scale, mean loss, and the counts of codes since the last reset."""
        return {
            "step": self.step,
            "data": asdict(self._data_state),
            "scale": self._scale.state(),
            "mean_loss": self._spikes.mean,
            "counts": self._group.total(self._counts.clone()).cpu(),
        }

    def restore(self, state: Json, tensors: Tensors) -> None:
        """Continues from a checkpoint, on any number of processes."""
        self._optimizer.restore(tensors)
        self.step, self._data_state = state["step"], State(**state["data"])
        self._spikes.mean = state["mean_loss"]
        self._scale.restore(state["scale"])
        if self._group.rank == 0:  # the counts of all processes
            self._counts.copy_(state["counts"])

    def _backward(self, batch: Batch, temperature: float, beta: float) -> Tensor:
        """Gradients of the batch, part by part; loss, nll and kl, means over all processes' pictures: float32 (3,)."""
        parts, device = self._run.compute.accumulate, self._group.device
        scalars = [torch.full((), value, device=device) for value in (temperature, beta)]
        total, size = torch.zeros(3, device=device), len(batch.keys) // parts
        shape = (self._run.dvae.grid, self._run.dvae.grid, self._run.dvae.vocabulary)
        self._optimizer.zero_grad()
        for number in range(parts):
            part = slice(number * size, (number + 1) * size)
            samples = (self._run.training.seed, batch.epochs[part], batch.keys[part])
            noise = exponential("gumbel", *samples, shape, device)
            with gradient_sync(self._parallel, self._blocks, last=number == parts - 1):
                terms = self._parallel(batch.pixels[part].to(device, non_blocking=True), noise, *scalars)
                self._scale.scale(terms.loss / parts).backward()  # type: ignore[no-untyped-call]
            total += torch.stack((terms.loss, terms.nll, terms.kl)).detach() / parts
            self._counts += metrics.count_codes(terms.codes, len(self._counts))
        return self._group.total(total) / self._group.size


def check_batch_size(run: Run, group: Group) -> None:
    """Raises UserError where a batch cannot be split into equal parts."""
    parts = group.size * run.compute.accumulate
    if run.training.batch_size % parts:
        factors = f"{group.size} processes times --accumulate {run.compute.accumulate}"
        raise UserError(f"--batch_size is {run.training.batch_size}: give a multiple of {parts}, {factors}")


def write_evaluation(folder: str, grid: Pixels, codes: Pixels, counts: Tensor) -> None:
    """The files of an evaluation that `gesso report` shows."""
    for name, pixels in ((GRID, grid), (CODES, codes)):
        with storage.write_whole(storage.join(folder, name)) as stream:
            stream.write(grids.png(pixels))
    storage.write_json(storage.join(folder, USAGE), {"counts": counts.tolist()})
