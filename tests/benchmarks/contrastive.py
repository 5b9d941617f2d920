"""`gesso train contrastive` beside open_clip's own training: `python tests/benchmarks/contrastive.py [--updates 40]`.

Both train as commands on the same shards, a model of the same shape, the same batch size, on the same cores and with a
thread or process that reads. open_clip has batch norm and its own tokenizer's 49,408 tokens, gesso group norm, averaged
weights, BPE dropout and the masks of repeats. The table has the median images a second of each one's own log.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from gesso.training.contrastive.model import text_config, vision_config
from gesso.training.contrastive.train import parse
from tests.captioned import write_captioned

RECORD = 10  # updates between two lines of a log
OPEN_CLIP = """
import sys, open_clip
open_clip.add_model_config(sys.argv.pop(1))
from open_clip_train.main import main
main(sys.argv[1:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export = write_captioned(folder / "clean", 100)
        command("gesso", "train", "tokenizer", "--data", export, "--output", str(folder / "tokenizer"))
        what = ("--data", export, "--tokenizer", str(folder / "tokenizer"), "--output", str(folder / "run"))
        flags = (*what, "--preset", given.preset, "--batch_size", str(given.batch_size), "--precision", "fp32")
        rates = {"open_clip": open_clip_rate(folder, flags, given), "gesso": our_rate(folder, flags, given.updates)}
    print(f"{given.preset}, batches of {given.batch_size}, {given.device}")
    for loop, rate in rates.items():
        print(f"{loop:12}{rate:8.1f} images/s{rate / rates['open_clip']:8.2f}")


def our_rate(folder: Path, flags: Sequence[str], updates: int) -> float:
    often = ("--steps", str(updates), "--log_every", str(RECORD), "--workers", "1", "--evaluate_every", "1000000")
    command("gesso", "train", "contrastive", *flags, *often)
    records = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return median(record["images_per_second"] for record in records[1:])


def open_clip_rate(folder: Path, flags: Sequence[str], given: argparse.Namespace) -> float:
    """Images a second of `open_clip_train.main` on the export's shards."""
    config = parse(flags).model
    text = vars(text_config(config)) | {"vocab_size": 49_408}
    shape = {"embed_dim": config.dimension, "vision_cfg": vars(vision_config(config)), "text_cfg": text}
    (folder / "bench-shape.json").write_text(json.dumps(shape))
    last = len(list((folder / "clean/train").glob("*.tar"))) - 1
    samples = given.updates * given.batch_size
    log = command(
        *(sys.executable, "-c", OPEN_CLIP, str(folder / "bench-shape.json"), "--model", "bench-shape"),
        *("--train-data", f"{folder}/clean/train/{{00000..{last:05d}}}.tar", "--dataset-type", "webdataset"),
        *("--train-num-samples", str(samples), "--dataset-resampled", "--epochs", "1", "--warmup", "100"),
        *("--batch-size", str(given.batch_size), "--workers", "1", "--precision", "fp32", "--device", given.device),
        *("--log-every-n-steps", str(RECORD), "--save-frequency", "0", "--logs", str(folder), "--name", "theirs"),
    )
    return median(float(rate) for rate in re.findall(r" ([\d.]+)/s,", log)[1:])


def command(*argv: str) -> str:
    """Runs it; returns what it printed."""
    first = (sys.executable, "-m", "gesso") if argv[0] == "gesso" else argv[:1]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    ran = subprocess.run([*first, *argv[1:]], capture_output=True, text=True, env=environment, check=False)
    if ran.returncode:
        raise SystemExit(ran.stdout + ran.stderr)
    return ran.stdout + ran.stderr


if __name__ == "__main__":
    main()
