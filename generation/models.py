"""Opens what generation needs: a prior, the dVAE of its codes, its tokenizer; of runs, or of a bundle. torch."""

from importlib import resources
from typing import Any, NamedTuple

import torch

from gesso import storage
from gesso.dataset import identity as identities
from gesso.errors import UserError
from gesso.generation import bundle_files
from gesso.generation.layout import MODEL
from gesso.generation.tiles import Tile
from gesso.training.data.shards import file_sha256
from gesso.training.dvae.layers import set_precision
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.weights import open_dvae
from gesso.training.layout import CHECKPOINTS, RECORD
from gesso.training.prior.model import Prior
from gesso.training.prior.weights import open_prior, weights_sha256
from gesso.training.tokenizer.bpe import Tokenizer
from gesso.training.tokenizer.settings import FILE, POSITIONS, file_of

Json = dict[str, Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHIPPED = "the model that gesso ships"


class Models(NamedTuple):
    """Everything on the device, for evaluation. Of a bundle, `bundle` is its folder, else empty."""

    prior: Prior
    dvae: DVAE
    tokenizer: Tokenizer
    identity: Json  # {"prior": {"path", "sha256"}, "dvae": …, "tokenizer": …, "precision", "device"}
    bundle: str
    tiles: dict[tuple[int, int], Tile]  # by captions and candidates: made when they are first drawn with

    @property
    def device(self) -> torch.device:
        return self.prior.image.weight.device

    @property
    def grid(self) -> int:
        """Codes along a side."""
        return self.prior.config.tokens.grid


class Opened(NamedTuple):
    """The same in float32 on the CPU, and the precision of the prior's training."""

    prior: Prior
    dvae: DVAE
    tokenizer: Tokenizer
    identity: Json
    bundle: str
    trained_in: str


def open_models(prior: str, dvae: str, device: torch.device, precision: str, tokenizer: str = "") -> Models:
    """`prior`: a run of `gesso train prior` or a checkpoint of it, a bundle, or empty for the shipped bundle.

    Of a run, `dvae` and `tokenizer` may be empty where they are still where the run found them. `precision`: fp32,
    fp16, bf16, or auto. Raises UserError where something is missing or damaged, or does not fit.
    """
    path = prior or shipped()
    opened = of_bundle(path, dvae, tokenizer) if bundle_files.is_bundle(path) else of_run(path, dvae, tokenizer)
    check_fits(opened)
    name = precision_of(precision, device, opened.trained_in)
    opened.prior.set_precision(DTYPES[name], DTYPES[name])
    set_precision(opened.dvae, DTYPES[name] if device.type == "cuda" else torch.float32)
    identity = {**opened.identity, "precision": name, "device": device.type}
    return Models(opened.prior.to(device), opened.dvae.to(device), opened.tokenizer, identity, opened.bundle, {})


def shipped() -> str:
    """The folder of the bundle that gesso ships. Raises UserError where this gesso has none."""
    folder = str(resources.files("gesso.generation") / "weights")
    if not bundle_files.is_bundle(folder):
        raise UserError(f"{SHIPPED} is not installed ({folder} has no {MODEL}): give --prior, a run or a bundle")
    return folder


def of_bundle(path: str, dvae: str, tokenizer: str) -> Opened:
    """Raises UserError."""
    for flag, value in (("dvae", dvae), ("tokenizer", tokenizer)):
        if value:
            raise UserError(f"--{flag} is {value}, and {path} is a bundle, which has its own: leave --{flag} out")
    parts = bundle_files.read(path)
    bundle_files.listed(path, FILE, parts.described)
    shas = {name.split(".")[0]: entry["sha256"] for name, entry in parts.described["files"].items()}
    identity = {name: {"path": path, "sha256": shas[name]} for name in ("prior", "dvae", "tokenizer")}
    return Opened(parts.prior, parts.dvae, Tokenizer.open(path), identity, path, parts.settings["precision"])


def of_run(path: str, dvae: str, tokenizer: str) -> Opened:
    """Raises UserError."""
    prior, settings = open_prior(path)
    run = run_of(path)
    dvae = dvae or dvae_of(run)
    tokenizer = tokenizer or run
    if not storage.exists(file_of(tokenizer)):
        raise UserError(f"{tokenizer} has no {FILE}: give --tokenizer, the one that {path} was trained with")
    opened, decoder = Tokenizer.open(tokenizer), open_dvae(dvae)
    found = {
        "prior": {"path": path, "sha256": weights_sha256(prior)},
        "dvae": {"path": dvae, "sha256": decoder.identity()["weights_sha256"]},
        "tokenizer": {"path": tokenizer, "sha256": file_sha256(file_of(tokenizer))},
    }
    for name, key in (("dvae", "dvae_sha256"), ("tokenizer", "tokenizer_sha256")):
        if found[name]["sha256"] != settings[key]:
            raise UserError(
                f"--{name} {found[name]['path']} is not the one that {path} was trained with (sha256 "
                f"{found[name]['sha256'][:12]}…, there {settings[key][:12]}…): give that one"
            )
    return Opened(prior, decoder, opened, found, "", settings["precision"])


def run_of(path: str) -> str:
    """The folder of the run that a checkpoint belongs to, or that `path` is."""
    if storage.exists(storage.join(path, RECORD)):
        return path
    return storage.absolute(path).rpartition(f"/{CHECKPOINTS}/")[0] or path


def dvae_of(run: str) -> str:
    """Where the dVAE of a run's codes was. Raises UserError where that is not known, or it is not there."""
    record = storage.join(run, RECORD)
    told = storage.read_json(record).get("dvae", {}).get("path", "") if storage.exists(record) else ""
    path = identities.resolve(told, run) if told else ""
    if not path or not storage.exists(path):
        where = f"is not at {path} any more" if path else f"is not named by {record}"
        raise UserError(f"the dVAE of {run} {where}: give --dvae")
    return path


def check_fits(opened: Opened) -> None:
    """Raises UserError where prior, dVAE and tokenizer are of different grids or vocabularies."""
    tokens, dvae = opened.prior.config.tokens, opened.dvae.config
    if tokens.grid != dvae.grid or tokens.codes != dvae.vocabulary:
        made = f"{dvae.grid}×{dvae.grid} of {dvae.vocabulary:,} codes"
        wanted = f"{tokens.grid}×{tokens.grid} of {tokens.codes:,}"
        raise UserError(
            f"--dvae has grids of {made}, and --prior draws {wanted}: give the dVAE that it was trained with"
        )
    if opened.tokenizer.size - POSITIONS != tokens.texts:
        has = f"--tokenizer has {opened.tokenizer.size - POSITIONS:,} tokens, and --prior knows {tokens.texts:,}"
        raise UserError(f"{has}: give the tokenizer that it was trained with")


def precision_of(name: str, device: torch.device, trained_in: str) -> str:
    """What `auto` is: fp32 on a CPU, on a GPU the training's own 16 bits, fp16 where that was fp32."""
    if name != "auto":
        return name
    if device.type == "cpu":
        return "fp32"
    return trained_in if trained_in != "fp32" else "fp16"
