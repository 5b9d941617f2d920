"""Small models for tests of generation: an untrained prior with a dVAE and a tokenizer that fit it, and their runs."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from gesso.generation.models import Models
from gesso.training.data.shards import file_sha256
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig, Tokens
from gesso.training.tokenizer.bpe import Tokenizer, train
from gesso.training.tokenizer.settings import POSITIONS
from tests.dvaes import CONFIG as DVAE_CONFIG
from tests.dvaes import write_dvae

TEXT, GRID, CODES = 8, DVAE_CONFIG.grid, DVAE_CONFIG.vocabulary
CAPTIONS = ("a red apple", "a green pear on a table", "two pears")
SPREAD = 8.0  # times the initial weights, so that logits differ


def write_tokenizer(folder: Path) -> str:
    """Of a few captions; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(train(CAPTIONS * 2, 300))
    (folder / "run.json").write_text(json.dumps({"format": 1, "kind": "tokenizer", "settings": {}}))
    return str(folder)


def config(texts: int, **more: Any) -> PriorConfig:
    shape = {"layers": 4, "heads": 2, "head_size": 8, "text_positions": TEXT, "kernel": 3, **more}
    return PriorConfig(**{"tokens": Tokens(GRID, CODES, texts), **shape})


def prior(of: PriorConfig, seed: int = 0) -> Prior:
    """With weights large enough for its logits to differ."""
    made = Prior(of)
    made.initialize(seed)
    for value in made.parameters():
        value.data *= SPREAD if value.dim() == 2 else 1
    return made.eval().requires_grad_(False)


def toy_models(folder: Path, dvae: DvaeConfig = DVAE_CONFIG, **more: Any) -> Models:
    """Models that were opened, on the CPU in float32."""
    tokenizer = Tokenizer.open(write_tokenizer(folder / "tokenizer"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = DVAE(dvae).eval().requires_grad_(False)
    tokens = Tokens(dvae.grid, dvae.vocabulary, tokenizer.size - POSITIONS)
    return Models(prior(config(tokens.texts, tokens=tokens, **more)), decoder, tokenizer, {}, "", {})


def write_prior(folder: Path, tokenizer: str, dvae: str, dvae_sha256: str, **more: Any) -> str:
    """A run of `gesso train prior` as far as generation knows it; returns its folder."""
    of = config(Tokenizer.open(tokenizer).size - POSITIONS, **more)
    settings = {**asdict(of), "tokens": of.tokens._asdict(), "precision": "fp32", "dvae_sha256": dvae_sha256}
    settings["tokenizer_sha256"] = file_sha256(f"{tokenizer}/tokenizer.json")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(Path(tokenizer, "tokenizer.json").read_bytes())
    record = {"format": 1, "kind": "prior", "settings": settings, "dvae": {"path": dvae}}
    (folder / "run.json").write_text(json.dumps(record))
    state = {"average": prior(of).state_dict(), "numbers": {"settings": settings}}
    torch.save(state, folder / "checkpoints/0000100.pt")
    return str(folder)


def write_runs(folder: Path, **more: Any) -> tuple[str, str]:
    """Runs of a prior and of the dVAE of its codes; returns their paths."""
    from gesso.training.dvae.weights import open_dvae

    dvae = write_dvae(folder / "dvae/checkpoints/0000100.pt")
    made = str(folder / "dvae")
    sha256 = open_dvae(dvae).identity()["weights_sha256"]
    return write_prior(folder / "prior", write_tokenizer(folder / "tokenizer"), made, sha256, **more), made


def unlike(of: DvaeConfig) -> DvaeConfig:
    """A dVAE of another grid."""
    return replace(of, image_size=2 * of.image_size)
