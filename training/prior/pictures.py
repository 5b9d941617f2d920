"""The pictures that a training draws: a few fixed captions of the validation split, each with its own picture above.

evaluations/0000500/samples.json   the captions, in the order of the grid
evaluations/0000500/samples.png    the captions' pictures as the dVAE decodes their codes; below, what was drawn
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gesso import storage
from gesso.images import Pixels
from gesso.processes import Group
from gesso.training import grids
from gesso.training.dvae.model import DVAE
from gesso.training.layout import CAPTIONS, SAMPLES, evaluation_name
from gesso.training.prior.model import Prior
from gesso.training.prior.sampling import sample

TITLE = "validation pictures above, drawn from their captions under them"  # in TensorBoard


class Captions(NamedTuple):
    """The captions to draw."""

    keys: Sequence[str]
    captions: Sequence[str]
    text: Tensor  # int64 (n, T)
    codes: Tensor  # int64 (n, N): of their pictures


class Painter:
    """Draws the same captions at each evaluation; nothing where there are none. Other processes than the first have no
    dVAE: they only take part in drawing the codes."""

    def __init__(self, output: str, captions: Captions | None, dvae: DVAE | None, seed: int) -> None:
        self._output, self._captions, self._dvae, self._seed = output, captions, dvae, seed

    def paint(self, prior: Prior, step: int, group: Group) -> dict[str, Pixels]:
        """Draws, and writes the files of an evaluation; returns the grid by its title, in the first process alone.

        Collective.
        """
        of = self._captions
        if of is None:
            return {}
        drawn = sample(prior, of.text.to(group.device), of.keys, self._seed)
        if group.rank:
            return {}
        grid = grids.pair_grid(self._decode(of.codes), self._decode(drawn))
        folder = storage.join(self._output, evaluation_name(step))
        storage.write_json(storage.join(folder, CAPTIONS), {"captions": list(of.captions)})
        with storage.write_whole(storage.join(folder, SAMPLES)) as stream:
            stream.write(grids.png(grid))
        return {TITLE: grid}

    def _decode(self, codes: Tensor) -> Tensor:
        """int64 (n, N) → uint8 (n, S, S, 3)."""
        assert self._dvae is not None
        grid = self._dvae.config.grid
        device = next(self._dvae.parameters()).device
        with torch.no_grad():
            return grids.to_bytes(self._dvae.decode(codes.view(-1, grid, grid).to(device))).cpu()
