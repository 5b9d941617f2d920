"""The model against open_clip's own, the loss against its formula, with and without pairs that repeat each other."""

from dataclasses import replace

import pytest
import torch
from open_clip.loss import ClipLoss
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor, nn

from gesso.errors import UserError
from gesso.training.contrastive.counting import needed_bytes, parameters
from gesso.training.contrastive.model import build, build_loss, standardise
from gesso.training.contrastive.settings import PRESETS, ContrastiveConfig
from gesso.training.contrastive.train import parse
from tests.contrastive import square

SMALL = ContrastiveConfig(
    image_size=32,
    patch_size=8,
    vision_width=32,
    vision_layers=1,
    text_positions=8,
    text_width=32,
    text_layers=1,
    head_size=16,
    dimension=24,
    texts=50,
)
RESNET = replace(SMALL, tower="resnet", vision_width=16)
SCALE = torch.tensor(10.0)


def embeddings(count: int, seed: int) -> Tensor:
    return nn.functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def all_different(count: int) -> Tensor:
    return torch.arange(2 * count).view(count, 2)


@pytest.mark.parametrize("config", [SMALL, RESNET], ids=["vit", "resnet"])
class TestModel:
    def test_embeddings_have_norm_1(self, config: ContrastiveConfig) -> None:
        pixels, text = torch.zeros(3, 32, 32, 3, dtype=torch.uint8), torch.zeros(3, 8, dtype=torch.int64)
        pictures, captions, scale = build(config)(standardise(pixels), text)
        for found in (pictures, captions):
            assert found.shape == (3, 24)
            torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
        assert float(scale.detach()) == pytest.approx(1 / 0.07)

    def test_a_caption_is_read_up_to_its_end(self, config: ContrastiveConfig) -> None:
        """Ids behind the end, 51, change nothing; one before it does."""
        torch.manual_seed(0)
        model = build(config).eval()
        text = torch.tensor([[50, 7, 8, 51, 0, 0, 0, 0], [50, 7, 8, 51, 3, 4, 5, 6], [50, 7, 9, 51, 0, 0, 0, 0]])
        found = model.encode_text(text, normalize=True)
        torch.testing.assert_close(found[0], found[1])
        assert not torch.allclose(found[0], found[2], atol=1e-3)

    def test_a_picture_is_encoded_alike_in_any_batch(self, config: ContrastiveConfig) -> None:
        """In training, too: there are no statistics of a batch."""
        torch.manual_seed(0)
        model, pixels = build(config).train(), torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
        together, alone = model.encode_image(standardise(pixels)), model.encode_image(standardise(pixels[:1]))
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)
        assert not list(model.buffers(recurse=True))[1:]  # the causal mask alone

    def test_parameters(self, config: ContrastiveConfig) -> None:
        model = build(config)
        assert parameters(model)["tokens"] == 52 * 32
        assert sum(parameters(model).values()) == sum(value.numel() for value in model.parameters())


def test_group_norm_keeps_what_open_clip_starts_from() -> None:
    """CLIP's residual branches begin at 0."""
    last = build(RESNET).visual.layer1[0].bn3
    assert isinstance(last, nn.GroupNorm)
    assert (last.num_groups, last.num_channels) == (4, 64)
    assert not last.weight.any()


def test_pixels_are_standardised_as_open_clips_transform_does_it() -> None:
    pixels = square(0)
    theirs = image_transform(40, is_train=False)(Image.fromarray(pixels))
    torch.testing.assert_close(standardise(torch.from_numpy(pixels)[None])[0], theirs)


class TestLoss:
    def test_of_pairs_without_repeats_it_is_open_clips(self) -> None:
        given = embeddings(6, 0), embeddings(6, 1), SCALE
        torch.testing.assert_close(build_loss(0, 1)(*given, all_different(6)), ClipLoss()(*given))

    @pytest.mark.parametrize("column", [0, 1], ids=["the same picture", "the same caption"])
    def test_pairs_that_repeat_are_no_counterexamples(self, column: int) -> None:
        """Each row of the softmax lacks the other pair of the two: by the formula, row by row."""
        pictures, captions, same = embeddings(4, 0), embeddings(4, 1), all_different(4)
        same[3, column] = same[1, column]
        logits = SCALE * pictures @ captions.T
        others = {0: [0, 1, 2, 3], 1: [0, 1, 2], 2: [0, 1, 2, 3], 3: [0, 2, 3]}
        rows = [
            (each[row, kept].logsumexp(0) - each[row, row])
            for each in (logits, logits.T)
            for row, kept in others.items()
        ]
        torch.testing.assert_close(build_loss(0, 1)(pictures, captions, SCALE, same), torch.stack(rows).mean())

    def test_a_repeat_gets_no_gradient_from_its_twin(self) -> None:
        pictures, same = embeddings(2, 0).requires_grad_(), torch.tensor([[1, 2], [1, 3]])
        build_loss(0, 1)(pictures, embeddings(2, 1), SCALE, same).backward()
        assert not pictures.grad.any()  # type: ignore[union-attr]


def test_tiny_has_at_most_two_and_a_half_million_parameters() -> None:
    shape = {name: value for name, value in PRESETS["tiny"].items() if name in ContrastiveConfig.__dataclass_fields__}
    model = build(ContrastiveConfig(**shape, texts=4096))  # type: ignore[arg-type]
    assert sum(parameters(model).values()) <= 2_500_000


def test_the_default_shape_is_that_of_vit_b_16() -> None:
    with torch.device("meta"):
        assert sum(value.numel() for value in build(ContrastiveConfig(texts=49_406)).parameters()) == 149_620_737


def test_memory_grows_with_the_batch_and_shrinks_with_bf16_and_recomputing() -> None:
    def needed(*more: str) -> float:
        return needed_bytes(parse(["--preset", "base", "--data", "d", "--tokenizer", "t", "--output", "o", *more]), 1)

    assert needed("--batch_size", "256") < needed("--batch_size", "512") < needed("--precision", "fp32")
    assert needed("--batch_size", "512", "--recompute") < needed("--batch_size", "512") / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 30}, "--image_size is 30: give a multiple of 8"),
        ({"tower": "resnet", "image_size": 48}, "--image_size is 48: give a multiple of 32"),
        ({"tower": "cnn"}, "--tower is 'cnn': give one of vit, resnet"),
        ({"text_width": 40}, "--text_width is 40: give a multiple of 16"),
        ({"vision_width": 40}, "--vision_width is 40: give a multiple of 16"),
        ({"text_positions": 2}, "--text_positions is 2: give 3 to 256"),
        ({"dimension": 0}, "--dimension is 0: give 1 or more"),
    ],
)
def test_shapes_that_do_not_work(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(SMALL, **change)  # type: ignore[arg-type]
    assert message in str(caught.value)
