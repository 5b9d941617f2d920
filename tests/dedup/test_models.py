"""The interface to all models: the detector and open_clip's, checked against each library's own way to embed."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

from gesso.dedup import detector, models
from gesso.dedup.settings import DetectorConfig, ModelSettings
from gesso.errors import UserError
from gesso.images import Pixels

CONFIG = DetectorConfig(backbone="resnet50", width=0.05, image_size=32, dimension=16)
ROUNDING = 2**-11  # of a float16 below 1


def pixels(seed: int, height: int = 40, width: int = 60) -> Pixels:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return noise.repeat(4, 0).repeat(4, 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("run") / detector.WEIGHTS
    detector.save(detector.build(CONFIG), CONFIG, str(path))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of open_clip's form that is small enough for tests, by its name."""
    config = tmp_path_factory.mktemp("open_clip") / "tiny-test-model.json"
    config.write_text(
        '{"embed_dim": 24,'
        ' "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 24, "patch_size": 8},'
        ' "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 24, "heads": 1, "layers": 1}}'
    )
    open_clip.add_model_config(config)
    return config.stem


@pytest.fixture(scope="module")
def checkpoint(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(open_clip.create_model(tiny).state_dict(), path)
    return path


class TestDetector:
    def test_identity(self, weights: Path) -> None:
        identity = models.open_model(ModelSettings(model=str(weights))).identity
        assert identity | {"sha256": ""} == {
            "name": "detector",
            "pretrained": None,
            "sha256": "",
            "image_size": 32,
            "dimension": 16,
        }
        assert len(identity["sha256"]) == 64

    def test_a_run_and_its_file_are_the_same_model(self, weights: Path) -> None:
        of_file, of_run = (models.open_model(ModelSettings(model=str(path))) for path in (weights, weights.parent))
        assert of_file.identity == of_run.identity

    def test_embeddings_are_the_detectors(self, weights: Path) -> None:
        model = models.open_model(ModelSettings(model=str(weights), device="cpu"))
        batch = np.stack([model.prepare(pixels(seed)) for seed in range(3)])
        found = model.embed(batch)
        assert (found.shape, found.dtype) == ((3, 16), np.float16)
        module, _ = detector.load(str(weights))
        with torch.inference_mode():
            expected = module(torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255).numpy()
        np.testing.assert_allclose(found.astype(np.float32), expected, atol=ROUNDING)
        np.testing.assert_allclose(np.linalg.norm(found.astype(np.float32), axis=1), 1, atol=2e-3)

    def test_weights_of_open_clip_are_refused(self, weights: Path) -> None:
        with pytest.raises(UserError, match="--pretrained openai is for open_clip's models"):
            models.open_model(ModelSettings(model=str(weights), pretrained="openai"))

    def test_a_file_that_is_no_detector(self, tmp_path: Path) -> None:
        (tmp_path / "other.safetensors").write_bytes(b"no weights")
        with pytest.raises(UserError, match=r"other\.safetensors"):
            models.open_model(ModelSettings(model=str(tmp_path / "other.safetensors")))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"none\.safetensors"):
            models.open_model(ModelSettings(model=str(tmp_path / "none.safetensors")))


class TestOpenClip:
    def test_identity(self, tiny: str, checkpoint: Path) -> None:
        identity = models.open_model(ModelSettings(model=tiny, pretrained=str(checkpoint))).identity
        assert identity | {"sha256": ""} == {
            "name": tiny,
            "pretrained": None,
            "sha256": "",
            "image_size": 32,
            "dimension": 24,
        }

    @pytest.mark.parametrize("size", [(40, 60), (60, 40), (32, 32), (20, 90), (301, 207)])
    def test_embeddings_are_open_clips_own(self, tiny: str, checkpoint: Path, size: tuple[int, int]) -> None:
        """Its own model and transform, on the same pixels."""
        model = models.open_model(ModelSettings(model=tiny, pretrained=str(checkpoint), device="cpu"))
        given = pixels(5, *size)
        theirs, _, transform = open_clip.create_model_and_transforms(tiny, pretrained=str(checkpoint))
        with torch.inference_mode():
            expected = theirs.eval().encode_image(transform(Image.fromarray(given))[None], normalize=True).numpy()
        found = model.embed(model.prepare(given)[None])
        np.testing.assert_allclose(found.astype(np.float32), expected, atol=ROUNDING)

    @pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
    def test_every_way_to_resize(self, mode: str) -> None:
        config = {
            "size": (32, 32),
            "resize_mode": mode,
            "interpolation": "bilinear",
            "mean": (0, 0, 0),
            "std": (1, 1, 1),
        }
        transform = open_clip.image_transform(
            (32, 32), False, (0, 0, 0), (1, 1, 1), resize_mode=mode, interpolation="bilinear"
        )
        expected = transform(Image.fromarray(pixels(2)))
        found = models.make_prepare(config)(pixels(2))
        np.testing.assert_array_equal(found, (expected.permute(1, 2, 0) * 255).round().byte().numpy())

    def test_random_weights_are_the_same_every_time(self, tiny: str) -> None:
        first = models.open_model(ModelSettings(model=tiny, pretrained="random"))
        again = models.Model(models.open_clip_backend(tiny, "random"), torch.device("cpu"), "fp32")
        assert first.identity == again.identity
        assert first.identity["pretrained"] == "random"

    def test_random_weights_leave_the_generator_alone(self, tiny: str) -> None:
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        models.open_clip_backend(tiny, "random")
        assert torch.equal(torch.rand(1), expected)

    def test_the_same_weights_in_another_file_are_the_same_model(
        self, tiny: str, checkpoint: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy.pt"
        torch.save({"state_dict": torch.load(checkpoint), "epoch": 3}, copy)
        both = [models.open_model(ModelSettings(model=tiny, pretrained=str(path))) for path in (checkpoint, copy)]
        assert both[0].identity == both[1].identity

    def test_no_weights_must_be_a_wish(self, tiny: str) -> None:
        with pytest.raises(UserError, match="needs weights: give --pretrained and the path of a checkpoint, or random"):
            models.open_model(ModelSettings(model=tiny))

    def test_an_unknown_tag_lists_the_known_ones(self) -> None:
        with pytest.raises(UserError, match="nor a tag of ViT-B-32: give --pretrained and openai, laion400m_e31"):
            models.open_model(ModelSettings(model="ViT-B-32", pretrained="laion"))

    def test_an_unknown_model_lists_similar_names(self) -> None:
        with pytest.raises(
            UserError, match=r"--model ViT-B32 is not a file, a run or a model of open_clip: similar names are ViT-B-32"
        ):
            models.open_model(ModelSettings(model="ViT-B32", pretrained="openai"))

    def test_a_checkpoint_of_another_model(self, tiny: str, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
        with pytest.raises(UserError, match="does not fit tiny-test-model"):
            models.open_model(ModelSettings(model=tiny, pretrained=str(tmp_path / "linear.pt")))

    def test_a_file_that_is_no_checkpoint(self, tiny: str, tmp_path: Path) -> None:
        (tmp_path / "text.pt").write_text("no weights")
        with pytest.raises(UserError, match="does not fit tiny-test-model") as caught:
            models.open_model(ModelSettings(model=tiny, pretrained=str(tmp_path / "text.pt")))
        assert "\n" not in str(caught.value)

    def test_weights_that_cannot_be_fetched(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A tag whose link leads to a closed port of this machine."""
        known = {**open_clip.get_pretrained_cfg("RN50", "yfcc15m"), "url": "http://127.0.0.1:1/rn50.pt", "hf_hub": ""}
        monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: known)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(UserError, match=r"yfcc15m of RN50 cannot be downloaded \(.*refused"):
            models.open_model(ModelSettings(model="RN50", pretrained="yfcc15m"))


class TestDevice:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_cuda_where_there_is_none(self, weights: Path) -> None:
        with pytest.raises(UserError, match="--device is cuda and torch finds no CUDA device here: give --device cpu"):
            models.open_model(ModelSettings(model=str(weights), device="cuda"))

    @pytest.mark.parametrize(("field", "value"), [("device", "tpu"), ("precision", "int8")])
    def test_unknown_names(self, field: str, value: str) -> None:
        with pytest.raises(UserError, match=f"--{field} is '{value}': give one of auto"):
            ModelSettings(**{field: value})

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_half_precision_is_near(self, weights: Path, precision: str) -> None:
        batch = np.stack([pixels(seed, 32, 32) for seed in range(2)])
        full, half = (
            models.open_model(ModelSettings(str(weights), "", "cpu", name)).embed(batch).astype(np.float32)
            for name in ("fp32", precision)
        )
        assert ((full * half).sum(1) > 0.999).all()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda_agrees_with_the_cpu(self, weights: Path) -> None:
        batch = np.stack([pixels(seed, 32, 32) for seed in range(2)])
        cpu, cuda = (
            models.open_model(ModelSettings(str(weights), device=name)).embed(batch) for name in ("cpu", "cuda")
        )
        np.testing.assert_allclose(cpu.astype(np.float32), cuda.astype(np.float32), atol=5e-3)

    def test_numbers_that_are_not_finite_are_an_error(self) -> None:
        identity = {"name": "broken", "dimension": 2}
        parts = models.Backend(nn.Identity(), lambda batch: batch.flatten(1) / 0, lambda given: given, 1, identity)
        with pytest.raises(UserError, match="broken gives numbers that are not finite in fp32: give --precision fp32"):
            models.Model(parts, torch.device("cpu"), "fp32").embed(pixels(1, 4, 4)[None])


def test_a_model_is_open_once(weights: Path) -> None:
    settings = ModelSettings(model=str(weights))
    first = models.open_model(settings)
    assert models.open_model(ModelSettings(model=str(weights))) is first
