"""run.json: what is written, what is read back, which commands continue a run."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from gesso.errors import UserError
from gesso.training import run_record


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run_record.write(str(tmp_path / "run"), "toy", settings={"width": 4}, versions=run_record.versions(["torch"]))
    record = json.loads((tmp_path / "run/run.json").read_text())
    expected = {"format": 1, "kind": "toy", "settings": {"width": 4}, "versions": {"torch": version("torch")}}
    assert list(record.items()) == list(expected.items())
    assert run_record.read(str(tmp_path / "run"), "toy") == expected


def test_a_new_run_has_none(tmp_path: Path) -> None:
    assert run_record.read(str(tmp_path), "toy") == {}


def test_a_run_of_another_kind(tmp_path: Path) -> None:
    run_record.write(str(tmp_path), "other")
    with pytest.raises(UserError) as raised:
        run_record.read(str(tmp_path), "toy")
    assert str(raised.value) == f"{tmp_path} holds a run of another kind, 'other': give another --output"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kind": "toy"}', "\x00"])
def test_a_damaged_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged \(.*\): restore it, or give another --output"):
        run_record.read(str(tmp_path), "toy")


def test_every_difference_of_the_settings_is_named() -> None:
    run_record.check_settings("out", {"a": 1, "b": 2, "steps": 9}, {"a": 1, "b": 2})
    with pytest.raises(UserError) as raised:
        run_record.check_settings("out", {"a": 1, "b": 2}, {"a": 3, "b": 2, "c": "x"})
    assert str(raised.value) == (
        "out was begun with other settings: a was 1, is 3; c was None, is 'x'; give those, or another --output"
    )


def identity(sha256: str, **more: Any) -> dict[str, Any]:
    return {"path": "clean", "manifest_sha256": sha256, **more}


def test_other_samples_are_refused_but_not_a_quarantine() -> None:
    old = {"train": identity("a", quarantined=[]), "validation": identity("b")}
    run_record.check_data("out", {}, old)
    run_record.check_data("out", old, {**old, "train": identity("a", quarantined=["train/00001.tar"])})
    with pytest.raises(UserError) as raised:
        run_record.check_data("out", old, {**old, "validation": identity("c")})
    assert str(raised.value) == (
        "out was begun with other samples for validation, of clean: give that --data, or another --output"
    )
