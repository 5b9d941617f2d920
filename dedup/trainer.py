"""A detector's training: pairs in an order that the seed decides, updates, checkpoints, metrics. No Beam."""

import signal
from collections.abc import Iterator
from math import cos, isfinite, pi
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from gesso import storage
from gesso.dedup import augment, detector, pictures
from gesso.dedup.contrast import info_nce
from gesso.dedup.pictures import Location
from gesso.dedup.settings import Run, TrainSettings
from gesso.errors import Rejected, UserError
from gesso.flags import differences
from gesso.images import Pixels
from gesso.processes import Group, keep_memory

CHECKPOINT = "checkpoint.pt"
MARGIN = 3  # halves of the model's side: how large pictures are when they are altered
LARGEST_GRADIENT = 1.0  # norm of all gradients together


class Pair(NamedTuple):
    """A picture and its altered copy, uint8 (3, S, S), which picture it is, and how many before it were unreadable."""

    plain: Tensor
    altered: Tensor
    picture: int
    rejected: int


class Pairs(Dataset[Pair]):
    """The pair of each position of an endless stream: epoch after epoch, each in a permutation of its own."""

    def __init__(self, locations: list[Location], side: int, seed: int) -> None:
        self._locations, self._side, self._seed = locations, side, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, position: int) -> Pair:
        epoch, index = divmod(position, len(self._locations))
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                np.random.default_rng((self._seed, epoch)).permutation(len(self._locations)),
            )
        picture = int(self._order[index])
        for rejected in range(len(self._locations)):
            try:
                pixels = pictures.decode(self._locations[picture], MARGIN * self._side // 2)
            except Rejected:
                picture = (picture + 1) % len(self._locations)
                continue
            random = np.random.default_rng((self._seed, 1, position))
            plain = augment.plain(pixels, self._side, random)
            return Pair(planes(plain), planes(augment.transformed(pixels, self._side, random)), picture, rejected)
        raise UserError("no picture of --data can be decoded")


def init_worker(_: int) -> None:
    """One thread; SIGTERM and Ctrl-C to the whole group are the trainer's, which still needs its batch."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)


def planes(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class Metrics(NamedTuple):
    """An update's measurements."""

    loss: float  # nats, mean over the processes
    accuracy: float  # share of pictures whose own copy is the nearest
    step_size: float
    gradient_norm: float  # before it is clipped
    rejected: int  # pictures that could not be read


class Trainer:
    """One process of a training. `update` takes a batch, `save` writes the state, `finish` the detector."""

    def __init__(self, run: Run, group: Group) -> None:
        if run.training.batch_size % group.size:
            raise UserError(f"--batch_size is {run.training.batch_size}: give a multiple of the {group.size} processes")
        self._run, self._group, self.step = run, group, 0
        if group.device.type == "cpu":
            keep_memory()
        self._locations = pictures.find(run.data)
        content = pictures.content_sha256(run.data, self._locations)
        self._settings = {**run.record(), "data": {"path": list(run.data), "sha256": content}}
        torch.manual_seed(run.training.seed)
        self.model = detector.build(run.detector)
        if run.init:
            detector.initialise(self.model, run.detector, run.init)
        self.model.to(group.device)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=run.training.weight_decay)
        self._restore()
        self._parallel = nn.parallel.DistributedDataParallel(self.model) if group.size > 1 else self.model
        self._board = SummaryWriter(run.output, purge_step=self.step) if group.rank == 0 else None

    @property
    def checkpoint(self) -> str:
        return storage.join(self._run.output, CHECKPOINT)

    def batches(self) -> Iterator[Pair]:
        """What remains of the stream: this process's share of each batch, the fields stacked."""
        training, share = self._run.training, self._run.training.batch_size // self._group.size
        starts = [step * training.batch_size + self._group.rank * share for step in range(self.step, training.steps)]
        pairs = Pairs(self._locations, self._run.detector.image_size, training.seed)
        positions = [list(range(start, start + share)) for start in starts]
        yield from DataLoader(
            pairs,
            batch_sampler=positions,
            num_workers=self._run.workers,
            worker_init_fn=init_worker,
            multiprocessing_context="spawn" if self._run.workers else None,  # a fork can hang on OpenCV's threads
        )

    def update(self, batch: Pair) -> Metrics:
        """One step of AdamW on the mean loss of all processes' pairs. Raises UserError where it is not finite."""
        self._parallel.train()
        pictures = torch.cat((batch.plain, batch.altered)).to(self._group.device).float() / 255
        plain, altered = self._parallel(pictures.contiguous(memory_format=torch.channels_last)).chunk(2)
        contrast = info_nce(plain, altered, torch.as_tensor(batch.picture, device=self._group.device))
        means = self._mean(torch.stack((contrast.loss.detach(), contrast.accuracy)))
        self._check("loss", means[0])
        self._optimizer.zero_grad()
        contrast.loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT))
        self._check("gradient", norm)
        rate = step_size(self.step, self._run.training)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        self._optimizer.step()
        self.step += 1
        return Metrics(means[0], means[1], rate, norm, int(torch.as_tensor(batch.rejected).sum()))

    def save(self) -> None:
        """The whole state under one name; what stands there is replaced at once or not at all."""
        if self._group.rank:
            return
        state = {
            "settings": self._settings,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        with storage.write_whole(self.checkpoint) as stream:
            torch.save(state, stream)

    def finish(self) -> None:
        """Writes the detector that `gesso embed --model` takes."""
        if self._group.rank == 0:
            detector.save(self.model, self._run.detector, storage.join(self._run.output, detector.WEIGHTS))

    def log(self, metrics: Metrics, rate: float) -> None:
        """Writes metrics and pairs a second to TensorBoard."""
        if self._board:
            for name, value in {**metrics._asdict(), "pairs_per_second": rate * self._run.training.batch_size}.items():
                self._board.add_scalar(name, value, self.step)

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _mean(self, values: Tensor) -> list[float]:
        return [float(value) for value in self._group.total(values) / self._group.size]

    def _check(self, what: str, value: float) -> None:
        """Raises UserError where it is no finite number; the weights are still those of the update before."""
        if not isfinite(value):
            raise UserError(f"the {what} of update {self.step + 1} is {value}: lower --learning_rate; {self._saved()}")

    def _saved(self) -> str:
        there = storage.exists(self.checkpoint)
        return f"the last checkpoint is {self.checkpoint}" if there else "there is no checkpoint yet"

    def _restore(self) -> None:
        """Goes on from the checkpoint, if there is one. Raises UserError where it is of other settings."""
        if not storage.exists(self.checkpoint):
            return
        with storage.open_input(self.checkpoint) as stream:
            state = torch.load(stream, map_location=self._group.device, weights_only=True)
        by_path = isinstance(state["settings"]["data"], list)  # of an earlier version
        changed = differences(state["settings"], self._run.record() if by_path else self._settings)
        if changed:
            raise UserError(f"{self._run.output} was begun with other settings: {'; '.join(changed)}")
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def step_size(step: int, settings: TrainSettings) -> float:
    """A linear rise, then half a cosine down to 0."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    return (
        settings.learning_rate * (1 + cos(pi * (step - settings.warmup) / max(1, settings.steps - settings.warmup))) / 2
    )
