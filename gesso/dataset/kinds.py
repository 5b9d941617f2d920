"""What a directory holds, recognised by gesso's JSON files in it; and what it is refused for. Standard library.

    manifest.json, plan.json   collection, index, embeddings, matches, repeats, export, tokens; generated (plan.json)
    model.json                 a bundle
    run.json                   a training: dvae, prior, contrastive, tokenizer, detector
    evaluation.json            what `gesso evaluate` found
    00000_stats.json alone     img2dataset's own shards, or a split of an export
    img_emb/img_emb_0.npy      clip-retrieval's embeddings

A damaged file tells nothing; the next one is asked.
"""

import re
from dataclasses import dataclass
from typing import Any

from gesso import lock, storage
from gesso.dataset.layout import MANIFEST, PLAN, SPLITS
from gesso.dataset.manifest import MARKER, read_object
from gesso.errors import UserError

Json = dict[str, Any]

RUN, MODEL, EVALUATION = "run.json", "model.json", "evaluation.json"
SHARDS = ("collection", "index", "img2dataset", "split")
TRAININGS = ("dvae", "prior", "contrastive")  # that write metrics.jsonl
DETECTOR_FILES = re.compile(r"checkpoint\.pt|detector\.safetensors")
VECTORS = re.compile(r"img_emb_\d+\.npy")


@dataclass(frozen=True)
class Kind:
    """A kind of directory."""

    name: str
    text: str
    command: str  # that writes it
    flags: str = ""  # of that command, its input as {}
    inputs: tuple[str, ...] = ()  # the kinds that it is made from

    def made_from(self, path: str) -> str:
        """The command that makes it from `path`."""
        return f"{self.command} {self.flags.format(path)} --output …"

    @property
    def pronoun(self) -> str:
        return "it" if self.text.startswith(("a ", "an ", "img2dataset")) else "them"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("collection", "a collection", "gesso collect", "--input {}"),
        Kind("index", "an index of shards", "gesso index", "'{}/*.tar'"),
        Kind("img2dataset", "img2dataset's folder", "img2dataset"),
        Kind("split", "a split of an export", "gesso export"),
        Kind("embeddings", "embeddings", "gesso embed", "--shards {}", SHARDS),
        Kind("matches", "matches", "gesso match", "--embeddings {} --reference …", ("embeddings",)),
        Kind("repeats", "lists of repeats", "gesso repeats", "--shards {}", SHARDS),
        Kind("export", "an export", "gesso export", "--shards {}", SHARDS),
        Kind("tokens", "tokens", "gesso encode", "--shards {} --dvae …", ("export",)),
        Kind("tokenizer", "a tokenizer", "gesso train tokenizer", "--data {}", ("export",)),
        Kind("dvae", "a training of a dVAE", "gesso train dvae", "--data {}", ("export",)),
        Kind("prior", "a training of a prior", "gesso train prior", "--data {} --tokenizer …", ("tokens",)),
        Kind(
            "contrastive",
            "a training of a contrastive model",
            "gesso train contrastive",
            "--data {} --tokenizer …",
            ("export",),
        ),
        Kind("bundle", "a bundle of models", "gesso bundle", "--prior {} --dvae …", ("prior",)),
        Kind("generated", "generated pictures", "gesso generate", "CAPTION --prior {}", ("prior", "bundle")),
        Kind("detector", "a training of a detector", "gesso train detector", "--data {}", SHARDS),
        Kind("evaluation", "an evaluation", "gesso evaluate", "--generated {} --reference …", ("generated",)),
    )
}


def recognise(path: str) -> Kind | None:
    """The kind of a directory, finished or not; None for one that gesso does not know, or that is not there."""
    files = ((storage.join(path, name), ask) for name, ask in ASKED.items())
    answers = (ask(file) for file, ask in files if storage.exists(file))
    name = next((name for name in answers if name in KINDS), None)
    return KINDS[name] if name else _by_names(path, storage.sizes(path).keys())


def find(path: str) -> tuple[str, Kind]:
    """The directory with its kind; of a split, the export that it belongs to.

    Raises UserError where it is none that gesso knows.
    """
    path = path.rstrip("/")
    kind = recognise(path) or _of_writer(path)
    if kind is None and any(name.endswith(".tar") for name in storage.sizes(path)):
        raise UserError(
            f"{path} holds tars without statistics: `{KINDS['index'].made_from(path)}` makes an index of them"
        )
    if kind is None:
        there = "holds nothing that gesso writes" if storage.exists(path) else "is not there"
        raise UserError(f"{path} {there}: give the --output of a gesso command, or img2dataset's folder")
    return (storage.absolute(path).rpartition("/")[0], KINDS["export"]) if kind.name == "split" else (path, kind)


def expect(path: str, command: str, *wanted: str) -> None:
    """Raises UserError where `path` holds another kind than the command wants, with the command that makes that.

    Says nothing of a directory that holds no known kind: whoever opens it does.
    """
    held = recognise(path)
    if held and held.name not in wanted:
        texts = " or ".join(KINDS[name].text for name in wanted if name not in SHARDS[1:])
        raise UserError(f"{path} is {held.text}; `{command}` wants {texts}: {_way(path, held, wanted)}")


def check_output(path: str, command: str, name: str) -> None:
    """Raises UserError where the command's output holds another kind than it writes, `name`."""
    held = recognise(path)
    if held and held.name != name:
        raise UserError(
            f"--output {path} holds {held.text} already; `{command}` writes {KINDS[name].text}: give another"
        )


def _of_writer(path: str) -> Kind | None:
    """What a running command makes of a directory that has no file of it yet."""
    command = str((lock.holder(path) or {}).get("command", ""))
    return next((kind for kind in KINDS.values() if command.startswith(kind.command)), None)


def _way(path: str, held: Kind, wanted: tuple[str, ...]) -> str:
    """What to do to get what is wanted."""
    if held.name == "export" and "collection" in wanted:
        return f"give one of its splits, {storage.join(path, SPLITS[0])}"
    fitting = [KINDS[name] for name in wanted if held.name in KINDS[name].inputs]
    target = fitting[0] if fitting else KINDS[wanted[0]]
    return f"`{target.made_from(path if fitting else '…')}` makes {target.pronoun}"


def _ask_manifest(path: str) -> str | None:
    value = read_object(path)
    return None if value is None else str(value.get("kind", "collection"))


def _ask_plan(path: str) -> str | None:
    """The kind of an unfinished output; a plan without one is recognised by its settings."""
    value = read_object(path) or {}
    settings = value.get("settings") or {}
    signs = {"repeats": "near", "matches": "top_k", "embeddings": "model"}
    by_settings = next((name for name, sign in signs.items() if sign in settings), None)
    return value.get("kind") or ("collection" if "links" in value else by_settings)


def stated(folder: str) -> str | None:
    """The kind that the manifest of a directory states, or its plan; None where it has neither."""
    names = (name for name in (MANIFEST, PLAN) if storage.exists(storage.join(folder, name)))
    return next((ASKED[name](storage.join(folder, name)) for name in names), None)


def _ask_run(path: str) -> str | None:
    return (read_object(path) or {}).get("kind")


ASKED = {MANIFEST: _ask_manifest, PLAN: _ask_plan, RUN: _ask_run, MODEL: _ask_run, EVALUATION: _ask_run}


def _by_names(path: str, names: Any) -> Kind | None:
    """The kind of a directory that says nothing of itself."""
    if names & {MANIFEST, PLAN}:
        return KINDS["collection"]
    if any(map(DETECTOR_FILES.fullmatch, names)):
        return KINDS["detector"]
    if any(map(VECTORS.fullmatch, storage.sizes(storage.join(path, "img_emb")))):
        return KINDS["embeddings"]
    if storage.files(storage.join(path, "plan")):
        return KINDS["collection"]  # whose plan is not complete
    return KINDS["split" if _is_split(path) else "img2dataset"] if any(map(MARKER.fullmatch, names)) else None


def _is_split(path: str) -> bool:
    parent, _, name = storage.absolute(path).rpartition("/")
    return name in SPLITS and stated(parent) == "export"
