"""Rankers: how well pictures fit a caption, by a contrastive model of ours or of open_clip. torch.

    caption  ─ tokens, too many are cut ─▶ (n, T) ────────── caption tower ─▶ (n, D), norm 1 ─┐
    pictures ─ resize and crop ─▶ (n, S, S, 3) uint8 ─────── picture tower ─▶ (n, D), norm 1 ─┴─▶ cosine similarities

n captions or pictures, T positions of the model's text, S side of its pictures, D dimension of its embeddings.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor
from torch.nn.functional import normalize

from gesso import storage
from gesso.dedup.model_names import open_clip_names
from gesso.dedup.models import (
    DTYPES,
    LOAD_ERRORS,
    logging_disabled,
    make_encode,
    make_prepare,
    open_clip_model,
    weights_sha256,
)
from gesso.errors import UserError
from gesso.images import Pixels
from gesso.training.contrastive.captions import Captions, write_all
from gesso.training.contrastive.weights import is_contrastive, open_contrastive

Json = dict[str, Any]
Texts = tuple[Tensor, Sequence[bool]]  # ids (n, T), and which captions were cut
Tokenize = Callable[[Sequence[str]], Texts]

TOGETHER = 128  # captions or pictures of a forward pass
SHOWN = 60  # characters of a caption in a message


class Towers(NamedTuple):
    """A contrastive model: open_clip's CLIP, or another of its classes."""

    model: Any
    tokenize: Tokenize
    preprocess: Json  # open_clip's PreprocessCfg
    name: str
    pretrained: str | None


class Ranker:
    """Scores of captions and pictures by one model on one device. `identity` tells its weights by their content."""

    def __init__(self, towers: Towers, device: torch.device, precision: str) -> None:
        self.name, self.device = towers.name, device
        self._tokenize, self._prepare = towers.tokenize, make_prepare(towers.preprocess)
        self._size = side_of(towers.preprocess["size"])
        sha256 = weights_sha256(towers.model)
        self._model = towers.model.to(device)
        self._encode = make_encode(self._model, towers.preprocess["mean"], towers.preprocess["std"])
        self._precision = precision
        self.identity: Json = {
            "name": towers.name,
            "pretrained": towers.pretrained,
            "sha256": sha256,
            "image_size": self._size,
            "dimension": self.embed_captions([""]).shape[1],
        }

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """(n, D) float32 on the device, rows of norm 1.

        Of a caption that has more tokens than the model reads, the first are taken, and a line on stderr says so.
        """
        found = []
        for part in parts(captions):
            text, cut = self._tokenize(part)
            for caption in (caption for caption, is_cut in zip(part, cut, strict=True) if is_cut):
                told = f"ranking by its beginning, since {self.name} reads {text.shape[1] - 2} tokens at most"
                print(f"{told}: {caption[:SHOWN]!r}", file=sys.stderr, flush=True)
            with self._autocast():
                found.append(self._model.encode_text(text.to(self.device)))
        return normalize(torch.cat(found).float(), dim=1)

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Pixels] | Pixels) -> Tensor:
        """(n, D) float32 on the device, rows of norm 1.

        `pictures`: uint8 (n, H, W, 3), or each (H, W, 3) of its own size. Those that have not the model's size are
        resized with antialiasing and cropped as open_clip does it for this model.
        """
        found = []
        for part in parts(pictures):
            pixels = torch.from_numpy(np.stack([self._fitted(each) for each in part])).to(self.device)
            with self._autocast():
                found.append(self._encode(pixels.permute(0, 3, 1, 2).float().div(255)))
        return normalize(torch.cat(found).float(), dim=1)

    def scores(self, caption: str, pictures: Sequence[Pixels] | Pixels) -> Tensor:
        """Cosine similarities of a caption and each of the pictures, (n,) float32 on the device."""
        return self.embed_pictures(pictures) @ self.embed_captions([caption])[0]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, DTYPES[self._precision], enabled=self._precision != "fp32")

    def _fitted(self, pixels: Pixels) -> Pixels:
        return pixels if pixels.shape[:2] == (self._size, self._size) else self._prepare(pixels)


def parts(items: Sequence[Any] | Pixels) -> Iterator[Any]:
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]


def side_of(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else max(size)


def open_ranker(name: str, pretrained: str, device: torch.device, precision: str = "fp32") -> Ranker:
    """A ranker, for evaluation. `precision`: fp32, bf16 or fp16.

    `name`: a run of `gesso train contrastive` (averaged weights of its best checkpoint), a bundle's folder or its
    ranker.safetensors; or a model of open_clip, with `pretrained` a tag, the path of a checkpoint, or `random`.

    Raises UserError: no such run or model, weights that do not fit, are damaged or cannot be downloaded.
    """
    name, pretrained = storage.plain(name), storage.plain(pretrained) if pretrained else ""
    known = open_clip_names()
    if is_contrastive(name) or (Path(name).exists() and name not in known):
        if pretrained:
            raise UserError(f"--pretrained {pretrained} is for open_clip's models: leave it out with the ranker {name}")
        return Ranker(our_towers(name), device, precision)
    if name not in known:
        close = ", ".join(get_close_matches(name, known, 3, 0))
        raise UserError(
            f"the ranker {name} is not a run of `gesso train contrastive`, a bundle or a model of open_clip: "
            f"similar names are {close}"
        )
    return Ranker(open_clip_towers(name, pretrained), device, precision)


def our_towers(path: str) -> Towers:
    opened = open_contrastive(path)
    config = opened.config
    captions = Captions(opened.tokenizer, config.texts, config.text_positions, None)

    def tokenize(texts: Sequence[str]) -> Texts:
        text, cut = write_all(captions, texts)
        return torch.from_numpy(text), cut

    return Towers(opened.model, tokenize, asdict(PreprocessCfg(size=config.image_size)), "contrastive", None)


def open_clip_towers(name: str, pretrained: str) -> Towers:
    import open_clip

    model = open_clip_model(name, pretrained)
    try:
        with logging_disabled():
            tokenizer = open_clip.get_tokenizer(name)
    except LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the tokenizer of {name} cannot be loaded ({reason}): give a model of another name") from error

    def tokenize(texts: Sequence[str]) -> Texts:
        length = model.context_length
        longer = tokenizer(["", *texts], context_length=length + 1)
        return tokenizer(list(texts)), (longer[1:, length] != longer[0, length]).tolist()

    tag = None if Path(pretrained).is_file() else pretrained
    return Towers(model, tokenize, model.visual.preprocess_cfg, name, tag)
