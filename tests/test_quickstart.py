"""The command that README promises to a new user."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_quickstart() -> None:
    done = subprocess.run([sys.executable, "examples/quickstart.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Look at {ROOT}/quickstart/raw/report.html" in done.stdout
    assert (ROOT / "quickstart/raw/report.html").exists()
    assert json.loads((ROOT / "quickstart/raw/manifest.json").read_text())["funnel"] == {
        "rows_read": 493,
        "success": 257,
        "repeat_pair": 12,
        "aspect_ratio": 10,
        "caption_boilerplate": 5,
        "caption_not_english": 122,
        "caption_too_short": 24,
        "http_404": 4,
        "http_500": 4,
        "not_an_image": 4,
        "redirects": 4,
        "timeout": 4,
        "too_small": 38,
        "undecodable": 4,
        "url_invalid": 1,
    }
