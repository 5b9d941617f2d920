"""Checkpoints: whole and sharded, kept and deleted, damaged, cut off, and a disk that is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from gesso import storage
from gesso.errors import UserError
from gesso.processes import Group
from gesso.training import checkpoint
from gesso.training.checkpoint import Checkpoints, Tensors

ALONE = Group(0, 1, torch.device("cpu"))
FORMS = ("whole", "sharded")


def tensors(value: float) -> Tensors:
    return {"model": {"a": torch.full((2, 3), value), "b": torch.tensor(value)}, "average": {"a": torch.ones(2, 3)}}


def saved(folder: Path, form: str, steps: list[int], keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(str(folder), ALONE, form, keep)
    for step in steps:
        checkpoints.save(step, tensors(float(step)), {"step": step, "counts": torch.arange(3)})
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_comes_back(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path, form, [5]).latest()
    assert path == f"{tmp_path}/checkpoints/0000005{'.pt' if form == 'whole' else ''}"
    target = tensors(0.0)
    numbers = checkpoint.load(path, target)
    assert numbers["step"] == 5
    assert numbers["counts"].tolist() == [0, 1, 2]
    assert target["model"]["a"].tolist() == [[5.0] * 3] * 2
    assert float(target["model"]["b"]) == 5


@pytest.mark.parametrize("form", FORMS)
def test_the_state_may_change_while_it_is_written(tmp_path: Path, form: str) -> None:
    checkpoints, state = Checkpoints(str(tmp_path), ALONE, form, 1), tensors(1.0)
    checkpoints.save(1, state, {})
    state["model"]["a"].zero_()
    checkpoints.wait()
    target = tensors(0.0)
    checkpoint.load(checkpoints.latest() or "", target)
    assert target["model"]["a"].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("form", FORMS)
def test_the_last_and_the_best_are_kept(tmp_path: Path, form: str) -> None:
    checkpoints, best = saved(tmp_path, form, [1]), {"step": 1, "val_nats_per_dim": 2.5}
    for step in (2, 3, 4, 5):
        checkpoints.save(step, tensors(1.0), {}, best)
    checkpoints.wait()
    assert list(checkpoint.list_checkpoints(str(tmp_path))) == [1, 4, 5]
    assert checkpoint.best_checkpoint(str(tmp_path)) == checkpoint.list_checkpoints(str(tmp_path))[1]
    assert storage.read_json(f"{tmp_path}/checkpoints/best.json") == {"step": 1, "val_nats_per_dim": 2.5}


def test_only_a_checkpoint_that_exists_is_marked_as_the_best(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "whole", [1])
    checkpoints.mark_best({"step": 2, "val_nats_per_dim": 2.5})
    assert checkpoint.best_checkpoint(str(tmp_path)) is None
    checkpoints.mark_best({"step": 1, "val_nats_per_dim": 2.5})
    assert checkpoint.best_checkpoint(str(tmp_path)) == checkpoints.latest()


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_note_of_the_best_is_named(tmp_path: Path, text: str) -> None:
    saved(tmp_path, "whole", [1])
    (tmp_path / "checkpoints/best.json").write_text(text)
    with pytest.raises(UserError, match=r"best\.json is damaged .*: remove it to use the last checkpoint"):
        checkpoint.best_checkpoint(str(tmp_path))


def test_either_form_is_read_where_both_stand(tmp_path: Path) -> None:
    saved(tmp_path, "whole", [1], keep=9)
    assert saved(tmp_path, "sharded", [2], keep=9).latest() == f"{tmp_path}/checkpoints/0000002"
    assert list(checkpoint.list_checkpoints(str(tmp_path))) == [1, 2]


def test_what_a_killed_run_left_is_no_checkpoint_and_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / "0000007.tmp").mkdir(parents=True)
    (folder / "0000008.pt.tmp-0123456789ab").write_bytes(b"half")
    assert checkpoint.list_checkpoints(str(tmp_path)) == {}
    Checkpoints(str(tmp_path), ALONE, "whole", 1)
    assert list(folder.iterdir()) == []


@contextmanager
def full_disk(path: str) -> Iterator[IO[bytes]]:
    """A file on a disk that takes a hundred bytes more."""

    class Full:
        room = 100

        def write(self, data: bytes) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device", path)
            return len(data)

        def flush(self) -> None:
            """torch asks for it."""

    yield Full()  # type: ignore[misc]


def test_a_full_disk_is_told_with_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, "whole", [1])
    monkeypatch.setattr(storage, "write_whole", full_disk)
    checkpoints.save(2, tensors(2.0), {})
    with pytest.raises(
        UserError, match=rf"No space left on device\): the last good checkpoint is {tmp_path}.*0000001\.pt"
    ):
        checkpoints.wait()
    assert list(checkpoint.list_checkpoints(str(tmp_path))) == [1]


def test_it_is_told_at_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "write_whole", full_disk)
    checkpoints = Checkpoints(str(tmp_path), ALONE, "whole", 1)
    checkpoints.check()
    checkpoints.save(2, tensors(2.0), {})
    checkpoints.close()
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        checkpoints.check()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"a": torch.zeros(3, 3), "b": torch.tensor(0.0)}, r"the shape \(2, 3\) for model a, expected \(3, 3\)"),
        ({"c": torch.zeros(1)}, r"nothing for model c, expected \(1,\)"),
    ],
)
def test_another_model_does_not_fit(tmp_path: Path, change: dict[str, Tensor], told: str) -> None:
    path = saved(tmp_path, "whole", [1]).latest() or ""
    with pytest.raises(UserError, match=f"does not fit: it holds {told}"):
        checkpoint.load(path, {"model": change})


@pytest.mark.parametrize("length", [0, 10, 500])
def test_a_damaged_file_is_named(tmp_path: Path, length: int) -> None:
    path = Path(saved(tmp_path, "whole", [1]).latest() or "")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"0000001\.pt cannot be read .*: remove it to continue from the one before"):
        checkpoint.load(str(path), tensors(0.0))


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "numbers.pt"])
def test_a_damaged_share_is_named(tmp_path: Path, name: str) -> None:
    path = Path(saved(tmp_path, "sharded", [1]).latest() or "")
    (path / name).write_bytes((path / name).read_bytes()[:20])
    with pytest.raises(UserError, match=r"0000001 cannot be read .*: remove it to continue from the one before"):
        checkpoint.load(str(path), tensors(0.0))


def test_a_full_disk_leaves_no_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, "sharded", [1])

    def full(*_: object, **__: object) -> None:
        raise CheckpointException("write", {0: (OSError(errno.ENOSPC, "No space left on device"), None)})  # type: ignore[dict-item]

    monkeypatch.setattr(checkpoint, "save_distributed", full)
    checkpoints.save(2, tensors(2.0), {})
    with pytest.raises(UserError, match=r"No space left on device\): the last good checkpoint is .*0000001$"):
        checkpoints.wait()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0000001"]
