"""The training of a contrastive model, one process's part: batches, updates, evaluations, state. The loop is loop.py.

pairs ─ CLIP ─ embeddings of all processes ─ loss ─ backward ─ AdamW ─ moving average of the weights
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from gesso.errors import UserError
from gesso.processes import Group
from gesso.training.averaged_adamw import AveragedAdamW
from gesso.training.checkpoint import Tensors
from gesso.training.contrastive import evaluation
from gesso.training.contrastive.model import MOST_SCALE, build, build_loss, standardise
from gesso.training.contrastive.pairs import Batch, Pairs
from gesso.training.contrastive.schedule import learning_rate
from gesso.training.contrastive.settings import Run
from gesso.training.data.order import State
from gesso.training.distributed.parallel import parallelize, total_norm
from gesso.training.loop import Evaluated, Values
from gesso.training.spikes import Diverged, SpikeDetector

Json = dict[str, Any]

BETAS, EPS = (0.9, 0.98), 1e-6  # of AdamW (CLIP paper, table 20)


class Trainer:
    """What `training.loop` asks of a trainer, for a contrastive model."""

    best_metric = "val_loss"

    def __init__(self, run: Run, group: Group, pairs: Pairs) -> None:
        check_batch_size(run, group)
        self._run, self._group, self._pairs = run, group, pairs
        torch.manual_seed(run.training.seed)
        self.model = build(run.model).to(memory_format=torch.channels_last).to(group.device)
        self.model.set_grad_checkpointing(run.compute.recompute)
        self._parallel = parallelize(self.model, {}, group, "ddp")
        self._loss = build_loss(group.rank, group.size)
        settings = run.training
        self._optimizer = AveragedAdamW(self.model, settings.ema, settings.weight_decay, BETAS, EPS, is_matrix)
        self._spikes = SpikeDetector(run.loop.spike)
        self.step, self._data_state, self._truncated = 0, State(settings.seed), 0

    @contextmanager
    def batches(self) -> Iterator[Iterator[Batch]]:
        """This process's part of each batch that follows, without end."""
        stream = self._pairs.stream(self._data_state)
        try:
            yield iter(stream)
        finally:
            stream.close()

    def update(self, batch: Batch) -> Values:
        """One step of AdamW on the loss of all processes' pairs; returns its metrics.

        Raises Diverged where loss or gradients are not finite, or the loss spikes; the weights are then unchanged.
        """
        rate = learning_rate(self.step, self._run.training)
        loss = self._backward(batch)
        self._spikes.check(self.step, loss)
        norm = float(total_norm(self._optimizer.gradients))
        if not isfinite(norm):
            raise Diverged(f"the gradient of update {self.step + 1} is {norm}")
        self._optimizer.step(rate)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MOST_SCALE)
        self.step, self._data_state = self.step + 1, batch.state
        self._truncated += batch.truncated
        return {"loss": loss, "learning_rate": rate, "gradient_norm": norm}

    def interval_metrics(self, reset: bool) -> Values:
        """The temperature, captions cut since the run began, and where the next batch begins."""
        temperature = float(torch.exp(-self.model.logit_scale.detach()))
        place = {"epoch": self._data_state.epoch, "index": self._data_state.index}
        return {"temperature": temperature, "captions_cut": self._truncated_in_all(), **place}

    def evaluate(self) -> Evaluated:
        """Evaluates the averaged weights on the validation split."""
        with self._optimizer.averaged(), self._autocast():
            found = evaluation.embed(self.model, self._pairs.validation(), self._group)
            scale = self.model.logit_scale.detach().exp()
        return Evaluated(evaluation.measure(found, scale, self._run.training.batch_size), {})

    def tensors(self) -> Tensors:
        return self._optimizer.tensors()

    def state(self) -> Json:
        """Step, place in the data, mean loss, captions cut."""
        return {
            "step": self.step,
            "data": asdict(self._data_state),
            "mean_loss": self._spikes.mean,
            "truncated": self._truncated_in_all(),
        }

    def restore(self, state: Json, tensors: Tensors) -> None:
        """Continues from a checkpoint, on any number of processes."""
        self._optimizer.restore(tensors)
        self.step, self._data_state = state["step"], State(**state["data"])
        self._spikes.mean = state["mean_loss"]
        self._truncated = 0 if self._group.rank else state["truncated"]

    def _backward(self, batch: Batch) -> float:
        """Gradients of the batch; the mean loss over all processes' pairs."""
        text, pixels, same = (each.to(self._group.device, non_blocking=True) for each in batch[:3])
        self._optimizer.zero_grad()
        with self._autocast():
            pictures, captions, scale = self._parallel(standardise(pixels), text)
        loss = self._loss(pictures.float(), captions.float(), scale, same)
        loss.backward()
        return float(self._group.total(loss.detach().clone())) / self._group.size

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._group.device.type, torch.bfloat16, self._run.compute.precision == "bf16")

    def _truncated_in_all(self) -> int:
        """Captions that were cut, in all processes."""
        return int(self._group.total(torch.tensor(self._truncated, device=self._group.device)))


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter decays: gains, biases and the temperature do not."""
    return parameter.dim() > 1


def check_batch_size(run: Run, group: Group) -> None:
    """Raises UserError where a batch cannot be split into equal parts."""
    if run.training.batch_size % group.size:
        raise UserError(
            f"--batch_size is {run.training.batch_size}: give a multiple of {group.size}, the number of processes"
        )
