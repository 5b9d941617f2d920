"""dVAEs opened for use: runs, checkpoints of both forms, the released files; what is refused."""

import pickle
from pathlib import Path

import dall_e
import pytest
import torch
from torch import Tensor

from gesso.errors import UserError
from gesso.processes import Group
from gesso.training.checkpoint import Checkpoints
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig, Run, TrainSettings
from gesso.training.dvae.weights import open_dvae
from gesso.training.settings import ComputeSettings, LoopSettings

CONFIG = DvaeConfig(image_size=16, vocabulary=6, width=4, input_width=4, blocks=1)
ALONE = Group(0, 1, torch.device("cpu"))


def weights(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return DVAE(CONFIG).state_dict()


def write_run(folder: Path, form: str, steps: tuple[int, ...] = (1, 2), best: int | None = None) -> str:
    """Checkpoints whose averaged weights are those of the step as a seed."""
    checkpoints = Checkpoints(str(folder), ALONE, form, 9)
    settings = Run("", "", "tiny", 1, CONFIG, TrainSettings(), ComputeSettings(), LoopSettings()).record()
    for step in steps:
        tensors = {"model": weights(100 + step), "average": weights(step)}
        checkpoints.save(step, tensors, {"settings": settings})
    checkpoints.wait()
    if best:
        checkpoints.mark_best({"step": best})
    return str(folder)


def same(model: DVAE, state: dict[str, Tensor]) -> bool:
    held = model.state_dict()
    return held.keys() == state.keys() and all(torch.equal(held[name], state[name]) for name in state)


@pytest.mark.parametrize("form", ["whole", "sharded"])
def test_a_run_gives_the_average_of_its_best_else_of_its_last(tmp_path: Path, form: str) -> None:
    model = open_dvae(write_run(tmp_path / "a", form))
    assert model.config == CONFIG
    assert not model.training
    assert same(model, weights(2))
    assert same(open_dvae(write_run(tmp_path / "b", form, best=1)), weights(1))


@pytest.mark.parametrize("name", ["checkpoints/0000001.pt", "checkpoints/0000002.pt"])
def test_a_checkpoint_by_its_name(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path, "whole", best=2)
    assert same(open_dvae(f"{run}/{name}"), weights(int(name[-4])))


def write_released(folder: Path) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(0)
    sizes = {"n_hid": 64, "vocab_size": 512}
    halves = {"encoder": dall_e.Encoder(**sizes), "decoder": dall_e.Decoder(n_init=64, **sizes)}
    for half, module in halves.items():
        torch.save(module, folder / f"{half}.pkl")
    return {half: module.state_dict() for half, module in halves.items()}


def test_the_released_files(tmp_path: Path) -> None:
    halves = write_released(tmp_path)
    model = open_dvae(str(tmp_path))
    assert model.config == DvaeConfig(256, 512, 64, 64, 2)
    assert same(model, {f"{half}.{name}": value for half, state in halves.items() for name, value in state.items()})


class Evil:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__("os").system, (f"touch {self._marker}",)


def test_a_released_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    write_released(tmp_path)
    torch.save(Evil(tmp_path / "ran"), tmp_path / "encoder.pkl")
    with pytest.raises(UserError, match="is not a readable dVAE"):
        open_dvae(str(tmp_path))
    (tmp_path / "encoder.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(UserError, match="is not a readable dVAE"):
        open_dvae(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_released_file_of_old_torch_is_told(tmp_path: Path) -> None:
    write_released(tmp_path)
    torch.save(dall_e.Encoder(n_hid=64, vocab_size=512), tmp_path / "encoder.pkl", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"was saved by a torch before 1\.6"):
        open_dvae(str(tmp_path))


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist: give the --output of a `gesso train dvae`"):
        open_dvae(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no dVAE"):
        open_dvae(str(tmp_path))
    path = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match=r"other\.pt is not a readable dVAE \(KeyError"):
        open_dvae(str(path))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = Path(write_run(tmp_path, "whole", (1,))) / "checkpoints/0000001.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"0000001\.pt is not a readable dVAE"):
        open_dvae(str(tmp_path))
