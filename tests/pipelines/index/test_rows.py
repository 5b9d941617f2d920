"""A sample's row: its picture, caption, fields and carried members, and why it is not taken."""

import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from gesso import images
from gesso.dataset.schemas import INDEX_FIELDS, index_schema
from gesso.errors import UserError
from gesso.pipelines.index.rows import RowMaker, carried_fields, fitting
from gesso.pipelines.index.samples import Picture, Sample
from gesso.pipelines.index.settings import IndexSettings
from tests.datasets import picture
from tests.pictures import colourful, save

JPEG = picture(1)


def sample(key: str = "a/1", picture: bytes | None = JPEG, *dropped: str, **bodies: bytes) -> Sample:
    return Sample(key, None if picture is None else Picture(512, picture), bodies, dropped)


def row(made: Sample, **settings: Any) -> dict[str, Any]:
    return RowMaker("b.tar", IndexSettings(**settings)).row(made)


def reason(made: Sample, **settings: Any) -> tuple[Any, Any]:
    found = row(made, **settings)
    assert found["status"] in ("rejected", "failed_to_resize")
    assert [found[name] for name in ("image_offset", "image_bytes", "image_format")] == [None] * 3
    return found["reason"], found["error_message"]


def test_a_whole_row() -> None:
    fields = {
        "url": "http://x/1",
        "width": 5,
        "sha256": "00",
        "original_width": 640,
        "original_height": 480.0,
        "key": 3,
    }
    found = row(sample(txt=b"a caption\n", json=json.dumps(fields).encode()))
    assert found == {
        "key": "a/1",
        "url": "http://x/1",
        "caption": "a caption\n",
        "original_caption": None,
        "status": "success",
        "reason": None,
        "error_message": None,
        "width": 40,
        "height": 30,
        "original_width": 640,
        "original_height": None,
        "original_format": None,
        "original_bytes": None,
        "reencoded": None,
        "sha256": hashlib.sha256(JPEG).hexdigest(),
        "phash": None,
        "source_tar": "b.tar",
        "source_key": "a/1",
        "image_offset": 512,
        "image_bytes": len(JPEG),
        "image_format": "jpeg",
    }
    assert list(found) == [field.name for field in INDEX_FIELDS]
    assert pa.RecordBatch.from_pylist([found], index_schema()).to_pylist() == [found]


@pytest.mark.parametrize(("kind", "form"), [("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")])
def test_the_format_is_that_of_the_bytes(kind: str, form: str) -> None:
    found = row(sample(picture=save(colourful(), kind), txt=b"text"))
    assert (found["image_format"], found["width"], found["height"]) == (form, 96, 64)


class TestCaption:
    @pytest.mark.parametrize(
        ("bodies", "caption"),
        [
            ({"txt": b"one", "caption": b"two", "json": b'{"caption": "three"}'}, "one"),
            ({"txt": b" \n", "caption": b"two"}, "two"),
            ({"json": b'{"caption": "", "text": 5, "TEXT": "four"}'}, "four"),
        ],
    )
    def test_the_first_that_is_there_and_not_empty(self, bodies: dict[str, bytes], caption: str) -> None:
        assert row(sample(**bodies))["caption"] == caption

    def test_where_there_are_none(self) -> None:
        found = row(sample(txt=b"text"), caption="")
        assert (found["status"], found["caption"]) == ("success", "")

    @pytest.mark.parametrize(
        ("bodies", "expected"),
        [
            ({}, ("caption_missing", "none in txt, json.alt")),
            ({"json": b'{"alt": null}'}, ("caption_missing", "none in txt, json.alt")),
            ({"json": b'["alt"]'}, ("caption_missing", "none in txt, json.alt")),
            ({"txt": b"caf\xe9", "json": b'{"alt": "x"}'}, ("caption_undecodable", "not UTF-8 at byte 3")),
            ({"json": b'{"alt": "\\ud83d"}'}, ("caption_undecodable", "half of a UTF-16 pair stands alone in it")),
        ],
    )
    def test_none(self, bodies: dict[str, bytes], expected: tuple[str, str]) -> None:
        assert reason(sample(**bodies), caption="txt,json.alt") == expected


class TestPicture:
    def test_none(self) -> None:
        assert reason(sample("a", None, "mp4", txt=b"x")) == ("picture_missing", "holds txt, mp4")

    def test_a_web_page(self) -> None:
        page = sample(picture=b"<html>no picture", txt=b"x")
        assert reason(page) == ("not_an_image", "begins with b'<html>no picture'")

    def test_too_large(self) -> None:
        found = row(sample(txt=b"x"), max_pixels=1199)
        assert (found["status"], found["reason"]) == ("failed_to_resize", "too_many_pixels")
        assert found["error_message"] == "40×30: over 1,199"
        assert row(sample(txt=b"x"), max_pixels=1200)["status"] == "success"

    def test_cut_off_it_is_seen_by_decoding_alone(self) -> None:
        cut = sample(picture=JPEG[: len(JPEG) // 2], txt=b"x")
        assert row(cut)["status"] == "success"
        assert reason(cut, decode=True)[0] == "undecodable"

    def test_the_perceptual_hash_is_of_the_upright_picture(self) -> None:
        upright, exif = colourful(256, 192), Image.Exif()
        exif[images.EXIF_ORIENTATION] = 6
        turned = save(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
        found = row(sample(picture=turned, txt=b"x"), decode=True)
        body = save(upright, "PNG")
        assert found["phash"] == images.perceptual_hash(images.decode(body, images.read_header(body), 1 << 16))
        assert (found["width"], found["height"]) == (256, 192)


class TestKey:
    def test_twice_in_one_tar(self) -> None:
        maker = RowMaker("b.tar", IndexSettings())
        rows = [maker.row(sample(key, txt=b"x")) for key in ("a", "b", "a")]
        assert [found["reason"] for found in rows] == [None, None, "duplicate_key"]

    def test_behind_the_tars_name(self) -> None:
        found = row(sample(txt=b"x"), keys="shard")
        assert (found["key"], found["source_key"], found["source_tar"]) == ("b/a/1", "a/1", "b.tar")

    def test_that_is_not_utf8(self) -> None:
        found = row(sample("caf\udce9", txt=b"x"))
        assert (found["key"], found["reason"], found["status"]) == ("caf\\xe9", "name_undecodable", "rejected")


class TestColumns:
    FIELDS = IndexSettings(extra_columns="licence,n:int,score:float,nsfw:bool,width:int", carry="cls,npy:binary,url")

    def test_names_and_types(self) -> None:
        assert carried_fields(self.FIELDS) == (
            pa.field("licence", pa.string()),
            pa.field("n", pa.int64()),
            pa.field("score", pa.float64()),
            pa.field("nsfw", pa.bool_()),
            pa.field("json_width", pa.int64()),
            pa.field("cls", pa.string()),
            pa.field("npy", pa.binary()),
            pa.field("member_url", pa.string()),
        )

    def test_one_name_for_two(self) -> None:
        with pytest.raises(UserError) as error:
            carried_fields(IndexSettings(extra_columns="cls", carry="cls"))
        assert str(error.value) == "--extra_columns and --carry both make a column 'cls': leave one out"

    def test_values(self) -> None:
        maker = RowMaker("b.tar", self.FIELDS)
        fields = b'{"licence": "CC0", "n": 3, "score": 1, "nsfw": false, "width": 9}'
        found = maker.row(sample(txt=b"x", json=fields, cls=b"7", npy=b"\x00\xff", url=b"http://x"))
        names = ("licence", "n", "score", "nsfw", "json_width", "cls", "npy", "member_url")
        assert [found[name] for name in names] == ["CC0", 3, 1.0, False, 9, "7", b"\x00\xff", "http://x"]
        assert found["width"] == 40
        assert not maker.unfitting
        assert not maker.dropped

    def test_values_of_another_type_are_null_and_counted(self) -> None:
        maker = RowMaker("b.tar", self.FIELDS)
        fields = b'{"licence": 4, "n": "3", "score": true, "nsfw": 0, "url": ["x"], "original_width": 4294967296}'
        found = maker.row(sample(txt=b"x", json=fields, cls=b"\xff"))
        assert [found[name] for name in ("licence", "n", "score", "nsfw", "cls", "original_width")] == [None] * 6
        assert found["url"] == ""
        counted = ("licence", "n", "score", "nsfw", "cls", "url", "original_width")
        assert maker.unfitting == dict.fromkeys(counted, 1)

    def test_what_is_not_carried_of_taken_samples_is_counted_by_suffix(self) -> None:
        maker = RowMaker("b.tar", IndexSettings(carry="cls"))
        maker.row(sample("1", JPEG, "npy", "png", txt=b"x", caption=b"y", json=b"{}", cls=b"1"))
        maker.row(sample("2", JPEG, "npy", caption=b"y"))
        maker.row(sample("3", None, "npy", txt=b"x"))
        assert maker.dropped == {"npy": 2, "png": 1, "caption": 1}


@pytest.mark.parametrize(
    ("value", "type", "expected"),
    [
        (2**31 - 1, pa.int32(), 2**31 - 1),
        (2**31, pa.int32(), None),
        (-(2**63), pa.int64(), -(2**63)),
        (True, pa.int64(), None),
        (1.0, pa.int64(), None),
        (10**400, pa.float64(), None),
        ("\ud800", pa.string(), None),
        ("ö", pa.string(), "ö"),
        ({"a": 1}, pa.string(), None),
        (1, pa.bool_(), None),
        (None, pa.bool_(), None),
        (b"x", pa.binary(), b"x"),
    ],
)
def test_fitting(value: Any, type: pa.DataType, expected: Any) -> None:
    found = fitting(value, type)
    assert found == expected
    assert found is None or isinstance(found, bool) == isinstance(expected, bool)


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff\xfe", b"3"])
def test_json_that_is_no_object_is_counted(body: bytes) -> None:
    maker = RowMaker("b.tar", IndexSettings())
    assert maker.row(sample(txt=b"x", json=body))["status"] == "success"
    assert maker.unfitting == {"json": 1}
