"""A dVAE's training: updates, evaluations, figures, checkpoints. One process's part; the loop is in learn.py.

batch ─ DVAE ─ loss ─ × scale ─ backward ─ ÷ scale ─ finite? ─ AdamW ─ average of weights
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
from gesso.processes import Group
from gesso.training import checkpoint
from gesso.training.checkpoint import Best, Checkpoints, Tensors
from gesso.training.data.loader import Batch, Loader
from gesso.training.data.order import State
from gesso.training.data.split import Split
from gesso.training.distributed.parallel import gathered_again, gathering, local, norm, spread
from gesso.training.dvae import evaluation, metrics, record
from gesso.training.dvae.layers import set_precision
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.noise import exponential
from gesso.training.dvae.schedules import rates
from gesso.training.dvae.settings import Run
from gesso.training.layout import CODES, GRID, USAGE, evaluation_name
from gesso.training.precision.loss_scale import LossScale

Json = dict[str, Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW (paper section 2)
AVERAGE_KEEPS = 0.98  # of the loss that a spike is measured against: about 50 updates
CALM = 50  # updates before which no spike is looked for


class Trainer:
    """`update` takes a batch, `evaluate` looks at the validation split, `save` writes a checkpoint."""

    def __init__(self, run: Run, group: Group, train: Split, validation: Split) -> None:
        check_batch(run, group)
        self._run, self._group, self._train, self._validation = run, group, train, validation
        torch.manual_seed(run.learn.seed)
        self.model = DVAE(run.dvae).to(memory_format=torch.channels_last).to(group.device)
        set_precision(self.model, DTYPES[run.loop.precision])
        if run.loop.recompute:
            self.model.recompute()
        if run.loop.compile:
            self.model.compile()
        self._parallel = spread(self.model, self.model.blocks(), group, run.loop.parallel)
        self._parameters = dict(self.model.named_parameters())
        self._optimizer = begin_optimizer(list(self._parameters.values()), run.learn.weight_decay)
        self._average = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._scale = LossScale(run.loop.precision == "fp16")
        self._checkpoints = Checkpoints(run.output, group, run.loop.checkpoint, run.loop.keep)
        self._counts = torch.zeros(run.dvae.vocabulary, dtype=torch.int64, device=group.device)
        self.step, self.state, self._mean_loss = 0, State(run.learn.seed), 0.0
        self._best: Best = {"step": 0, "val_nats_per_dim": float("inf")}
        self._restore()

    @contextmanager
    def batches(self) -> Iterator[Iterator[Batch]]:
        """What follows in the stream, endless: this process's part of each batch."""
        run, group = self._run, self._group
        loader = Loader(
            self._train,
            run.dvae.image_size,
            run.learn.seed,
            run.learn.batch_size,
            group.rank,
            group.size,
            self.state,
            run.loop.workers,
        )
        try:
            yield iter(loader)
        finally:
            loader.close()

    def update(self, batch: Batch) -> dict[str, float]:
        """One step of AdamW on the mean loss of all processes' pictures; its figures.

        Raises UserError where loss or gradients are not finite, or the loss spikes; weights and checkpoints are then
        those of before.
        """
        now = rates(self.step, self._run.learn)
        terms = self._backward(batch, now.temperature, now.beta)
        self._check_loss(terms[0])
        gradients = [value.grad for value in self._parameters.values() if value.grad is not None]
        self._scale.unscale(local(gradients))
        length = norm(gradients)
        if self._scale.step(isfinite(length)):
            self._step(now.learning_rate)
        elif self._scale.exhausted:
            raise self._stop(f"the gradient of update {self.step + 1} is {length}")
        self.step, self.state = self.step + 1, batch.state
        figures = dict(zip(("loss", "nll", "kl"), terms, strict=True))
        return {**figures, **now._asdict(), "gradient_norm": length, **self._scale_figure()}

    def place(self) -> dict[str, float]:
        """Where in the stream the next batch begins."""
        return {"epoch": self.state.epoch, "index": self.state.index}

    def usage(self, keep: bool) -> dict[str, float]:
        """Codes in use since this was asked last, and their perplexity, over all processes; `keep` asks on the side."""
        counts = self._group.total(self._counts.clone())
        if not keep:
            self._counts.zero_()
        return {"codes_used": metrics.in_use(counts), "perplexity": metrics.perplexity(counts)}

    def evaluate(self) -> evaluation.Evaluation:
        """The averaged weights on the validation split; the pictures and figures are written below the run."""
        run, now = self._run, rates(self.step, self._run.learn)
        each = max(1, run.learn.batch_size // self._group.size // run.loop.accumulate)
        with self._averaged():
            found = evaluation.evaluate(
                self.model,
                self._validation,
                run.loop.validation_samples,
                each,
                now.temperature,
                self._group,
                run.loop.workers,
            )
            codes = evaluation.code_pictures(self.model, self._group.device)
        if self._group.rank == 0:
            write_evaluation(storage.join(run.output, evaluation_name(self.step)), found, codes)
        return found

    def save(self) -> None:
        """Begins to write a checkpoint. Raises UserError where the one before could not be written."""
        numbers = {
            "step": self.step,
            "data": asdict(self.state),
            "scale": self._scale.state(),
            "mean_loss": self._mean_loss,
            "best": self._best,
            "counts": self._group.total(self._counts.clone()).cpu(),
            "settings": self._run.record(),
        }
        self._checkpoints.save(self.step, self._tensors(), numbers, self._best)

    def improves(self, nats_per_dim: float | None) -> bool:
        """Whether an evaluation, if there was one, is the best so far, and with it the next checkpoint."""
        if nats_per_dim is None or not nats_per_dim < self._best["val_nats_per_dim"]:
            return False
        self._best = {"step": self.step, "val_nats_per_dim": nats_per_dim}
        return True

    def check_saving(self) -> None:
        """Raises UserError as soon as it is known that a checkpoint cannot be written."""
        self._checkpoints.check()

    def close(self) -> None:
        """Waits for the checkpoint under way. Raises UserError where it could not be written."""
        try:
            self._checkpoints.wait()
        finally:
            self._checkpoints.close()

    def _backward(self, batch: Batch, temperature: float, beta: float) -> list[float]:
        """Gradients of the batch, part by part; loss, nll and kl of all processes' pictures."""
        parts, device = self._run.loop.accumulate, self._group.device
        scalars = [torch.tensor(value, device=device) for value in (temperature, beta)]
        total, each = torch.zeros(3, device=device), len(batch.keys) // parts
        grid = self._run.dvae.grid
        self._optimizer.zero_grad()
        for number in range(parts):
            part = slice(number * each, (number + 1) * each)
            shape = (grid, grid, self._run.dvae.vocabulary)
            which = (self._run.learn.seed, batch.epochs[part], batch.keys[part])
            noise = exponential("gumbel", *which, shape, device)
            with gathering(self._parallel, last=number == parts - 1):
                terms = self._parallel(batch.pixels[part].to(device), noise, *scalars)
                self._scale.scale(terms.loss / parts).backward()  # type: ignore[no-untyped-call]
            total += torch.stack((terms.loss, terms.nll, terms.kl)).detach() / parts
            self._counts += metrics.count_codes(terms.codes, len(self._counts))
        return (self._group.total(total) / self._group.size).tolist()

    @torch.no_grad()
    def _step(self, learning_rate: float) -> None:
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate
        self._optimizer.step()
        share = 1 - self._run.learn.ema
        torch._foreach_lerp_(local(self._average.values()), local(self._parameters.values()), share)

    def _check_loss(self, loss: float) -> None:
        if not isfinite(loss):
            raise self._stop(f"the loss of update {self.step + 1} is {loss}")
        if self.step > CALM and loss > self._mean_loss + self._run.loop.spike:
            jumped = f"jumped from {self._mean_loss:.3f} to {loss:.3f}"
            raise self._stop(f"the loss of update {self.step + 1} {jumped}", "a larger --spike lets it pass, or ")
        keeps = AVERAGE_KEEPS if self.step else 0.0
        self._mean_loss = keeps * self._mean_loss + (1 - keeps) * loss

    def _stop(self, why: str, way: str = "") -> BaseException:
        """What ends the run, the same in every process, told by the first."""
        self._checkpoints.wait()
        if self._group.rank:
            return SystemExit(2)
        begin = "begin another --output with a lower --learning_rate"
        return UserError(f"{why}: {self._checkpoints.last_good()}; {way}{begin}")

    def _scale_figure(self) -> dict[str, float]:
        return {"loss_scale": self._scale.value} if self._scale.dynamic else {}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights."""
        weights, average = local(self._parameters.values()), local(self._average.values())
        kept = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, average)
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()
            gathered_again(self.model)
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)

    def _tensors(self) -> Tensors:
        moments = {name: self._optimizer.state[value] for name, value in self._parameters.items()}
        return {
            "model": {name: value.detach() for name, value in self._parameters.items()},
            "average": self._average,
            **{kind: {name: state[kind] for name, state in moments.items()} for kind in ("exp_avg", "exp_avg_sq")},
            "steps": {"adam": next(iter(moments.values()))["step"]},
        }

    def _restore(self) -> None:
        """Goes on from the last checkpoint, if there is one. Raises UserError where it is of other settings.

        A run that was killed between a checkpoint and the note that it is the best gets the note now.
        """
        path = self._checkpoints.latest()
        if path is None:
            return
        tensors = self._tensors()
        numbers = checkpoint.load(path, tensors)
        record.check_settings(self._run, numbers["settings"])
        for state in self._optimizer.state.values():
            state["step"].copy_(tensors["steps"]["adam"])
        self.step, self.state = numbers["step"], State(**numbers["data"])
        self._mean_loss, self._best = numbers["mean_loss"], numbers["best"]
        self._scale.restore(numbers["scale"])
        self._checkpoints.note_best(self._best)
        if self._group.rank == 0:
            self._counts.copy_(numbers["counts"])


def begin_optimizer(parameters: list[Tensor], weight_decay: float) -> torch.optim.AdamW:
    """AdamW whose moments are there from the beginning, so that a checkpoint always holds the same tensors."""
    optimizer = torch.optim.AdamW(parameters, betas=BETAS, eps=EPS, weight_decay=weight_decay, fused=True)
    for value in parameters:
        moments = {kind: torch.zeros_like(value) for kind in ("exp_avg", "exp_avg_sq")}
        optimizer.state[value] = {"step": torch.zeros((), device=value.device), **moments}
    return optimizer


def check_batch(run: Run, group: Group) -> None:
    """Raises UserError where a batch does not fall into equal parts."""
    parts = group.size * run.loop.accumulate
    if run.learn.batch_size % parts:
        told = f"{group.size} processes times --accumulate {run.loop.accumulate}"
        raise UserError(f"--batch_size is {run.learn.batch_size}: give a multiple of {parts}, {told}")


def write_evaluation(folder: str, found: evaluation.Evaluation, codes: Tensor) -> None:
    """The pictures and the usage of an evaluation, for `gesso report`."""
    pictures = {
        GRID: evaluation.pairs(found.originals, found.reconstructions),
        CODES: evaluation.square(codes),
    }
    for name, pixels in pictures.items():
        with storage.write_whole(storage.join(folder, name)) as stream:
            stream.write(evaluation.png(pixels))
    storage.write_json(storage.join(folder, USAGE), {"counts": found.counts.tolist()})
