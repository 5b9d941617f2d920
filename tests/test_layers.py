"""What the layers promise besides the contracts of `lint-imports` (pyproject.toml): what is loaded and installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("apache_beam", "torch", "faiss", "cv2", "aiohttp", "pyarrow", "numpy", "PIL", "rich", "jinja2", "fsspec")
HEAVY += ("starlette", "uvicorn")
JOBS = [
    f"gesso.pipelines.{name}"
    for name in ("collect.job", "index.job", "embed.job", "match.job", "match.repeats", "export.job")
]


def test_the_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def loaded_by(*modules: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after it has imported `modules`."""
    code = f"import {', '.join(modules)}, sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    ("modules", "loaded"),
    [
        (["gesso.cli"], set()),
        (["gesso.storage", "gesso.flags", "gesso.progress"], set()),
        (["gesso.pipelines.collect.captions"], set()),
        (["gesso.pipelines.status"], set()),
        ([*JOBS, "gesso.pipelines.encode.job"], set()),
        (["gesso.dedup.train", "gesso.dedup.review", "gesso.studio"], set()),
        (["gesso.training.dvae.train", "gesso.training.tokenizer.train", "gesso.training.contrastive.train"], set()),
        (["gesso.generation.generate", "gesso.generation.bundle"], set()),
        (["gesso.evaluation.evaluate"], set()),
        (["gesso.dataset.shards", "gesso.pipelines.verify"], {"pyarrow", "numpy"}),
        (["gesso.pipelines.collect.engine"], {"cv2", "numpy", "aiohttp", "pyarrow", "PIL"}),
    ],
)
def test_what_a_fresh_interpreter_loads(modules: list[str], loaded: set[str]) -> None:
    assert loaded_by(*modules) <= loaded


def test_a_trainer_loads_no_beam() -> None:
    modules = ("dvae.trainer", "contrastive.trainer", "encoding", "tokenizer.bpe", "report")
    assert loaded_by(*(f"gesso.training.{name}" for name in modules)) & {"apache_beam", "faiss", "aiohttp"} == set()


def test_a_collecting_worker_loads_no_torch_and_no_faiss() -> None:
    collect = "gesso.pipelines.collect"
    assert loaded_by(f"{collect}.transforms", f"{collect}.engine") & {"torch", "faiss"} == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that a user installs, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


class TestInstalled:
    def test_the_wheel_holds_gesso_alone(self, wheel: zipfile.ZipFile) -> None:
        tops = {name.split("/")[0] for name in wheel.namelist()}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"gesso"}

    def test_the_wheel_holds_every_module_and_what_they_read(self, wheel: zipfile.ZipFile) -> None:
        folders = ("gesso", "pipelines", "dedup", "training", "generation", "evaluation", "studio")
        listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, check=True, capture_output=True, text=True)
        tracked = [path for path in listed.stdout.split() if not (ROOT / path).is_symlink()]
        expected = {path if path.startswith("gesso/") else f"gesso/{path}" for path in tracked}
        assert {name for name in wheel.namelist() if name.startswith("gesso/")} == expected

    @pytest.mark.parametrize("package", ["training", "pipelines", "dedup", "generation", "evaluation", "studio"])
    def test_a_users_own_folder_of_that_name_is_imported(self, tmp_path: Path, package: str) -> None:
        """The folder has no `__init__.py`, so that a package of its name anywhere on the path would win."""
        (tmp_path / package).mkdir()
        (tmp_path / package / "helpers.py").write_text("print('the user’s')")
        code = f"import gesso.cli, {package}.helpers"
        ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (ran.stdout, ran.stderr) == ("the user’s\n", "")

    def test_torchrun_starts_gesso_in_a_folder_with_a_package_of_that_name(self, tmp_path: Path) -> None:
        for package in ("pipelines", "training", "dedup"):
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").write_text("raise ImportError('not gesso’s')")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "-m", "gesso", "--help"]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=env)
        assert ran.returncode == 0, ran.stderr
        assert "train dvae" in ran.stdout

    def test_a_module_has_one_name(self) -> None:
        """From the checkout's root `import training` would find the folder, and its modules would exist twice."""
        paths = [
            path for path in ROOT.rglob("*.py") if ".venv" not in path.parts and ROOT / "gesso" not in path.parents
        ]
        starts = ("import", "from")
        found = [
            f"{path}: {line}"
            for path in paths
            for line in path.read_text().splitlines()
            if any(
                line.strip().startswith(f"{start} {package}")
                for start in starts
                for package in ("pipelines", "dedup", "training")
            )
        ]
        assert found == []
