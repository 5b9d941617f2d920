"""What a prior is trained on, pairs of caption and codes: token shards, or an export and a frozen dVAE. torch.

tokens  ─ caption under BPE dropout, codes of one view ─▶ (b, T), (b, N)
export  ─ caption under BPE dropout, one view of the picture ─ dVAE, on the device ─▶ the same
"""

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, cast

import torch
from torch import Tensor

from gesso import storage
from gesso.dataset import identity, kinds
from gesso.dataset.layout import SPLITS
from gesso.errors import UserError
from gesso.processes import Group
from gesso.training.data.order import State
from gesso.training.data.pair_loader import PairBatch, PairLoader, sequential_pairs
from gesso.training.data.shards import Damaged, file_sha256
from gesso.training.data.split import Split, open_split
from gesso.training.data.token_loader import TokenBatch, TokenLoader, sequential_tokens
from gesso.training.data.token_split import TokenSplit, open_token_split
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.weights import open_dvae
from gesso.training.prior.evaluation import Pair
from gesso.training.prior.pictures import Captions, Painter
from gesso.training.prior.settings import Run, Tokens
from gesso.training.tokenizer.bpe import Tokenizer
from gesso.training.tokenizer.settings import POSITIONS, file_of

Json = dict[str, Any]
Batch = TokenBatch | PairBatch
Loader = TokenLoader | PairLoader

MOST_EVALUATED = 64  # pairs of a process in one forward pass of an evaluation


@dataclass(frozen=True)
class Source:
    """What a run is trained on: both splits, of tokens or of pictures, tokenizer and dVAE."""

    train: TokenSplit | Split
    validation: TokenSplit | Split
    tokens: Tokens
    tokenizer_sha256: str
    dvae: str  # the path; empty where there is none
    dvae_sha256: str  # of the weights that the codes are of

    def identity(self) -> Json:
        """Identifies the samples in a run's record."""
        return {"train": self.train.identity(), "validation": self.validation.identity()}

    def record(self) -> Json:
        """What decides the weights besides settings and samples."""
        return {"tokenizer_sha256": self.tokenizer_sha256, "dvae_sha256": self.dvae_sha256}


def open_source(run: Run) -> Source:
    """Raises UserError where data, tokenizer and dVAE are damaged or do not fit each other."""
    tokenizer = Tokenizer.open(run.tokenizer)
    sha256 = file_sha256(file_of(run.tokenizer))
    texts, damaged = tokenizer.size - POSITIONS, cast("Damaged", run.loop.damaged)
    recognised = kinds.recognise(run.data)
    if recognised and recognised.name == "export":
        tokens, weights = tokens_of(run, texts)
        pictures = [open_split(run.data, name, damaged) for name in SPLITS]
        return Source(pictures[0], pictures[1], tokens, sha256, run.dvae, weights)
    train, validation = (open_token_split(run.data, name, damaged) for name in SPLITS)
    tokens = Tokens(train.grid, train.vocabulary, texts)
    dvae = dvae_of(run, train.dvae)
    if run.sampling.samples and not dvae:
        told = f"no samples will be drawn: the dVAE of {run.data} is not where it was, give it by --dvae"
        print(told, file=sys.stderr, flush=True)
    return Source(train, validation, tokens, sha256, dvae, train.dvae["weights_sha256"])


def tokens_of(run: Run, texts: int) -> tuple[Tokens, str]:
    """What the codes of an export's pictures will be, and the checksum of the dVAE that makes them."""
    if not run.dvae:
        raise UserError(f"{run.data} is an export: give --dvae to encode its pictures, or what `gesso encode` wrote")
    dvae = open_dvae(run.dvae)
    return Tokens(dvae.config.grid, dvae.config.vocabulary, texts), dvae.identity()["weights_sha256"]


def dvae_of(run: Run, made_by: Json) -> str:
    """The path of the dVAE that made the tokens: the one given, or where the tokens say that it was, if it is there.

    Raises UserError where the one given is another.
    """
    path = run.dvae or identity.resolve(made_by.get("path", ""), run.data)
    if not path or not (run.dvae or storage.exists(path)):
        return ""
    try:
        found = open_dvae(path).identity()["weights_sha256"]
    except UserError:
        if run.dvae:
            raise
        return ""
    if found == made_by["weights_sha256"]:
        return path
    if not run.dvae:
        return ""  # it was trained on since
    raise UserError(
        f"--dvae {run.dvae} is not the one that encoded {run.data} (weights {found[:12]}…, there "
        f"{made_by['weights_sha256'][:12]}…): give that one, or encode again"
    )


def fitted(run: Run, source: Source) -> Run:
    """The run with its model's grid and vocabularies."""
    return replace(run, prior=replace(run.prior, tokens=source.tokens))


class Pairs:
    """One process's access to the pairs: batches for training, passes for evaluation, the captions to draw."""

    def __init__(self, run: Run, group: Group, source: Source) -> None:
        self._run, self._group, self._source = run, group, source
        self._tokenizer = Tokenizer.open(run.tokenizer)
        needed = source.dvae and (isinstance(source.train, Split) or (run.sampling.samples and group.rank == 0))
        self._dvae: DVAE | None = open_dvae(source.dvae, group.device) if needed else None

    def loader(self, state: State) -> Loader:
        """An endless stream of this process's parts of batches."""
        run, group, source = self._run, self._group, self._source
        length, seed, batch_size = run.prior.text_positions, run.training.seed, run.training.batch_size
        rest = (length, seed, batch_size, group.rank, group.size, state, run.loop.workers)
        if isinstance(source.train, Split):
            return PairLoader(source.train, self._image_size, self._tokenizer, *rest, processes=run.loop.loaders)
        return TokenLoader(source.train, self._tokenizer, *rest, processes=run.loop.loaders)

    def codes(self, batch: Batch) -> Tensor:
        """The batch's codes on the device, int64 (b, N)."""
        if isinstance(batch, TokenBatch):
            return batch.codes.to(self._group.device, non_blocking=True)
        assert self._dvae is not None
        return self._dvae.encode(batch.pixels.to(self._group.device, non_blocking=True)).flatten(1)

    def validation(self) -> Iterator[Pair]:
        """This process's share of the validation pairs, as many passes in every process; the last may have no pair."""
        run, group = self._run, self._group
        samples = min(run.loop.validation_samples, self._source.validation.samples)
        size = max(1, min(MOST_EVALUATED, run.training.batch_size // group.size // run.compute.accumulate))
        with closing(self._sequential(samples, group.rank, group.size, size)) as batches:
            for _ in range(ceil(ceil(samples / group.size) / size)):
                batch = next(batches, None)
                yield self._pair(batch) if batch else self._no_pair()

    def painter(self) -> Painter:
        """What draws the first captions of the validation split."""
        run = self._run
        count = run.sampling.samples if self._source.dvae else 0
        if not count:
            return Painter(run.output, None, None, run.training.seed)
        with closing(self._sequential(count, 0, 1, count)) as batches:
            first = next(batches)
        texts = [self._tokenizer.decode(row) for row in first.text.tolist()]
        captions = Captions(first.keys, texts, first.text, self.codes(first).cpu())
        return Painter(run.output, captions, self._dvae, run.training.seed)

    def _sequential(self, samples: int, rank: int, ranks: int, size: int) -> Generator[Batch, None, None]:
        run, split = self._run, self._source.validation
        share = (samples, rank, ranks, run.loop.workers, size)
        if isinstance(split, Split):
            return sequential_pairs(split, self._image_size, self._tokenizer, run.prior.text_positions, *share)
        return sequential_tokens(split, self._tokenizer, run.prior.text_positions, *share)

    @property
    def _image_size(self) -> int:
        assert self._dvae is not None
        return self._dvae.config.image_size

    def _pair(self, batch: Batch) -> Pair:
        return batch.text.to(self._group.device), self.codes(batch)

    def _no_pair(self) -> Pair:
        """A pass without a pair: with sharded weights each pass is collective."""
        config, device = self._run.prior, self._group.device
        empty = torch.empty(0, config.positions, dtype=torch.int64, device=device)
        return empty[:, : config.text_positions], empty[:, config.text_positions :]
