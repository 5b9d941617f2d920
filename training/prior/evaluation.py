"""How well a prior predicts the validation split: the losses of captions and of images. torch."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gesso.processes import Group
from gesso.training.prior.model import IMAGE_WEIGHT, TEXT_WEIGHT, Prior

Pair = tuple[Tensor, Tensor]  # captions (b, T) and image tokens (b, N), int64


@torch.no_grad()
def evaluate(model: nn.Module, prior: Prior, pairs: Iterable[Pair], group: Group) -> dict[str, float]:
    """Mean losses over all processes' pairs, nats a token: `val_text_loss`, `val_image_loss`, and weighted `val_loss`.

    `model` is what is called, `prior` the model in it. With sharded weights all processes must make the same number of
    passes: those that have fewer pairs add some of no samples.
    """
    totals = torch.zeros(4, dtype=torch.float64, device=group.device)
    for text, codes in pairs:
        nll = model(text, codes)
        counts = prior.counted(text[:, 1:]).sum().double(), totals.new_tensor(codes.numel())
        totals += torch.stack([nll.text.double(), nll.image.double(), *counts])
    text_sum, image_sum, text_tokens, image_tokens = group.total(totals).tolist()
    text_loss, image_loss = text_sum / max(1.0, text_tokens), image_sum / max(1.0, image_tokens)
    mean = TEXT_WEIGHT * text_loss + IMAGE_WEIGHT * image_loss
    return {"val_loss": mean, "val_text_loss": text_loss, "val_image_loss": image_loss}
