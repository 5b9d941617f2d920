"""What works where no extra is installed, in a process from which every package but gesso's own needs is hidden."""

import subprocess
import sys
from pathlib import Path

import pytest

from gesso import cli
from gesso.training import metrics_file
from tests.datasets import write_dataset
from tests.embeddings import clustered, write_embeddings
from tests.exports import write_export
from tests.pipelines.match.test_repeats import shards  # noqa: F401 - a fixture
from tests.prior_runs import STEPS as PRIOR_STEPS
from tests.prior_runs import write_prior_run
from tests.runs import STEPS, write_run

INSTALLED = ("gesso", "pyarrow", "fsspec", "shtab")  # `dependencies` of pyproject.toml
HIDING = """
import sys
from importlib.machinery import PathFinder

shown = set(sys.argv[1].split(","))


class Hidden:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        found = PathFinder.find_spec(top) if top not in sys.stdlib_module_names and top not in shown else None
        if found and "site-packages" in str(found.origin):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
sys.argv[1:] = sys.argv[2:]
from gesso import cli

sys.exit(cli.main(sys.argv[1:]))
"""


def run(*argv: str, shown: tuple[str, ...] = INSTALLED) -> "subprocess.CompletedProcess[str]":
    """A command where only some packages are installed."""
    command = [sys.executable, "-c", HIDING, ",".join(shown), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help(name: str) -> None:
    ran = run(*name.split(), "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"usage: gesso {name} ")


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_completion(shell: str) -> None:
    ran = run("completion", shell)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(name.split()[-1] in ran.stdout for name in cli.COMMANDS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "raw", 1, 10)
    write_export(folder / "clean", (6, 2))
    write_embeddings(folder / "embeddings", clustered(6, 8, 0), [f"{n:032x}" for n in range(6)], [6])
    write_run(folder / "dvae", until=20)
    write_prior_run(folder / "prior", until=200)
    return folder


@pytest.mark.parametrize("name", ["raw", "clean", "embeddings", "dvae", "prior"])
class TestPlain:
    def test_verify(self, name: str, made: Path) -> None:
        ran = run("verify", f"{made}/{name}")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{made}/{name}: no problems\n", "")

    def test_status(self, name: str, made: Path) -> None:
        ran = run("status", f"{made}/{name}")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert len(ran.stdout.splitlines()) == 2

    def test_watch(self, name: str, made: Path) -> None:
        for kind, steps in (("dvae", STEPS), ("prior", PRIOR_STEPS)):  # without the last step it waits for it
            metrics_file.append(f"{made}/{kind}/metrics.jsonl", steps, {"loss": 1.0})
        ran = run("status", f"{made}/{name}", "--watch")
        assert (ran.returncode, ran.stdout) == (0, "finished\n")
        assert ran.stderr.count("\n") == 1


def test_repair(tmp_path: Path) -> None:
    output = Path(write_dataset(tmp_path / "raw", 1, 10))
    (output / "00000.tar").unlink()
    ran = run("verify", str(output), "--repair", "--yes")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not (output / "manifest.json").exists()


def test_what_is_hidden_is_told_with_its_extra(made: Path) -> None:
    ran = run("report", f"{made}/raw")
    assert ran.returncode == 2
    assert ran.stderr.startswith("gesso: gesso report needs ")
    assert ran.stderr.endswith("pip install '.[collect]' in gesso's checkout\n")


def test_exact_repeats_need_no_faiss(shards: str, tmp_path: Path) -> None:  # noqa: F811
    script = HIDING.replace("top not in shown", "top in shown")
    command = [sys.executable, "-c", script, "faiss,torch,cv2", "repeats", "--shards", shards]
    ran = subprocess.run([*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out/exact.parquet").exists()
