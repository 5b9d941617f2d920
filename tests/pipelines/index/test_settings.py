"""What the flags of an index mean, and what they are refused for."""

import pytest

from gesso.errors import UserError
from gesso.pipelines.index.settings import Carried, IndexSettings, Origin


def test_captions_are_looked_for_in_files_and_in_fields() -> None:
    assert IndexSettings().captions == (
        Origin("txt"),
        Origin("caption"),
        Origin("json", "caption"),
        Origin("json", "text"),
        Origin("json", "TEXT"),
    )
    assert IndexSettings(caption=" .TXT , JSON.alt.text ").captions == (Origin("txt"), Origin("json", "alt.text"))
    assert IndexSettings(caption="").captions == ()


def test_columns_have_types() -> None:
    given = IndexSettings(
        extra_columns="licence, dc:title:string,similarity:float", carry="cls,NPY:binary,seg.png:binary"
    )
    assert given.carried == (
        Carried(Origin("json", "licence"), "string"),
        Carried(Origin("json", "dc:title"), "string"),
        Carried(Origin("json", "similarity"), "float"),
        Carried(Origin("cls"), "text"),
        Carried(Origin("npy"), "binary"),
        Carried(Origin("seg.png"), "binary"),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keys": "tar"}, "--keys is 'tar': give one of sample, shard"),
        ({"max_pixels": 0}, "--max_pixels is 0: give 1 or more"),
        ({"caption": "txt,json.a,TXT"}, "--caption names 'txt' twice: name it once"),
        ({"carry": "cls,cls:binary"}, "--carry names 'cls' twice: name it once"),
        ({"extra_columns": "a,a:int"}, "--extra_columns names 'json.a' twice: name it once"),
        (
            {"extra_columns": "similarity:double"},
            "--extra_columns has 'similarity:double': give NAME or NAME:TYPE, of the types string, int, float, bool",
        ),
        ({"carry": ":text"}, "--carry has ':text': give NAME or NAME:TYPE, of the types text, binary"),
    ],
)
def test_mistakes(given: dict[str, str | int], message: str) -> None:
    with pytest.raises(UserError) as error:
        IndexSettings(**given)  # type: ignore[arg-type]
    assert str(error.value) == message
