"""What an exclusion leaves out of both sides, and files that are none."""

import json
from pathlib import Path

import pytest

from gesso.errors import UserError
from gesso.evaluation.overlap import check_captions, exclude, notes, read_exclusions
from gesso.evaluation.pictures import Picture, Side
from gesso.storage import Range
from tests.evaluations import write_exclusion


def picture(key: str, *captions: str) -> Picture:
    return Picture(key, key, Range(key, 0, 1), captions)


REFERENCE = Side(
    "coco", "pictures", (picture("a", "a dog", "one dog"), picture("b", "a cat"), picture("c", "a dog"), picture("d"))
)
GENERATED = Side("out", "generated", tuple(picture("00", text) for text in ("one  dog ", "a dog", "a cat")))


def test_a_reference_goes_with_what_was_generated_for_its_captions() -> None:
    """`a dog` describes c too, but one of its references was seen in training. Blanks do not count."""
    kept = exclude(frozenset({"a"}), GENERATED, REFERENCE, "x.json")
    assert kept.reference.tolist() == [False, True, True, True]
    assert kept.generated.tolist() == [False, False, True]
    assert list(notes(frozenset({"a"}), GENERATED, REFERENCE)) == []


def test_pictures_that_were_not_generated_for_captions_stay() -> None:
    side = Side("real", "shards", GENERATED.pictures)
    assert exclude(frozenset({"a"}), side, REFERENCE, "x.json").generated.all()
    assert "left out of the references alone" in next(notes(frozenset({"a"}), side, REFERENCE))


def test_an_empty_list_leaves_nothing_out() -> None:
    kept = exclude(frozenset(), GENERATED, REFERENCE, "x.json")
    assert kept.reference.all()
    assert kept.generated.all()


def test_keys_of_other_references_are_counted() -> None:
    told = list(notes(frozenset({"a", "x", "y"}), GENERATED, REFERENCE))
    assert told == ["2 of the 3 references that --exclude names are not in coco."]


def test_a_list_that_names_none_of_the_references() -> None:
    message = r"--exclude x.json names none of the 4 references \(it has y, they have a\): give the list of this"
    with pytest.raises(UserError, match=message):
        exclude(frozenset({"y", "z"}), GENERATED, REFERENCE, "x.json")


class TestRead:
    def test_the_file_of_an_export(self, tmp_path: Path) -> None:
        assert read_exclusions(write_exclusion(tmp_path / "coco_overlap.json", ["b", "a"])) == {"a", "b"}

    @pytest.mark.parametrize("value", [[], {"leave_out": ["a"]}, {"kind": "left_out", "leave_out": [1]}])
    def test_another_file(self, tmp_path: Path, value: object) -> None:
        (tmp_path / "x.json").write_text(json.dumps(value))
        with pytest.raises(UserError, match=r"x.json lists no references to leave out: give the coco_overlap.json of"):
            read_exclusions(str(tmp_path / "x.json"))

    def test_no_json_and_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("a\nb\n")
        with pytest.raises(UserError, match="is not JSON"):
            read_exclusions(str(tmp_path / "x.json"))
        with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)"):
            read_exclusions(str(tmp_path / "none.json"))


class TestCaptions:
    def test_of_the_reference(self) -> None:
        check_captions(GENERATED, REFERENCE)

    def test_of_no_reference(self) -> None:
        strange = Side("out", "generated", (picture("00", "a dog"), picture("01", "a horse")))
        with pytest.raises(UserError, match="1 of 2 generated pictures have captions of no reference, as 'a horse': "):
            check_captions(strange, REFERENCE)

    def test_nothing_is_said_where_they_are_not_known_or_nothing_was_generated(self) -> None:
        strange = Side("out", "generated", (picture("00", "a horse"),))
        check_captions(strange, Side("coco", "pictures", (picture("a"),)))
        check_captions(Side("real", "shards", strange.pictures), REFERENCE)
