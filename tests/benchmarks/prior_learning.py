"""Does `gesso train prior --preset tiny` learn? `python tests/benchmarks/prior_learning.py [--work FOLDER] [flags]`

Real pictures with captions (those beside the checkout, else the bundled ones) become an export, tokens of a tokenizer
and a dVAE of preset tiny, and a prior, each by its command as a user would give it; other flags are the prior's. With
--work the folder is kept, and what is finished in it is not made again. The table sets the validation loss of the image
tokens, nats a token, by the averaged weights of the best checkpoint, against

    unigram, bigram   how often a token occurs in train, alone or after the one before it, or below the one above it
    shuffled          the same prior, each picture with the caption of another one

The gain of the right caption is the mean over the pictures of the difference, with its standard error.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from collect import HERE
from torch import Tensor

sys.path.insert(0, str(HERE.parents[2]))
from gesso.training import checkpoint
from gesso.training.data.token_loader import sequential_tokens
from gesso.training.data.token_split import TokenSplit, open_token_split
from gesso.training.prior.baselines import Baselines, measure
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig, Tokens
from gesso.training.tokenizer.bpe import Tokenizer
from tests.captioned import ROOT, pictures, write_captioned

VALIDATION = 256


def gesso(*argv: str) -> None:
    subprocess.run([sys.executable, "-m", "gesso", *argv], cwd=ROOT, check=True)


def prepare(work: Path) -> None:
    """Export, tokenizer, dVAE and tokens below the folder, where they are not there yet."""
    clean, tokens = str(work / "clean"), work / "tokens"
    if not (work / "clean/manifest.json").exists():
        write_captioned(work / "clean", min(VALIDATION, len(pictures()) // 5))
    gesso("train", "tokenizer", "--data", clean, "--output", str(work / "tokenizer"), "--vocabulary", "2048")
    if not (tokens / "manifest.json").exists():
        gesso("train", "dvae", "--data", clean, "--output", str(work / "dvae"), "--preset", "tiny")
        gesso("encode", "--shards", clean, "--dvae", str(work / "dvae"), "--output", str(tokens), "--views", "8")


def open_prior(run: Path) -> Prior:
    """The averaged weights of the best checkpoint."""
    path = checkpoint.best_checkpoint(str(run))
    assert path is not None
    state = checkpoint.read_whole(path)
    settings = state["numbers"]["settings"]
    shape = {name: settings[name] for name in PriorConfig.__dataclass_fields__}
    model = Prior(PriorConfig(**{**shape, "tokens": Tokens(**settings["tokens"])}))
    model.load_state_dict(state["average"])
    return model.eval()


@torch.no_grad()
def image_losses(model: Prior, text: Tensor, codes: Tensor) -> Tensor:
    """Nats a token of each picture, (n,)."""
    last = model.config.text_positions - 1
    parts = zip(torch.split(text, 32), torch.split(codes, 32), strict=True)
    logits = torch.cat([model.image_logits(model.hidden(*part)[:, last:-1]) for part in parts])
    return F.cross_entropy(logits.movedim(2, 1), codes, reduction="none").mean(1)


def validation(split: TokenSplit, tokenizer: Tokenizer, length: int) -> tuple[Tensor, Tensor]:
    batches = list(sequential_tokens(split, tokenizer, length))
    return torch.cat([batch.text for batch in batches]), torch.cat([batch.codes for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="keep everything there")
    parser.add_argument("--name", default="prior", help="of the run below it")
    given, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        prepare(work)
        tokens, tokenizer, run = str(work / "tokens"), str(work / "tokenizer"), work / given.name
        what = ("--data", tokens, "--tokenizer", tokenizer, "--dvae", str(work / "dvae"))
        gesso("train", "prior", *what, "--output", str(run), "--preset", "tiny", *flags)
        model, train = open_prior(run), open_token_split(tokens, "train")
        held_out = open_token_split(tokens, "validation")
        text, codes = validation(held_out, Tokenizer.open(tokenizer), model.config.text_positions)
        right, wrong = image_losses(model, text, codes), image_losses(model, text.roll(1, 0), codes)
        print_table(measure(train, held_out), right.tolist(), wrong.tolist(), run)


def print_table(baselines: Baselines, right: list[float], wrong: list[float], run: Path) -> None:
    step = json.loads((run / "checkpoints/best.json").read_text())["step"]
    gains = [other - own for own, other in zip(right, wrong, strict=True)]
    error = stdev(gains) / sqrt(len(gains))
    print(f"{len(right)} validation pictures, best checkpoint after {step:,} updates; nats a token")
    for name in ("unigram", "bigram", "vertical"):
        print(f"{name:28}{getattr(baselines, name):>9.4f}")
    print(f"{'prior, right captions':28}{fmean(right):>9.4f}\n{'prior, shuffled captions':28}{fmean(wrong):>9.4f}")
    print(f"gain of the right caption {fmean(gains):.4f} ± {error:.4f}, {fmean(gains) / error:.1f} standard errors")


if __name__ == "__main__":
    main()
