"""Features are computed once for the same bytes and settings, in blocks that a killed command keeps."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gesso.errors import UserError
from gesso.evaluation import features, models
from gesso.evaluation.features import Features, Model, Told, side_of
from gesso.evaluation.inception import Inception
from gesso.evaluation.pictures import Side, open_side
from tests.evaluations import PHOTOGRAPHS, write_pictures
from tests.inception import QuickInception


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Kept:
    """A folder of features, and how many pictures were computed for it."""

    def __init__(self, output: Path, threads: Executor) -> None:
        self._output, self._threads = output, threads
        self.inception = QuickInception()

    def tell(self, side: Side, radii: tuple[float, ...] = (0.0, 2.0), size: int = 64, resize: str = "clean") -> Told:
        model = models.of_inception(self.inception, resize, 4, self._threads)  # type: ignore[arg-type]
        return Features(str(self._output), size, radii, self._threads).tell(
            side, {"m": model}, False, lambda count: None
        )

    def computed(self) -> int:
        count, self.inception.pictures = self.inception.pictures, 0
        return count


@pytest.fixture
def kept(tmp_path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr(features, "BLOCK", 3)
    return Kept(tmp_path / "out", threads)


def side(path: Path, count: int = 7) -> Side:
    return open_side("reference", write_pictures(path, PHOTOGRAPHS[:count]), 0, "")


def test_the_same_pictures_are_computed_once_wherever_they_are(tmp_path: Path, kept: Kept) -> None:
    first = kept.tell(side(tmp_path / "a"))
    assert kept.computed() == 14
    again = kept.tell(side(tmp_path / "b"))
    assert kept.computed() == 0
    assert again.sha256 == first.sha256
    for key, rows in first.rows.items():
        assert rows.shape == (7, 108)
        np.testing.assert_array_equal(rows, again.rows[key])


def test_what_is_new_is_computed(tmp_path: Path, kept: Kept) -> None:
    given = side(tmp_path / "a")
    kept.tell(given)
    kept.computed()
    kept.tell(given, radii=(0.0, 2.0, 4.0))
    assert kept.computed() == 7
    kept.tell(given, resize="legacy")
    assert kept.computed() == 14
    kept.tell(given, size=32)
    assert kept.computed() == 14
    kept.inception.sha256 = "other"
    kept.tell(given)
    assert kept.computed() == 14


def test_of_a_picture_that_changed_its_block_is_computed(tmp_path: Path, kept: Kept) -> None:
    given = side(tmp_path / "a")
    first = kept.tell(given)
    kept.computed()
    Path(given.pictures[4].name).write_bytes(Path(given.pictures[0].name).read_bytes())
    changed = kept.tell(open_side("reference", given.path, 0, ""))
    assert kept.computed() == 6
    assert changed.sha256 != first.sha256
    np.testing.assert_array_equal(changed.rows["m", 0.0][4], first.rows["m", 0.0][0])
    np.testing.assert_array_equal(changed.rows["m", 0.0][:3], first.rows["m", 0.0][:3])


def test_a_command_that_was_killed_goes_on_with_the_next_block(
    tmp_path: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = side(tmp_path / "a")
    whole = kept.tell(given, radii=(0.0,))
    for path in sorted((tmp_path / "out/features").iterdir()):
        path.unlink()
    kept.computed()
    compute = kept.inception.features

    def killed(pictures: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        if kept.inception.pictures >= 3:
            raise KeyboardInterrupt
        return compute(pictures)

    monkeypatch.setattr(kept.inception, "features", killed)
    with pytest.raises(KeyboardInterrupt):
        kept.tell(given, radii=(0.0,))
    monkeypatch.setattr(kept.inception, "features", compute)
    kept.computed()
    found = kept.tell(given, radii=(0.0,))
    assert kept.computed() == 4
    np.testing.assert_array_equal(found.rows["m", 0.0], whole.rows["m", 0.0])


def test_captions_decide_what_a_ranker_tells(tmp_path: Path, threads: Executor) -> None:
    asked: list[str] = []

    def rows(pictures: list[features.Pixels], captions: list[str]) -> features.Floats:
        asked.extend(captions)
        return np.array([[len(caption)] for caption in captions], np.float32)

    given = side(tmp_path / "a", 2)
    for captions in (("one", "three"), ("one", "three"), ("one", "seven")):
        pictures = (each._replace(captions=(text,)) for each, text in zip(given.pictures, captions, strict=True))
        found = Features(str(tmp_path / "out"), 64, (0.0,), threads).tell(
            Side("x", "pictures", tuple(pictures)), {"r": Model({}, rows, takes_captions=True)}, False, lambda n: None
        )
    assert asked == ["one", "three", "one", "seven"]
    assert found.rows["r", 0.0].tolist() == [[3], [5]]


def test_the_steps_to_inception(tmp_path: Path, kept: Kept) -> None:
    """Blur lowers the contrast of the features, and the mean of a picture stays."""
    told = kept.tell(side(tmp_path / "a"), radii=(0.0, 8.0))
    sharp, soft = told.rows["m", 0.0], told.rows["m", 8.0]
    assert (soft.std(1) < sharp.std(1)).all()
    np.testing.assert_allclose(soft.mean(1), sharp.mean(1), rtol=0.1)


class TestMistakes:
    def test_a_truncated_picture(self, tmp_path: Path, kept: Kept) -> None:
        given = side(tmp_path / "a")
        path = Path(given.pictures[1].name)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(UserError, match=rf"{path.name} is damaged \(png: .*\): replace it, or leave it out"):
            kept.tell(open_side("reference", given.path, 0, ""))

    def test_what_is_no_picture(self, tmp_path: Path, kept: Kept) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a/text.png").write_text("no picture")
        with pytest.raises(UserError, match=r"text.png is damaged \(begins with b'no picture'\)"):
            kept.tell(open_side("reference", str(tmp_path / "a"), 0, ""))

    def test_generated_pictures_of_different_sizes(self, tmp_path: Path, threads: Executor) -> None:
        path = write_pictures(tmp_path / "a", PHOTOGRAPHS[:2])
        write_pictures(tmp_path / "a/zebras", PHOTOGRAPHS[2:3], side=48)
        given = open_side("generated", path, 1, "")
        message = r"zebras/.*.png is 48×48, the first generated picture 64×64: give --size, to which all are cut"
        with pytest.raises(UserError, match=message):
            Features(str(tmp_path / "out"), 64, (0.0,), threads).tell(given, {}, True, lambda count: None)

    def test_a_generated_picture_that_is_not_square(self, tmp_path: Path) -> None:
        (tmp_path / "wide.jpg").write_bytes(PHOTOGRAPHS[0].read_bytes())
        picture = open_side("generated", str(tmp_path), 1, "").pictures[0]
        with pytest.raises(
            UserError, match=r"wide.jpg is \d+×\d+, not square: give --size, to which all are cut and re"
        ):
            side_of(picture)

    def test_damaged_features(self, tmp_path: Path, kept: Kept) -> None:
        given = side(tmp_path / "a")
        kept.tell(given)
        path = next((tmp_path / "out/features").iterdir())
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(UserError, match=rf"{path.name} is damaged \(.*\): remove it, it is computed again"):
            kept.tell(given)


def test_inceptions_batches_are_in_order(tmp_path: Path, threads: Executor) -> None:
    inception: Inception = QuickInception()  # type: ignore[assignment]
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in range(10)]
    found = [models.of_inception(inception, "clean", size, threads).rows(pictures, []) for size in (3, 32)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0][:, 0] * 64, range(10), atol=1e-4)
