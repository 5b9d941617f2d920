"""The detector's model and file: unit vectors, no batch statistics, the same function after saving and loading."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gesso.dedup import detector
from gesso.dedup.settings import DetectorConfig
from gesso.errors import UserError

SMALL = DetectorConfig(width=0.125, image_size=64, dimension=16)
LITE = DetectorConfig(backbone="efficientnet_lite0", image_size=64, dimension=16)


def pictures(count: int, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def built(config: DetectorConfig) -> detector.Detector:
    torch.manual_seed(0)
    return detector.build(config)


@pytest.mark.parametrize("config", [SMALL, LITE], ids=lambda config: config.backbone)
class TestBoth:
    """What holds for either backbone."""

    def test_embeddings_are_unit_vectors(self, config: DetectorConfig) -> None:
        embedded = built(config)(pictures(3))
        assert embedded.shape == (3, 16)
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))

    def test_a_picture_is_embedded_as_if_alone_in_training_too(self, config: DetectorConfig) -> None:
        model, batch = built(config).train(), pictures(4)
        torch.testing.assert_close(model(batch)[2:3], model(batch[2:3]), atol=1e-5, rtol=1e-4)
        assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def test_every_parameter_learns(self, config: DetectorConfig) -> None:
        model = built(config)
        for _ in range(2):  # a residual branch begins as nothing, and what is in it learns from the second update on
            model.zero_grad()
            (model(pictures(2)) * torch.arange(16)).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
        still = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
        assert still == []

    def test_saved_and_loaded(self, config: DetectorConfig, tmp_path: Path) -> None:
        model = built(config)
        detector.save(model, config, str(tmp_path / "a.safetensors"))
        detector.save(model, config, str(tmp_path / "b.safetensors"))
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
        loaded, shape = detector.load(str(tmp_path / "a.safetensors"))
        assert shape == config
        assert not loaded.training
        assert not [name for name, _ in loaded.named_modules() if "parametrizations" in name]
        model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
        torch.testing.assert_close(loaded(pictures(2)), model.eval()(pictures(2)), atol=1e-5, rtol=1e-4)

    def test_initialised_with_a_detector(self, config: DetectorConfig, tmp_path: Path) -> None:
        model = built(config)
        detector.save(model, config, str(tmp_path / detector.WEIGHTS))
        torch.manual_seed(1)
        other = detector.build(config)
        detector.initialise(other, config, str(tmp_path))
        assert {name: value.half().tolist() for name, value in other.state_dict().items()} == {
            name: value.half().tolist() for name, value in model.state_dict().items()
        }
        assert all(parameter.requires_grad for parameter in other.parameters())


def test_a_detector_of_another_shape_is_no_beginning(tmp_path: Path) -> None:
    path = str(tmp_path / "a.safetensors")
    detector.save(built(LITE), LITE, path)
    with pytest.raises(UserError, match="is efficientnet_lite0 with 16 dimensions: give these flags, too"):
        detector.initialise(built(SMALL), SMALL, path)


def test_the_papers_backbone_has_resnet_50s_layers() -> None:
    with torch.device("meta"):
        model = detector.resnet50(DetectorConfig())[0]
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 53
    assert all(hasattr(module, "parametrizations") for module in convolutions)
    assert max(max(module.stride) for module in convolutions if module.kernel_size == (3, 3)) == 1
    assert sum(module.weight.numel() for module in convolutions) == 23_454_912


def with_batch_norm() -> Any:
    torch.manual_seed(1)
    source = detector.lite0_with_batch_norm()
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    return source.eval()


def test_batch_norm_is_absorbed_without_a_change(tmp_path: Path) -> None:
    source = with_batch_norm()
    renamed = {f"_block.{name}": value for name, value in source.state_dict().items()}
    torch.save({**renamed, "_fc.weight": torch.zeros(10, 1280), "_fc.bias": torch.zeros(10)}, tmp_path / "weights.pth")
    model = built(LITE)
    detector.load_backbone(model, str(tmp_path / "weights.pth"))
    torch.testing.assert_close(model.backbone(pictures(2)), source(pictures(2)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("content", [b"no weights", None])
def test_weights_that_do_not_fit(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pth"
    if content:
        path.write_bytes(content)
    else:
        torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"weights\.pth is not a state dict of the backbone"):
        detector.load_backbone(built(LITE), str(path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"backbone": "vgg"}, "--backbone is 'vgg'"),
        ({"image_size": 100}, "--image_size is 100: give a multiple of 32"),
        ({"width": 0.0}, "--width is 0.0: give 0.05 or more"),
        ({"dimension": 0}, "--dimension is 0: give 1 or more"),
    ],
)
def test_shapes_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DetectorConfig(**changed)


@pytest.mark.parametrize("content", [b"", b"no weights at all", None])
def test_files_that_hold_no_detector(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "detector.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"detector\.safetensors holds no detector"):
        detector.load(str(tmp_path if content else path))


def test_a_picture_is_squeezed_whole() -> None:
    pixels = np.arange(40 * 80 * 3, dtype=np.uint8).reshape(40, 80, 3)
    expected = pixels.reshape(20, 2, 20, 4, 3).mean((1, 3))
    assert np.abs(detector.prepare(pixels, 20) - expected).max() <= 0.5


class TestShipped:
    """The small detector that comes with gesso."""

    def test_altered_copies_are_nearest_to_their_own_picture(self) -> None:
        model, config = detector.load()
        folder = Path(__file__).parents[2] / "examples/pictures/files"
        whole = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in sorted(folder.glob("*.jpg"))[:40]]
        altered = [pixels[len(pixels) // 10 :, ::-1] for pixels in whole]  # cut above, and flipped
        plain, copies = (self.embed(model, config, pixels) for pixels in (whole, altered))
        assert (plain @ copies.T).argmax(1).tolist() == list(range(40))

    def embed(self, model: detector.Detector, config: DetectorConfig, whole: list[Any]) -> Tensor:
        squares = np.stack([detector.prepare(np.ascontiguousarray(pixels), config.image_size) for pixels in whole])
        with torch.inference_mode():
            return model(torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255)
