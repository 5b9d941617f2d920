"""An evaluation: sums over batches and processes, what its figures mean, its pictures."""

from math import log

import numpy as np
import pytest
import torch

from gesso.processes import Group
from gesso.training import grids
from gesso.training.data.loader import sequential_batches
from gesso.training.data.split import Split, open_split
from gesso.training.dvae import evaluation, objective
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig
from tests.exports import write_export

CONFIG = DvaeConfig(image_size=16, vocabulary=6, width=4, input_width=4, blocks=1)
ALONE = Group(0, 1, torch.device("cpu"))


class Halves(Group):
    """One of two processes that do their shares one after the other: its totals are its own."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return values


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return open_split(write_export(tmp_path_factory.mktemp("clean"), (9, 7), 4), "validation")


@pytest.fixture(scope="module")
def model() -> DVAE:
    torch.manual_seed(0)
    return DVAE(CONFIG).eval()


def evaluated(
    model: DVAE, split: Split, group: Group = ALONE, samples: int = 100, batch: int = 3
) -> evaluation.Evaluation:
    return evaluation.evaluate(model, split, samples, batch, 0.5, group, 1)


def test_figures_are_those_of_every_picture(model: DVAE, split: Split) -> None:
    found = evaluated(model, split)
    ((keys, pixels),) = list(sequential_batches(split, 16, batch_size=100))
    assert len(keys) == 7
    x = objective.map_pixels(torch.from_numpy(pixels).movedim(3, 1))
    with torch.no_grad():
        logits = model.encoder(x)
        told = model.decoder(objective.harden(logits))
    kl = objective.kl_uniform(logits).mean()
    nll = objective.logit_laplace(x, told).mean()
    mse = (objective.reconstruct(told) - torch.from_numpy(pixels).movedim(3, 1) / 255).square().mean()
    assert found.values["val_hard_elbo"] == pytest.approx(float(-nll - kl / 192), rel=1e-5)
    assert found.values["val_nats_per_dim"] == pytest.approx(float(nll + kl / 192) + log(255 / 0.8), rel=1e-5)
    assert found.values["val_mse"] == pytest.approx(float(mse), rel=1e-5)
    assert found.values["val_kl"] == pytest.approx(float(kl), rel=1e-5)
    assert found.counts.tolist() == torch.bincount(logits.argmax(1).flatten(), minlength=6).tolist()
    assert found.values["val_codes_used"] == int((found.counts > 0).sum())


@pytest.mark.parametrize("batch", [1, 2, 7, 50])
def test_batches_do_not_change_them(model: DVAE, split: Split, batch: int) -> None:
    one, other = evaluated(model, split), evaluated(model, split, batch=batch)
    assert other.values == pytest.approx(one.values, rel=1e-5)
    assert torch.equal(other.counts, one.counts)
    assert torch.equal(other.originals, one.originals)


def test_shares_of_processes_are_all_of_it(model: DVAE, split: Split) -> None:
    """Seven pictures in batches of two: the second process makes as many passes as the first, one of them empty."""
    alone = evaluated(model, split)
    halves = [evaluated(model, split, Halves(rank, 2, torch.device("cpu")), batch=1) for rank in range(2)]
    assert torch.equal(halves[0].counts + halves[1].counts, alone.counts)
    mse = (4 * halves[0].values["val_mse"] + 3 * halves[1].values["val_mse"]) / 7
    assert mse == pytest.approx(alone.values["val_mse"], rel=1e-5)


def test_the_first_so_many_samples(model: DVAE, split: Split) -> None:
    found = evaluated(model, split, samples=2)
    assert int(found.counts.sum()) == 2 * 4
    assert len(found.originals) == 2


def test_a_process_without_a_share_still_passes(model: DVAE, split: Split) -> None:
    batches = list(evaluation.padded(iter([(["a"], np.ones((1, 16, 16, 3), np.uint8))]), 3, 16))
    assert [keys for keys, _ in batches] == [["a"], [], []]
    assert [int(pixels.sum()) for _, pixels in batches] == [16 * 16 * 3, 0, 0]


def test_codes_stand_in_the_order_of_their_numbers(model: DVAE) -> None:
    pictures = evaluation.code_pictures(model, torch.device("cpu"), batch_size=4)
    assert pictures.shape == (6, 8, 8, 3)
    whole = model.decode(torch.full((1, 3, 3), 5))
    assert torch.equal(pictures[5], grids.to_bytes(whole[:, :, 8:16, 8:16])[0])
    square = evaluation.code_grid(pictures)
    assert square.shape == (16, 24, 3)
    assert (square[8:, 16:] == pictures[5].numpy()).all()
