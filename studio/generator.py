"""The models behind the studio's words: arrays in, arrays out. torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gesso.devices import check_device
from gesso.errors import UserError
from gesso.generation import sampler
from gesso.generation.generate import DIGITS, check_pretrained, ranker_of, recommended
from gesso.generation.models import Models, open_models
from gesso.generation.settings import ComputeSettings, Sampling
from gesso.images import Pixels
from gesso.studio.runs import Codes, Json, OnRow
from gesso.training.encoding import device_of

if TYPE_CHECKING:
    from gesso.generation.ranker import Ranker

FLAGS = ("prior", "dvae", "tokenizer", "ranker", "pretrained")


class ModelGenerator:
    """A prior with its dVAE, and perhaps a ranker; `sampling` is what it is best sampled by. One thread at a time."""

    def __init__(self, models: Models, ranker: "Ranker | None", sampling: Json) -> None:
        self._models, self._ranker, self.sampling = models, ranker, sampling
        self.grid, self.side = models.grid, models.dvae.config.image_size
        self.together = sampler.ROWS[models.device.type]
        self.ranker = ranker.name if ranker else ""
        self.identity: Json = {**models.identity, "ranker": ranker.identity if ranker else None}

    def check(self, caption: str) -> None:
        if sampler.is_cut(self._models, caption):
            most = self._models.prior.config.text_positions - 1
            raise UserError(f"the caption has more than the {most} tokens that the model reads: shorten it")

    def draw(
        self, caption: str, seeds: Sequence[int], sampling: Sampling, prefix: Codes | None, on_row: OnRow
    ) -> Codes:
        def tell(row: int, codes: Tensor) -> None:
            on_row(row, codes.numpy())

        given = None if prefix is None else torch.from_numpy(np.ascontiguousarray(prefix))
        return sampler.draw(self._models, caption, seeds, sampling, prefix=given, on_row=tell).numpy()

    def decode(self, codes: Codes) -> Pixels:
        return sampler.decode_pictures(self._models, torch.from_numpy(np.ascontiguousarray(codes)))

    def encode(self, pixels: Pixels) -> Codes:
        return sampler.encode_picture(self._models, pixels).numpy()

    def score(self, caption: str, pictures: Pixels) -> list[float]:
        assert self._ranker is not None
        return [round(score, DIGITS) for score in self._ranker.scores(caption, pictures).tolist()]


def open_generator(flags: Mapping[str, Any], settings: ComputeSettings) -> ModelGenerator:
    """Opens what the flags of `gesso studio` name. Raises UserError where something is missing or does not fit."""
    prior, dvae, tokenizer, ranker, pretrained = (flags.get(name, "") for name in FLAGS)
    check_pretrained(ranker, pretrained)
    check_device(settings.device)
    models = open_models(prior, dvae, device_of(settings.device), settings.precision, tokenizer)
    return ModelGenerator(models, ranker_of(models, ranker, pretrained), recommended(prior))
