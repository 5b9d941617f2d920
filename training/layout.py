"""Names of the files of a training run. Imports nothing."""

RECORD = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS, BEST = "checkpoints", "best.json"
EVALUATIONS = "evaluations"
GRID, CODES, USAGE = "grid.png", "codes.png", "usage.json"  # of a dVAE's evaluation
SAMPLES, CAPTIONS = "samples.png", "samples.json"  # of a prior's evaluation


def evaluation_name(step: int) -> str:
    return f"{EVALUATIONS}/{step:07d}"
