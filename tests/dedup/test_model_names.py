"""Names of models, refused before torch and open_clip are loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from gesso.dedup.model_names import check_name, is_detector, open_clip_names
from gesso.errors import UserError


def test_open_clips_own_names() -> None:
    code = (
        "from gesso.dedup.model_names import open_clip_names\nfound = open_clip_names()\n"
        "import open_clip\nprint(len(found) > 50, found == sorted(open_clip.list_models()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True True\n"
    )
    import open_clip

    assert open_clip_names() == sorted(open_clip.list_models())


@pytest.mark.parametrize(
    ("name", "detector"), [("detector", True), ("x/model.safetensors", True), (".", True), ("ViT-B-32", False)]
)
def test_what_is_a_detector(name: str, detector: bool) -> None:
    assert is_detector(name) == detector


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/none.safetensors", "--model runs/none.safetensors: there is no such file"),
        ("ViT-B32", "--model ViT-B32 is not a file, a run or a model of open_clip: similar names are ViT-B-32"),
    ],
)
def test_what_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_name(name)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("flags", [["--model", "ViT-B32"], ["--device", "cuda"], ["--device", "gpu"]])
def test_nothing_heavy_is_loaded_for_a_refusal(flags: list[str], tmp_path: Path) -> None:
    """`--device cuda` is refused so where there is no driver."""
    code = (
        "import sys\nfrom gesso import cli, devices\ndevices.has_cuda_driver = lambda: False\n"
        f"code = cli.main(['embed', '--shards', 'raw', '--output', {str(tmp_path / 'out')!r}, *{flags!r}])\n"
        "print(code, *[name for name in ('torch', 'open_clip', 'apache_beam', 'cv2') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "2\n"
    assert ran.stderr.startswith(f"gesso: {flags[0]} ")
    assert len(ran.stderr.splitlines()) == 1
