"""Parameters of a contrastive model, and the memory of its training. torch."""

from typing import Any

import torch
from torch import nn

from gesso.processes import kept_bytes
from gesso.training.contrastive.model import build
from gesso.training.contrastive.settings import Run

KEPT = 5  # weights, their average, gradients and two moments, in float32


def parameters(model: Any) -> dict[str, int]:
    """How many parameters encode pictures and captions; embeddings of tokens apart."""
    pictures, embedding = (count(module) for module in (model.visual, model.token_embedding))
    return {"pictures": pictures, "captions": count(model) - pictures - embedding, "tokens": embedding}


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def needed_bytes(run: Run, processes: int) -> float:
    """Bytes of one of so many processes: weights and what belongs to them, and the activations of its pairs."""
    config, pairs = run.model, run.training.batch_size // processes
    with torch.device("meta"):
        model = build(config)
        model.set_grad_checkpointing(run.compute.recompute)
        side = config.image_size
        inputs = torch.empty(1, 3, side, side), torch.zeros(1, config.text_positions, dtype=torch.int64)
        kept = kept_bytes(model, *inputs)
    width = 0.5 if run.compute.precision == "bf16" else 1.0
    return KEPT * 4 * count(model) + width * kept * pairs
