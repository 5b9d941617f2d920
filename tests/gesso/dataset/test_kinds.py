"""What a directory is taken for, and the line that a wrong one gets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gesso import cli
from gesso.dataset import kinds
from gesso.errors import UserError
from tests import indexes
from tests.datasets import write_dataset
from tests.embeddings import clustered, write_embeddings
from tests.exports import write_export
from tests.prior_runs import write_prior_run
from tests.runs import write_run

KEYS = [f"{number:032x}" for number in range(6)]


def write(folder: Path, name: str, value: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return str(folder)


def held(path: str | Path) -> str | None:
    kind = kinds.recognise(str(path))
    return kind.name if kind else None


class TestRecognise:
    def test_what_is_written_in_full(self, tmp_path: Path) -> None:
        clean = write_export(tmp_path / "clean", (6, 2))
        assert held(write_dataset(tmp_path / "raw", 1, 10)) == "collection"
        assert held(write_dataset(tmp_path / "begun", 1, 10, finished=False)) == "collection"
        assert held(write_embeddings(tmp_path / "embeddings", clustered(6, 8, 0), KEYS, [4, 2])) == "embeddings"
        assert (held(clean), held(f"{clean}/train"), held(f"{clean}/validation/")) == ("export", "split", "split")
        assert held(write_run(tmp_path / "dvae", until=20)) == "dvae"
        assert held(write_prior_run(tmp_path / "prior", until=200)) == "prior"

    @pytest.mark.parametrize("kind", ["matches", "repeats", "tokens", "export", "embeddings", "index"])
    def test_by_the_manifest(self, tmp_path: Path, kind: str) -> None:
        assert held(write(tmp_path, "manifest.json", {"kind": kind})) == kind

    def test_generated_pictures_and_bundles(self, tmp_path: Path) -> None:
        assert held(write(tmp_path / "out", "plan.json", {"kind": "generated", "settings": {}})) == "generated"
        assert held(write(tmp_path / "bundle", "model.json", {"kind": "bundle"})) == "bundle"
        assert held(write(tmp_path / "other", "model.json", {"layers": 3})) is None

    @pytest.mark.parametrize(
        ("settings", "kind"),
        [
            ({"near": 0.0}, "repeats"),
            ({"top_k": 8, "model": {}}, "matches"),
            ({"source": "shards", "model": "detector"}, "embeddings"),
        ],
    )
    def test_unfinished_ones_by_the_plan(self, tmp_path: Path, settings: dict[str, Any], kind: str) -> None:
        assert held(write(tmp_path, "plan.json", {"settings": settings, "input": []})) == kind

    def test_a_damaged_manifest_leaves_the_plan(self, tmp_path: Path) -> None:
        write(tmp_path, "manifest.json", "{")
        assert held(write(tmp_path, "plan.json", {"kind": "tokens"})) == "tokens"
        assert held(write(tmp_path, "plan.json", "[]")) == "collection"

    def test_an_index(self, tmp_path: Path) -> None:
        index = Path(indexes.write_index(tmp_path / "index", indexes.write_sources(tmp_path / "theirs", (2,))))
        assert held(index) == "index"
        (index / "manifest.json").unlink()
        assert held(index) == "index"

    def test_tars_of_others(self, tmp_path: Path) -> None:
        indexes.write_sources(tmp_path, (2,))
        with pytest.raises(UserError, match=rf"tars without statistics: `gesso index '{tmp_path}/\*\.tar' "):
            kinds.find(str(tmp_path))

    @pytest.mark.parametrize(
        ("name", "text", "kind"),
        [
            ("run.json", {"kind": "tokenizer"}, "tokenizer"),
            ("evaluation.json", {"kind": "evaluation"}, "evaluation"),
            ("checkpoint.pt", "", "detector"),
            ("00000_stats.json", {"count": 1}, "img2dataset"),
            ("notes.txt", "", None),
            ("run.json", {"kind": "another"}, None),
        ],
    )
    def test_by_names(self, tmp_path: Path, name: str, text: Any, kind: str | None) -> None:
        assert held(write(tmp_path, name, text)) == kind

    def test_clip_retrievals_embeddings(self, tmp_path: Path) -> None:
        (tmp_path / "img_emb").mkdir()
        np.save(tmp_path / "img_emb/img_emb_0.npy", np.zeros((1, 2)))
        assert held(tmp_path) == "embeddings"

    def test_what_is_no_directory(self, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("")
        assert (held(tmp_path / "list.txt"), held(tmp_path / "nothing"), held(tmp_path)) == (None, None, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A directory of each kind, by its name."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "raw", 1, 10)
    write_embeddings(folder / "embeddings", clustered(6, 8, 0), KEYS, [6])
    write_export(folder / "clean", (6, 2))
    write_run(folder / "dvae", until=20)
    write_prior_run(folder / "prior", until=200)
    for kind in ("matches", "repeats", "tokens"):
        write(folder / kind, "manifest.json", {"kind": kind})
    for kind in ("tokenizer", "contrastive"):
        write(folder / kind, "run.json", {"kind": kind})
    return lambda name: str(folder / name)


# The command with its one wrong directory as {}, what that is, what is wanted, and the way there.
WRONG = [
    ("embed --shards {embeddings} --output o", "`gesso embed` wants a collection: `gesso collect --input … "),
    ("embed --shards {clean} --output o", "`gesso embed` wants a collection: give one of its splits, {clean}/train"),
    ("match --embeddings {raw} --reference {embeddings} --output o", "`gesso match` wants embeddings: `gesso embed "),
    ("match --embeddings {embeddings} --reference {matches} --output o", "`gesso match` wants embeddings: `gesso em"),
    ("review {embeddings}", "`gesso review` wants matches: `gesso match --embeddings {embeddings} --reference … --o"),
    ("repeats --shards {tokens} --output o", "`gesso repeats --shards` wants a collection: `gesso collect --inp"),
    (
        "repeats --shards {raw} --embeddings {raw} --near 0.9 --output o",
        "`gesso repeats --embeddings` wants embeddings: `gesso embed --shards {raw} --output …` makes them",
    ),
    ("export --shards {embeddings} --output o", "`gesso export --shards` wants a collection: `gesso collect "),
    (
        "export --shards {raw} --drop {raw} --output o",
        "`gesso export --drop` wants matches or lists of repeats: `gesso repeats --shards {raw} --output …` makes them",
    ),
    (
        "export --shards {raw} --drop {embeddings} --output o",
        "`gesso export --drop` wants matches or lists of repeats: `gesso match --embeddings {embeddings} --reference ",
    ),
    ("train detector --data {embeddings} --output o", "`gesso train detector` wants a collection or an export: `ges"),
    (
        "train tokenizer --data {raw} --output o",
        "`gesso train tokenizer` wants an export: `gesso export --shards {raw} --output …` makes it",
    ),
    ("train dvae --data {raw} --output o --preset tiny", "`gesso train dvae` wants an export: `gesso export --shards"),
    (
        "train prior --data {clean} --tokenizer {dvae} --output o --preset tiny",
        "`gesso train prior --tokenizer` wants a tokenizer: `gesso train tokenizer --data … --output …` makes it",
    ),
    (
        "train contrastive --data {tokens} --tokenizer {tokenizer} --output o --preset tiny",
        "`gesso train contrastive --data` wants an export: `gesso export --shards … --output …` makes it",
    ),
    (
        "train contrastive --data {clean} --tokenizer {dvae} --output o --preset tiny",
        "`gesso train contrastive --tokenizer` wants a tokenizer: `gesso train tokenizer --data … --output …` makes it",
    ),
    (
        "train prior --data {raw} --tokenizer {tokenizer} --output o --preset tiny",
        "`gesso train prior --data` wants tokens or an export: `gesso export --shards {raw} --output …` makes it",
    ),
    ("encode --shards {raw} --dvae {dvae} --output o", "`gesso encode --shards` wants an export: `gesso export --sh"),
    (
        "encode --shards {clean} --dvae {tokenizer} --output o",
        "`gesso encode --dvae` wants a training of a dVAE: `gesso train dvae --data … --output …` makes it",
    ),
]


def without_preset(error: str) -> list[str]:
    """The lines of stderr but for the one in which a training says which preset fits the machine."""
    return [line for line in error.splitlines() if not line.startswith("--preset ")]


@pytest.mark.parametrize(("command", "told"), WRONG)
def test_a_directory_of_the_wrong_kind_is_one_line(
    command: str, told: str, made: Callable[[str], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Paths(dict[str, str]):
        def __missing__(self, name: str) -> str:
            return made(name)

    argv = command.format_map(Paths()).replace("--output o", f"--output {tmp_path}/o").split()
    assert cli.main(argv) == 2
    lines = without_preset(capsys.readouterr().err)
    assert len(lines) == 1
    assert told.format_map(Paths()) in lines[0]
    assert not (tmp_path / "o").exists()


def test_the_whole_line(made: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    raw = made("raw")
    assert cli.main(["match", "--embeddings", raw, "--reference", raw, "--output", "o"]) == 2
    assert capsys.readouterr().err == (
        f"gesso: {raw} is a collection; `gesso match` wants embeddings: "
        f"`gesso embed --shards {raw} --output …` makes them\n"
    )


# A command that writes each kind, by the name of the directory of that kind below.
WRITES = {
    "raw": "collect --input {raw}/00000.parquet",
    "embeddings": "embed --shards {raw}",
    "matches": "match --embeddings {embeddings} --reference {embeddings}",
    "repeats": "repeats --shards {raw}",
    "clean": "export --shards {raw}",
    "detector": "train detector --data {raw}",
    "tokenizer": "train tokenizer --data {clean}",
    "dvae": "train dvae --data {clean} --preset tiny",
    "prior": "train prior --data {clean} --tokenizer {tokenizer} --preset tiny",
    "contrastive": "train contrastive --data {clean} --tokenizer {tokenizer} --preset tiny",
    "tokens": "encode --shards {clean} --dvae {dvae}",
}


# An export into its own source is refused for that (tests/pipelines/export/test_job.py).
OTHERS = [(own, held) for own in WRITES for held in WRITES if held not in (own, "detector")]


@pytest.mark.parametrize(("own", "held"), [pair for pair in OTHERS if pair != ("clean", "raw")])
def test_an_output_that_holds_another_kind(
    own: str, held: str, made: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {name: made(name) for name in ("raw", "embeddings", "clean", "dvae", "tokenizer")}
    argv = WRITES[own].format(**inputs).split()
    kind = kinds.recognise(made(held))
    assert kind
    assert cli.main([*argv, "--output", made(held)]) == 2
    (error,) = without_preset(capsys.readouterr().err)
    command = " ".join(argv[: 2 if argv[0] == "train" else 1])
    assert error.startswith(f"gesso: --output {made(held)} holds {kind.text} already; `gesso {command}` writes ")


def test_the_way_to_a_prior(made: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match=r"a training of a prior: `gesso train prior --data .*/tokens --tokenizer"):
        kinds.expect(made("tokens"), "gesso draw", "prior")


def test_nothing_known_is_left_to_who_opens_it(tmp_path: Path) -> None:
    kinds.expect(str(tmp_path), "gesso match", "embeddings")
    kinds.check_output(str(tmp_path), "gesso match", "matches")
    write(tmp_path, "manifest.json", {"kind": "matches"})
    kinds.check_output(str(tmp_path), "gesso match", "matches")
    with pytest.raises(UserError, match="holds matches already; `gesso embed` writes embeddings: give another"):
        kinds.check_output(str(tmp_path), "gesso embed", "embeddings")
