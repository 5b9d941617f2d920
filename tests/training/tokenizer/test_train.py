"""`gesso train tokenizer`: what it writes and prints, the sample it draws, that it is reproducible, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from gesso.errors import UserError
from gesso.training.data.split import open_split
from gesso.training.tokenizer import train
from gesso.training.tokenizer.bpe import Tokenizer
from gesso.training.tokenizer.settings import TokenizerSettings
from gesso.training.tokenizer.train import CaptionCounts, sample_captions
from tests.captions import SCRIPTS
from tests.exports import write_export


def caption(number: int) -> str:
    """A different caption for each number, every tenth empty."""
    texts = list(SCRIPTS.values())
    return "" if number % 10 == 9 else f"{texts[number % len(texts)]}, number {number} of many"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_export(tmp_path_factory.mktemp("clean"), (70, 10), 10, captions=caption)


def flags(data: str, output: Path, *more: str) -> list[str]:
    return ["--data", data, "--output", str(output), "--vocabulary", "400", *more]


def captions_of(data: str, split: str) -> list[list[str]]:
    opened = open_split(data, split)
    return [opened.rows(shard, ["caption"])["caption"].to_pylist() for shard in opened.shards]


class TestSample:
    def test_whole_shards_in_an_order_of_the_seed_and_the_last_cut(self, data: str) -> None:
        shards = captions_of(data, "train")
        sizes, read = [len(shard) for shard in shards], CaptionCounts()
        drawn = list(sample_captions(open_split(data, "train"), TokenizerSettings(captions=25, seed=3), read))
        by_first = {shard[0] or shard[1]: shard for shard in shards}
        expected: list[str] = []
        rest = drawn
        while rest:
            shard = [text for text in by_first.pop(rest[0]) if text]
            expected += shard[: len(rest)]
            rest = rest[len(shard) :]
        assert drawn == expected
        assert read.captions == 25
        assert read.empty == 25 - len(drawn)
        assert 2 <= len(shards) - len(by_first) <= 25 // min(sizes) + 1

    def test_seeds_draw_other_shards(self, data: str) -> None:
        split = open_split(data, "train")
        drawn = {
            seed: list(sample_captions(split, TokenizerSettings(captions=9, seed=seed), CaptionCounts()))
            for seed in range(4)
        }
        assert drawn[0] == list(sample_captions(split, TokenizerSettings(captions=9, seed=0), CaptionCounts()))
        assert len({tuple(captions) for captions in drawn.values()}) > 1

    def test_all_of_the_train_split_and_nothing_else(self, data: str) -> None:
        drawn, read = (
            list(sample_captions(open_split(data, "train"), TokenizerSettings(), read := CaptionCounts())),
            read,
        )
        everything = [text for shard in captions_of(data, "train") for text in shard]
        assert sorted(drawn) == sorted(filter(None, everything))
        assert (read.captions, read.empty) == (70, 70 - len(drawn))

    def test_a_caption_that_is_null_is_an_empty_one(self) -> None:
        class Split:
            shards = (0,)

            def rows(self, shard: object, columns: list[str]) -> pa.Table:
                return pa.table({"caption": ["a", None, "", "b"]})

        assert list(sample_captions(Split(), TokenizerSettings(), read := CaptionCounts())) == ["a", "b"]  # type: ignore[arg-type]
        assert (read.captions, read.empty) == (4, 2)


class TestRun:
    def test_what_is_written_and_printed(self, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert train.main(flags(data, tmp_path / "run")) == 0
        printed = capsys.readouterr().out.splitlines()
        split = open_split(data, "train")
        tokenizer = Tokenizer.open(str(tmp_path / "run"))
        texts = [text for shard in captions_of(data, "train") for text in shard if text]
        mean = sum(tokenizer.length(text) for text in texts) / len(texts)
        assert printed == [
            f"70 captions read, {70 - len(texts)} of them empty and skipped",
            f"400 tokens and 256 positions; {mean:.1f} tokens per caption",
            f"tokenizer in {tmp_path}/run/tokenizer.json",
        ]
        record = json.loads((tmp_path / "run/run.json").read_text())
        assert sorted(os.listdir(tmp_path / "run")) == ["run.json", "tokenizer.json"]
        assert {name: record[name] for name in ("format", "kind", "settings", "data")} == {
            "format": 1,
            "kind": "tokenizer",
            "settings": {"vocabulary": 400, "captions": 1_000_000, "seed": 0},
            "data": split.identity(),
        }
        assert set(record["versions"]) == {"gesso", "tokenizers"}

    def test_poor_captions(self, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert train.main([*flags(data, tmp_path / "run"), "--vocabulary", "16384"]) == 0
        tokens = Tokenizer.open(str(tmp_path / "run")).size - 256
        assert f"they hold {tokens:,} tokens, fewer than the 16,384 of --vocabulary" in capsys.readouterr().out
        assert 400 < tokens < 16_384

    @pytest.mark.parametrize("threads", ["1", "2", "7"])
    def test_the_same_bytes_with_any_number_of_threads(self, threads: str, data: str, tmp_path: Path) -> None:
        assert train.main(flags(data, tmp_path / "here")) == 0
        code = f"from gesso.training.tokenizer.train import main; main({flags(data, tmp_path / 'there')!r})"
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": str(threads != "1")}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
        for name in ("tokenizer.json", "run.json"):
            assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()

    def test_the_same_command_again(self, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train.main(flags(data, tmp_path / "run"))
        before = (tmp_path / "run/tokenizer.json").stat()
        capsys.readouterr()
        assert train.main(flags(data, tmp_path / "run")) == 0
        assert capsys.readouterr().out == f"{tmp_path}/run is finished: nothing to do\n"
        assert (tmp_path / "run/tokenizer.json").stat().st_mtime_ns == before.st_mtime_ns

    def test_the_same_command_after_a_move(self, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train.main(flags(data, tmp_path / "run"))
        moved = str(shutil.copytree(data, tmp_path / "moved"))
        capsys.readouterr()
        assert train.main(flags(moved, tmp_path / "run")) == 0
        assert "is finished: nothing to do" in capsys.readouterr().out

    def test_killed_before_the_end(self, data: str, tmp_path: Path) -> None:
        train.main(flags(data, tmp_path / "run"))
        whole = (tmp_path / "run/tokenizer.json").read_bytes()
        (tmp_path / "run/tokenizer.json").unlink()
        assert train.main(flags(data, tmp_path / "run")) == 0
        assert (tmp_path / "run/tokenizer.json").read_bytes() == whole

    def test_helps_without_heavy_packages(self) -> None:
        code = (
            "import sys\nfrom gesso.training.tokenizer import train\ntrain.build_parser()\n"
            "print(*[name for name in ('numpy', 'tokenizers', 'torch', 'pyarrow') if name in sys.modules])"
        )
        told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert told.stdout == "\n"


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "what"),
        [
            (("--vocabulary", "401"), r"vocabulary was 400, is 401; give those, or another --output"),
            (("--seed", "1", "--captions", "5"), r"captions was 1000000, is 5; seed was 0, is 1; give"),
        ],
    )
    def test_other_settings(self, more: tuple[str, ...], what: str, data: str, tmp_path: Path) -> None:
        train.main(flags(data, tmp_path / "run"))
        with pytest.raises(UserError, match=f"run was begun with other settings: {what}"):
            train.main([*flags(data, tmp_path / "run"), *more])

    def test_other_data(self, data: str, tmp_path: Path) -> None:
        train.main(flags(data, tmp_path / "run"))
        with pytest.raises(UserError, match=r"data path was .*; data manifest_sha256 was '[0-9a-f]{12}…', is "):
            train.main(flags(write_export(tmp_path / "other", (10, 2)), tmp_path / "run"))

    def test_a_run_of_another_kind(self, data: str, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text('{"kind": "dvae"}')
        with pytest.raises(
            UserError, match="holds a training of a dVAE already; `gesso train tokenizer` writes a tokenizer"
        ):
            train.main(flags(data, tmp_path))

    def test_a_tokenizer_of_someone_else_s(self, data: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(UserError, match=r"already holds a tokenizer\.json without run\.json"):
            train.main(flags(data, tmp_path))
        assert (tmp_path / "tokenizer.json").read_text() == "{}"

    def test_no_caption_at_all(self, tmp_path: Path) -> None:
        data = write_export(tmp_path / "clean", (8, 2), captions=lambda number: "")
        with pytest.raises(UserError, match="holds no caption of the train split that is not empty"):
            train.main(flags(data, tmp_path / "run"))
        assert os.listdir(tmp_path / "run") == ["run.json"]

    def test_no_export(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="give the --output of a `gesso export`"):
            train.main(flags(str(tmp_path), tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("vocabulary", ["255", "65281", "0"])
    def test_a_vocabulary_that_cannot_be(self, vocabulary: str, data: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="give 256 to 65,280, so that ids fit 16 bits"):
            train.main([*flags(data, tmp_path / "run"), "--vocabulary", vocabulary])
