"""The whole command on a small export: what it writes, that it goes on where it stopped, what it refuses, torchrun."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gesso import cli, storage
from gesso.errors import UserError
from gesso.pipelines.encode import job as encode
from gesso.training.data.randomness import random_of
from gesso.training.data.samples import SampleReader, decode
from gesso.training.data.split import open_split
from gesso.training.data.views import prior_view
from gesso.training.dvae.weights import open_dvae
from gesso.training.encode_settings import EncodeSettings
from gesso.training.encoding import open_same
from tests.dvaes import CONFIG, write_dvae
from tests.exports import picture, write_export

COUNTS = (26, 7)
ALONE = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """Encoding leaves torch with one thread for each forward pass."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dvae(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dvae(tmp_path_factory.mktemp("dvae") / "0000500.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with a picture that is smaller than the dVAE's."""
    return Path(write_export(tmp_path_factory.mktemp("clean"), COUNTS, 10, lambda n: picture(n, 30 if n == 3 else 96)))


@pytest.fixture(scope="module")
def tokens(data: Path, dvae: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run wrote."""
    output = tmp_path_factory.mktemp("one") / "tokens"
    assert run(data, output, dvae) == 0
    return output


def flags(data: Path, output: Path, dvae: str, *more: str) -> list[str]:
    given = ["--shards", str(data), "--dvae", dvae, "--output", str(output), "--device", "cpu"]
    return ["encode", *given, "--views", "2", "--batch_size", "4", *more]


def run(data: Path, output: Path, dvae: str, *more: str) -> int:
    return cli.main(flags(data, output, dvae, *more))


def compiled() -> dict[str, str]:
    """An environment in which a second start finds compiled modules: torch's are many."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def contents(output: Path) -> dict[str, str]:
    """Checksums of all that is reproducible: everything but the clock in the markers."""
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.endswith("_stats.json")]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def shards(data: Path) -> list[tuple[str, int]]:
    manifest = json.loads((data / "manifest.json").read_text())
    return [(entry["split"], entry["index"]) for entry in manifest["shards"]]


class TestOutput:
    @pytest.mark.parametrize("name", ["train", "validation"])
    def test_codes_are_those_of_each_crop_by_the_dvae_alone(
        self, name: str, data: Path, tokens: Path, dvae: str
    ) -> None:
        split, model = open_split(str(data), name), open_dvae(dvae)
        pictures = SampleReader(split, 1000)
        for place, shard in enumerate(split.shards):
            codes = np.load(tokens / f"{name}/{shard.index:05d}.npy")
            rows = pq.read_table(tokens / f"{name}/{shard.index:05d}.parquet").to_pylist()
            assert (codes.shape, str(codes.dtype)) == ((len(rows), 2, 4, 4), "uint16")
            bodies = {item.key: item.body for item in pictures.read([place] * shard.count, range(shard.count))}
            for row, grids in zip(rows, codes, strict=True):
                pixels = decode(bodies[row["key"]], 32)
                crops = [prior_view(pixels, 32, random_of("encode", 0, view, row["key"])) for view in range(2)]
                alone = model.encode(torch.from_numpy(np.stack(crops))).numpy()
                np.testing.assert_array_equal(grids, alone)

    def test_rows_are_the_samples_in_their_order(self, data: Path, tokens: Path) -> None:
        small = 0
        for split, index in shards(data):
            theirs = pq.read_table(data / f"{split}/{index:05d}.parquet", columns=["key", "caption"]).to_pylist()
            ours = pq.read_table(tokens / f"{split}/{index:05d}.parquet").to_pylist()
            missing = [row for row in theirs if row not in ours]
            assert ours == [row for row in theirs if row not in missing]
            small += len(missing)
        assert small == 1

    def test_manifest(self, data: Path, tokens: Path, dvae: str, capsys: pytest.CaptureFixture[str]) -> None:
        manifest = json.loads((tokens / "manifest.json").read_text())
        splits, where = manifest["splits"], f"../../{Path(dvae).parent.name}/0000500.pt"
        assert {name: manifest[name] for name in ("format", "kind", "codes", "samples", "funnel", "settings")} == {
            "format": 1,
            "kind": "tokens",
            "codes": {"vocabulary": 64, "views": 2, "grid": 4},
            "samples": 32,
            "funnel": {"rows_read": 33, "success": 32, "too_small": 1},
            "settings": {"dvae": {**open_dvae(dvae).identity(), "path": where}, "views": 2, "seed": 0, "batch_size": 4},
        }
        assert splits in ({"train": 25, "validation": 7}, {"train": 26, "validation": 6})
        told = f"../../{data.name}"
        assert manifest["input"] == [{**open_split(str(data), name).identity(), "path": told} for name in splits]
        assert [(entry["split"], entry["index"]) for entry in manifest["shards"]] == shards(data)
        sums = contents(tokens)
        written = {
            f"{entry['split']}/{name}": told["sha256"]
            for entry in manifest["shards"]
            for name, told in entry["files"].items()
        }
        assert written == {name: sums[name] for name in written}
        assert sorted(sums) == sorted([*written, "plan.json", "manifest.json"])
        for entry in manifest["shards"]:
            marker = json.loads((tokens / f"{entry['split']}/{entry['index']:05d}_stats.json").read_text())
            assert {name: marker[name] for name in ("count", "successes", "files")} == {
                name: entry[name] for name in ("count", "successes", "files")
            }

    def test_the_funnel_is_printed(
        self, data: Path, dvae: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(data, tmp_path / "out", dvae)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[:3] == [["rows_read", "33", "100.0%"], ["success", "32", "97.0%"], ["too_small", "1", "3.0%"]]
        assert lines[3] == ["captions", "and", "codes", "in", f"{tmp_path}/out"]

    def test_an_export_without_a_validation_split(self, dvae: str, tmp_path: Path) -> None:
        data = Path(write_export(tmp_path / "clean", (5, 0)))
        assert run(data, tmp_path / "out", dvae) == 0
        assert json.loads((tmp_path / "out/manifest.json").read_text())["splits"] == {"train": 5}


class TestAgain:
    def test_finished_tokens_are_left_alone(
        self, data: Path, tokens: Path, dvae: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in tokens.rglob("*")}
        assert run(data, tokens, dvae) == 0
        assert capsys.readouterr().out == f"{tokens} is finished: nothing to do\n"
        assert {path: path.stat().st_mtime_ns for path in tokens.rglob("*")} == before

    def test_only_what_is_missing_is_done_again(self, data: Path, tokens: Path, dvae: str) -> None:
        before = contents(tokens)
        others = [tokens / f"{split}/{index:05d}_stats.json" for split, index in shards(data)][1:]
        times = [path.stat().st_mtime_ns for path in others]
        (tokens / "train/00000.npy").write_bytes(b"damaged")
        assert run(data, tokens, dvae) == 0
        assert contents(tokens) == before
        assert [path.stat().st_mtime_ns for path in others] == times

    def test_threads_change_no_byte(self, data: Path, tokens: Path, dvae: str, tmp_path: Path) -> None:
        assert run(data, tmp_path / "out", dvae, "--threads", "3") == 0
        assert contents(tmp_path / "out") == contents(tokens)

    def test_killed_and_started_again_it_ends_with_the_same_bytes(
        self, data: Path, tokens: Path, dvae: str, tmp_path: Path
    ) -> None:
        """The kill comes in the second shard, while its rows are written: its codes are whole under another name.

        It comes to a process of torchrun's, and Beam goes on.
        """
        code = f"""
import os
from gesso import cli
from gesso.training import encoding
written = []
class Deadly(encoding.pq.ParquetWriter):
    def __init__(self, *given, **more):
        written.append(given)
        if len(written) == 2:
            os.kill(os.getpid(), {signal.SIGKILL})
        super().__init__(*given, **more)
encoding.pq.ParquetWriter = Deadly
cli.main({flags(data, tmp_path / "out", dvae)!r})
"""
        environment = {**compiled(), **ALONE}
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
        assert process.returncode == -signal.SIGKILL, process.stderr
        left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert len([name for name in left if name.endswith("_stats.json")]) == 1
        assert [name for name in left if ".tmp-" in name]
        assert "manifest.json" not in left
        assert run(data, tmp_path / "out", dvae) == 0
        assert contents(tmp_path / "out") == contents(tokens)

    @pytest.mark.slow
    def test_beam_s_two_processes_write_the_same_bytes(
        self, data: Path, tokens: Path, dvae: str, tmp_path: Path
    ) -> None:
        beam = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
        command = [sys.executable, "-m", "gesso", *flags(data, tmp_path / "out", dvae), *beam]
        subprocess.run(command, check=True, capture_output=True, env=compiled())
        assert contents(tmp_path / "out") == contents(tokens)


def torchrun(*argv: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run([*command, "-m", "gesso", *argv], capture_output=True, check=False, env=compiled(), text=True)


@pytest.mark.slow
class TestTorchrun:
    def test_it_writes_what_beam_writes(self, data: Path, tokens: Path, dvae: str, tmp_path: Path) -> None:
        process = torchrun(*flags(data, tmp_path / "out", dvae))
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("rows_read") == 1
        assert contents(tmp_path / "out") == contents(tokens)
        (tmp_path / "out/validation/00000_stats.json").unlink()
        process = torchrun(*flags(data, tmp_path / "out", dvae))
        assert process.returncode == 0, process.stderr
        assert contents(tmp_path / "out") == contents(tokens)

    def test_what_is_refused_is_told_once(self, data: Path, tokens: Path, dvae: str) -> None:
        process = torchrun(*flags(data, tokens, dvae, "--seed", "1"))
        assert process.returncode != 0
        assert [line for line in process.stderr.splitlines() if line.startswith("gesso: ")] == [
            f"gesso: {tokens} was begun with other settings: seed was 0, is 1; "
            "give the old ones to go on, or another --output to begin anew"
        ]


class TestOneProcessOfTorchrun:
    """The path without Beam, in this process."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in ALONE.items():
            monkeypatch.setenv(name, value)

    def test_the_same_bytes(self, data: Path, tokens: Path, dvae: str, tmp_path: Path) -> None:
        assert run(data, tmp_path / "out", dvae) == 0
        assert contents(tmp_path / "out") == contents(tokens)

    def test_nothing_to_do(self, data: Path, tokens: Path, dvae: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(data, tokens, dvae) == 0
        assert capsys.readouterr().out == f"{tokens} is finished: nothing to do\n"

    def test_beam_s_flags_mean_nothing(
        self, data: Path, dvae: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(data, tmp_path / "out", dvae, "--runner", "DirectRunner") == 2
        assert "unknown flag --runner: Beam's flags cannot be used under torchrun" in capsys.readouterr().err

    def test_no_beam_is_loaded(self, data: Path, dvae: str, tmp_path: Path) -> None:
        code = (
            f"import sys\nfrom gesso import cli\nassert cli.main({flags(data, tmp_path / 'out', dvae)!r}) == 0\n"
            "assert 'apache_beam' not in sys.modules"
        )
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=compiled())
        assert process.returncode == 0, process.stderr


class TestLook:
    def test_verify_reads_every_file(
        self, data: Path, tokens: Path, dvae: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "out"
        run(data, output, dvae)
        capsys.readouterr()
        assert cli.main(["verify", str(output)]) == 0
        assert capsys.readouterr().out == f"{output}: no problems\n"
        body = bytearray((output / "train/00001.npy").read_bytes())
        body[-1] ^= 1
        (output / "train/00001.npy").write_bytes(body)
        (output / "validation/00000.parquet").unlink()
        assert cli.main(["verify", str(output)]) == 1
        assert capsys.readouterr().out.splitlines() == [
            "train/00001.npy: sha256 differs from manifest.json",
            "validation/00000.parquet: missing",
            f"{output}: 2 problems",
        ]

    def test_an_unfinished_one(self, data: Path, dvae: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "out"
        run(data, output, dvae)
        (output / "manifest.json").unlink()
        (output / "validation/00000_stats.json").unlink()
        capsys.readouterr()
        assert cli.main(["verify", str(output)]) == 1
        assert capsys.readouterr().out.splitlines()[0] == "unfinished: run the same `gesso encode` again"
        assert cli.main(["status", str(output)]) == 0
        line, state = capsys.readouterr().out.splitlines()
        assert line == "26 of 33 images (78.8%)"
        assert state.startswith("stopped since ")

    def test_status(self, tokens: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["status", str(tokens)]) == 0
        assert capsys.readouterr().out.splitlines() == ["33 of 33 images (100.0%)", "finished"]


class TestMistakes:
    """One line, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"shards": "{t}/none"}, "holds no manifest.json: give the --output of a `gesso export`"),
            ({"dvae": "{t}/none"}, "none does not exist: give the --output of a `gesso train dvae`"),
            ({"dvae": "{t}"}, "holds no dVAE: give the --output of a `gesso train dvae`"),
            ({"dvae": "{large}"}, "--dvae has 65,537 codes, and grids hold codes of 16 bits"),
            ({"views": "0"}, "--views is 0: give 1 or more"),
            ({"device": "tpu"}, "--device is 'tpu': give one of auto, cpu, cuda"),
            ({"veiws": "3"}, "unknown flag --veiws (did you mean --views?): `gesso encode --help` lists the flags"),
        ],
    )
    def test_one_line(
        self,
        change: dict[str, str],
        message: str,
        data: Path,
        dvae: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        large = tmp_path / "large.pt"
        write_dvae(large, config=replace(CONFIG, vocabulary=65_537))
        given = {"shards": str(data), "dvae": dvae, "output": str(tmp_path / "out"), **change}
        argv = [item.format(t=tmp_path, large=large) for name, value in given.items() for item in (f"--{name}", value)]
        assert cli.main(["encode", *argv]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("gesso: ")
        assert message in lines[0]
        assert not (tmp_path / "out").exists()

    def test_a_damaged_shard_is_named(self, dvae: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = Path(write_export(tmp_path / "clean", COUNTS))
        tar = data / "validation/00000.tar"
        tar.write_bytes(tar.read_bytes()[:-512])
        assert run(data, tmp_path / "out", dvae) == 2
        assert f"gesso: {tar} has " in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_shard_that_is_damaged_while_it_runs(
        self, data: Path, dvae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The worker's error is the user's line."""
        from gesso.training import encoding

        def cut_off(*given: Any) -> None:
            raise UserError("train/00000.tar ends within sample 1")

        monkeypatch.setattr(encoding, "read", cut_off)
        assert run(data, tmp_path / "out", dvae) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("gesso: train/00000.tar ends within sample 1")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["plan.json"]

    @pytest.mark.parametrize(
        ("more", "what"),
        [
            (("--views", "3"), "views was 2, is 3;"),
            (("--seed", "7", "--batch_size", "9"), "seed was 0, is 7; batch_size"),
        ],
    )
    def test_other_settings(
        self,
        more: tuple[str, ...],
        what: str,
        data: Path,
        tokens: Path,
        dvae: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = contents(tokens)
        assert run(data, tokens, dvae, *more) == 2
        assert f"was begun with other settings: {what}" in capsys.readouterr().err
        assert contents(tokens) == before

    def test_another_dvae(self, data: Path, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(data, tokens, write_dvae(tmp_path / "other.pt", seed=1)) == 2
        error = capsys.readouterr().err
        assert "was begun with other settings: dvae weights_sha256 was '" in error
        assert "seed" not in error

    def test_the_same_weights_elsewhere_are_the_same_dvae(self, data: Path, tokens: Path, tmp_path: Path) -> None:
        assert run(data, tokens, write_dvae(tmp_path / "copy.pt")) == 0

    def test_other_shards(self, tokens: Path, dvae: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(Path(write_export(tmp_path / "clean", COUNTS)), tokens, dvae) == 2
        assert " is not the same train split (" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "message"),
        [("thesis.tex", "already holds thesis.tex"), ("train/00000.npy", "train/00000.npy exists already, without a")],
    )
    def test_a_directory_with_other_things_in_it(
        self, name: str, message: str, data: Path, dvae: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        storage.make_parent(str(tmp_path / name))
        (tmp_path / name).write_text("years of work")
        assert run(data, tmp_path, dvae) == 2
        assert message in capsys.readouterr().err
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]

    def test_the_export_itself_as_output(self, data: Path, dvae: str, capsys: pytest.CaptureFixture[str]) -> None:
        before = contents(data)
        assert run(data, data, dvae) == 2
        assert "holds an export already; `gesso encode` writes tokens" in capsys.readouterr().err
        assert contents(data) == before

    def test_a_worker_with_other_weights(self, data: Path, dvae: str, tmp_path: Path) -> None:
        settings, copy = EncodeSettings(device="cpu"), write_dvae(tmp_path / "dvae.pt")
        identity = encode.open_job(str(tmp_path / "out"), str(data), copy, settings).identity
        open_same(copy, settings, identity)
        write_dvae(tmp_path / "dvae.pt", seed=1)
        with pytest.raises(UserError, match=r"the dVAE in .* differs between this worker and the launcher"):
            open_same(copy, settings, identity)
