"""metrics.jsonl: what is written, what a killed process leaves of it, what a resumed run drops."""

from math import inf, isnan, nan
from pathlib import Path

import pytest

from gesso.errors import UserError
from gesso.training import metrics_file

FIRST, SECOND, THIRD = (b'{"step": %d, "loss": %d.5}\n' % (step, step) for step in (10, 20, 30))
DAMAGED = [
    b'{"step": 40, "lo',
    b"\x00\x00\x00",
    b"\xff\xfe",
    b'{"loss": 1.0}',
    b'{"step": 1.5}',
    b"[40]",
    b'{"step":4,"a":"b"}',
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_record_is_a_line(path: Path) -> None:
    metrics_file.append(str(path), 10, {"loss": 3.25, "epoch": 1})
    metrics_file.append(str(path), 20, {"loss": 3.0})
    assert path.read_bytes() == b'{"step": 10, "loss": 3.25, "epoch": 1}\n{"step": 20, "loss": 3.0}\n'
    assert metrics_file.read(str(path)) == [{"step": 10, "loss": 3.25, "epoch": 1}, {"step": 20, "loss": 3.0}]


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_is_null_and_read_as_nan(path: Path, value: float) -> None:
    metrics_file.append(str(path), 10, {"loss": value, "kl": 2.0})
    assert path.read_bytes() == b'{"step": 10, "loss": null, "kl": 2.0}\n'
    (record,) = metrics_file.read(str(path))
    assert isnan(record.pop("loss"))
    assert record == {"step": 10, "kl": 2.0}


def test_no_file_has_no_records(path: Path) -> None:
    assert metrics_file.read(str(path)) == []
    metrics_file.truncate(str(path), 10)
    assert not path.exists()


@pytest.mark.parametrize("ending", [b"", b"\n"])
@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_last_line_is_passed_over(path: Path, damaged: bytes, ending: bytes) -> None:
    path.write_bytes(FIRST + damaged + ending)
    assert metrics_file.read(str(path)) == [{"step": 10, "loss": 10.5}]


@pytest.mark.parametrize("damaged", [*DAMAGED, b""])
def test_damage_elsewhere_is_told_with_its_line(path: Path, damaged: bytes) -> None:
    path.write_bytes(FIRST + damaged + b"\n" + SECOND)
    for act in (metrics_file.read, lambda name: metrics_file.truncate(name, 10)):
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged"):
            act(str(path))
    assert path.read_bytes() == FIRST + damaged + b"\n" + SECOND


@pytest.mark.parametrize(
    ("step", "kept"), [(0, b""), (10, FIRST), (19, FIRST), (20, FIRST + SECOND), (99, FIRST + SECOND + THIRD)]
)
@pytest.mark.parametrize("left", [b"", b'{"step": 3', b'{"step": 5'])
def test_cut_drops_what_is_behind_a_step(path: Path, step: int, kept: bytes, left: bytes) -> None:
    path.write_bytes(FIRST + SECOND + THIRD + left)
    metrics_file.truncate(str(path), step)
    assert path.read_bytes() == kept
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_cut_keeps_a_whole_line_that_lacks_its_end(path: Path) -> None:
    path.write_bytes(FIRST + SECOND[:-1])
    metrics_file.truncate(str(path), 20)
    metrics_file.append(str(path), 30, {"loss": 30.5})
    assert path.read_bytes() == FIRST + SECOND + THIRD
