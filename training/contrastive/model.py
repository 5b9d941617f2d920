"""open_clip's CLIP of a config, its input, and its loss. torch.

    pixels (b, S, S, 3) uint8 ─ standardise ─▶ (b, 3, S, S) ─ picture tower ─▶ (b, D), norm 1 ─┐
    text   (b, T) int64 ───────────────────────────────────── caption tower ─▶ (b, D), norm 1 ─┴─ products ─▶ loss

b pairs, S image_size, T text_positions, D dimension. Captions are ids as in captions.py.
"""

from typing import Any

import torch
import torch.distributed as dist
from open_clip.constants import OPENAI_DATASET_MEAN as MEAN
from open_clip.constants import OPENAI_DATASET_STD as DEVIATION
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gesso.training.contrastive.captions import ids_of
from gesso.training.contrastive.settings import ContrastiveConfig

MOST_SCALE = 4.6052  # ln 100: the temperature is not less than 0.01 (CLIP paper, section 2.5)
GROUPS = 8  # of group norm


def build(config: ContrastiveConfig) -> Any:
    """A CLIP with initial weights by torch's own random numbers."""
    vision, text = vision_config(config), text_config(config)
    return with_group_norm(CLIP(config.dimension, vision, text))


def vision_config(config: ContrastiveConfig) -> CLIPVisionCfg:
    layers = config.vision_layers if config.tower == "vit" else [config.vision_layers] * 4
    return CLIPVisionCfg(
        image_size=config.image_size,
        layers=layers,
        width=config.vision_width,
        head_width=config.head_size,
        patch_size=config.patch_size,
    )


def text_config(config: ContrastiveConfig) -> CLIPTextCfg:
    """The embedding of a caption is read at its last id, the largest of all."""
    return CLIPTextCfg(
        context_length=config.text_positions,
        vocab_size=ids_of(config.texts),
        width=config.text_width,
        heads=config.text_width // config.head_size,
        layers=config.text_layers,
    )


def with_group_norm(model: nn.Module) -> nn.Module:
    """Group norm in the place of batch norm, whose statistics differ with the number of processes, with its gains."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            norm = nn.GroupNorm(min(GROUPS, module.num_features), module.num_features)
            norm.load_state_dict({"weight": module.weight, "bias": module.bias})
            model.set_submodule(name, norm)
    return model


def standardise(pixels: Tensor) -> Tensor:
    """uint8 (b, S, S, 3) → float32 (b, 3, S, S) by open_clip's mean and deviation; the memory stays channels last."""
    mean, deviation = (255 * torch.tensor(each, device=pixels.device) for each in (MEAN, DEVIATION))
    return ((pixels.float() - mean) / deviation).permute(0, 3, 1, 2)


class Loss(ClipLoss):
    """open_clip's loss over all processes' pairs, without what would be a false negative."""

    def forward(self, pictures: Tensor, captions: Tensor, scale: Tensor, same: Tensor) -> Tensor:
        """The mean loss of this process's pairs, nats; the mean of all processes' is that of the batch.

        `pictures` and `captions`: float32 (b, D), norm 1. `same`: int64 (b, 2), each pair's picture and caption by
        hash. A pair with the same picture or the same caption as another is no counterexample to it.
        """
        by_picture, by_caption = self.get_logits(pictures, captions, scale)
        labels = self.get_ground_truth(pictures.device, len(by_picture))
        repeats = self._repeats(same, labels)
        losses = [cross_entropy(each.masked_fill(repeats, -torch.inf), labels) for each in (by_picture, by_caption)]
        return (losses[0] + losses[1]) / 2

    def _repeats(self, same: Tensor, labels: Tensor) -> Tensor:
        """Which of all processes' pairs repeat each of this process's, itself apart: bool (b, all)."""
        gathered = torch.cat(self._gather(same))
        repeats = (same[:, None] == gathered[None]).any(2)
        return repeats.scatter_(1, labels[:, None], False)

    def _gather(self, values: Tensor) -> list[Tensor]:
        """Those of all processes."""
        if self.world_size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values)
        return gathered


def build_loss(rank: int, processes: int) -> Loss:
    """Each process computes the rows of its own pairs; gradients flow to the pairs of all."""
    return Loss(local_loss=True, gather_with_grad=True, rank=rank, world_size=processes)
