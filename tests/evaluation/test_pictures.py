"""What is taken for a side's pictures, and what is refused."""

from pathlib import Path

import pytest

from gesso.errors import UserError
from gesso.evaluation.pictures import annotated, open_side, read
from gesso.storage import Range
from tests import indexes
from tests.evaluations import PHOTOGRAPHS, write_annotations, write_generated, write_pictures
from tests.exports import caption, write_export


def test_a_folder_at_any_depth_less_what_the_evaluation_wrote(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a", PHOTOGRAPHS[:2])
    write_pictures(tmp_path / "a/zebras", PHOTOGRAPHS[2:3])
    write_pictures(tmp_path / "a/evaluation", PHOTOGRAPHS[3:4])
    write_pictures(tmp_path / "a/earlier", PHOTOGRAPHS[4:5])
    (tmp_path / "a/earlier/evaluation.json").write_text("{}")
    (tmp_path / "a/notes.txt").write_text("no picture")
    side = open_side("reference", path, 0, f"{path}/evaluation")
    assert side.kind == "pictures"
    assert [picture.key for picture in side.pictures] == [path.stem for path in PHOTOGRAPHS[:3]]
    assert not side.captioned


def test_a_split_of_an_export(tmp_path: Path) -> None:
    path = write_export(tmp_path / "clean", (12, 5), shard_size=5)
    train, validation = (open_side("reference", f"{path}/{split}", 0, "") for split in ("train", "validation"))
    assert (len(train.pictures), len(validation.pictures)) == (12, 5)
    captions = [one for side in (train, validation) for picture in side.pictures for one in picture.captions]
    assert sorted(captions) == sorted(map(caption, range(17)))
    picture = validation.pictures[0]
    assert read(picture)[:2] == b"\xff\xd8"
    assert picture.name == f"{picture.key}.jpg of {path}/validation/00000.tar"


def test_an_index(tmp_path: Path) -> None:
    tars = indexes.write_sources(tmp_path / "theirs", (3, 2))
    side = open_side("reference", indexes.write_index(tmp_path / "index", tars), 0, "")
    assert (side.kind, [picture.key for picture in side.pictures]) == ("shards", [indexes.key(n) for n in range(5)])
    assert [read(picture) for picture in side.pictures] == [indexes.picture(number) for number in range(5)]
    assert side.pictures[4].captions == ("A picture of number 4 — «ö»",)
    assert side.pictures[4].name == f"{indexes.key(4)} of {tars[1]}"


def test_an_export_is_not_one_of_its_splits(tmp_path: Path) -> None:
    path = write_export(tmp_path / "clean", (6, 2))
    wants = "`gesso evaluate` wants a collection or generated pictures"
    with pytest.raises(UserError, match=f"clean is an export; {wants}: give one of its splits, {path}/train"):
        open_side("reference", path, 0, "")


def test_generated_pictures_in_the_order_of_captions_and_ranks(tmp_path: Path) -> None:
    path = write_generated(tmp_path / "out", PHOTOGRAPHS[:4], ["a dog", "a cat"])
    best, every = (open_side("generated", path, ranks, "") for ranks in (1, 0))
    assert [picture.captions for picture in best.pictures] == [("a dog",), ("a cat",)]
    assert [picture.name for picture in best.pictures] == [f"{path}/0000{index}/00.png" for index in (0, 1)]
    assert len(every.pictures) == 4
    assert (every.kind, every.captioned) == ("generated", True)


class TestMistakes:
    def test_no_pictures(self, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=r"^--reference .* holds no pictures: give a folder of gif, jpeg, jpg, png, webp"
        ):
            open_side("reference", str(tmp_path / "none"), 0, "")

    def test_generation_that_is_not_finished(self, tmp_path: Path) -> None:
        write_pictures(tmp_path / "out/00000", PHOTOGRAPHS[:1])
        (tmp_path / "out/plan.json").write_text('{"kind": "generated"}')
        with pytest.raises(UserError, match="out is not finished: run its `gesso generate` again, it continues"):
            open_side("generated", str(tmp_path / "out"), 1, "")

    @pytest.mark.parametrize("content", ["{", "[]", '{"pictures": [{"file": "a.png"}]}', '{"pictures": 3}'])
    def test_a_damaged_listing(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "generated.json").write_text(content)
        with pytest.raises(UserError, match=r"generated.json is damaged \(.*\): run its `gesso generate` again"):
            open_side("generated", str(tmp_path), 1, "")

    def test_a_generated_picture_is_missing(self, tmp_path: Path) -> None:
        path = write_generated(tmp_path / "out", PHOTOGRAPHS[:2], ["a dog", "a cat"])
        (tmp_path / "out/00001/00.png").unlink()
        with pytest.raises(UserError, match=r"00001/00.png is missing, generated.json lists it: run"):
            open_side("generated", path, 1, "")

    def test_a_truncated_shard(self, tmp_path: Path) -> None:
        path = write_export(tmp_path / "clean", (2, 8))
        tar = tmp_path / "clean/validation/00000.tar"
        tar.write_bytes(tar.read_bytes()[:4096])
        with pytest.raises(UserError, match=r"00000.tar is cut off in \w+.txt: `gesso verify` shows"):
            open_side("reference", f"{path}/validation", 0, "")

    def test_a_picture_that_became_shorter_or_went(self, tmp_path: Path) -> None:
        path = write_pictures(tmp_path / "a", PHOTOGRAPHS[:1])
        picture = open_side("reference", path, 0, "").pictures[0]
        longer = picture._replace(place=Range(picture.place.path, 0, picture.place.size + 7))
        with pytest.raises(UserError, match=r"png is cut off at [\d,]+ of [\d,]+ bytes: restore it"):
            read(longer)
        gone = picture._replace(place=Range(f"{path}/gone.png", 0, 10))
        with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\): restore it"):
            read(gone)


class TestAnnotations:
    def test_captions_by_file_name_in_the_order_of_their_ids(self, tmp_path: Path) -> None:
        path = write_pictures(tmp_path / "a", PHOTOGRAPHS[:2])
        names = [f"{each.stem}.jpg" for each in PHOTOGRAPHS[:3]]
        file = write_annotations(tmp_path / "c.json", {names[0]: ["one", "two"], names[2]: ["three"]})
        side = annotated(open_side("reference", path, 0, ""), file)
        told = {picture.key: picture.captions for picture in side.pictures}
        assert told == {PHOTOGRAPHS[0].stem: ("one", "two"), PHOTOGRAPHS[1].stem: ()}

    def test_of_other_pictures(self, tmp_path: Path) -> None:
        side = open_side("reference", write_pictures(tmp_path / "a", PHOTOGRAPHS[:1]), 0, "")
        file = write_annotations(tmp_path / "c.json", {"other.jpg": ["one"]})
        with pytest.raises(UserError, match=r"--annotations .*c.json names no picture of .*a: give the file of these"):
            annotated(side, file)

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"images": [{"id": 1}], "annotations": []}'])
    def test_in_another_format(self, tmp_path: Path, content: str) -> None:
        side = open_side("reference", write_pictures(tmp_path / "a", PHOTOGRAPHS[:1]), 0, "")
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(UserError, match=r"c.json is not in COCO's format"):
            annotated(side, str(tmp_path / "c.json"))
