"""The model that gesso ships: whole, small, and it has learned colours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gesso import cli
from gesso.generation.models import open_models, shipped
from gesso.generation.ranker import open_ranker

CPU = torch.device("cpu")
MOST_BYTES = 30_000_000


def test_it_is_whole_and_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", shipped()]) == 0
    assert capsys.readouterr().out.endswith("no problems\n")
    assert sum(path.stat().st_size for path in Path(shipped()).iterdir()) <= MOST_BYTES


def test_its_parts_fit_each_other() -> None:
    models, ranker = open_models("", "", CPU, "auto"), open_ranker(shipped(), "", CPU)
    assert models.bundle == shipped()
    assert models.grid == models.dvae.config.grid == 15
    assert ranker.embed_captions(["a red apple"]).shape == (1, 128)


@pytest.mark.parametrize(("caption", "channel"), [("a red apple", 0), ("a green tree", 1), ("a blue heart", 2)])
def test_colours(tmp_path: Path, caption: str, channel: int) -> None:
    assert cli.main(["generate", caption, "--n", "16", "--keep", "1", "--output", str(tmp_path / "out")]) == 0
    entry = json.loads((tmp_path / "out/generated.json").read_text())["pictures"][0]
    pixels = np.asarray(Image.open(tmp_path / "out" / entry["file"]), np.int64)
    painted = pixels[pixels.min(2) < 200]
    assert len(painted) > 1000
    assert painted.mean(0).argmax() == channel
