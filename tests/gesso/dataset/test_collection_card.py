"""A collection's card: its features are read as `datasets` reads them, its funnel is told."""

import pyarrow as pa
import pytest
import yaml
from datasets import Features, Image, List, Value

from gesso.dataset.collection_card import render
from gesso.dataset.features import features

TYPES = {
    "s": (pa.large_string(), Value("string")),
    "i": (pa.int16(), Value("int16")),
    "u": (pa.uint64(), Value("uint64")),
    "b": (pa.bool_(), Value("bool")),
    "h": (pa.float16(), Value("float16")),
    "f": (pa.float32(), Value("float32")),
    "d": (pa.float64(), Value("float64")),
    "t": (pa.timestamp("ns"), Value("string")),
    "raw": (pa.binary(), Value("string")),
    "dec": (pa.decimal128(5, 2), Value("string")),
    "tags": (pa.list_(pa.string()), List(Value("string"))),
    "boxes": (pa.large_list(pa.list_(pa.float64(), 4)), List(List(Value("float64")))),
    "st": (pa.struct([("x", pa.int8()), ("n", pa.null())]), {"x": Value("int8")}),
    "sts": (pa.list_(pa.struct([("at", pa.date32())])), List({"at": Value("string")})),
    "m": (pa.map_(pa.string(), pa.float64()), List({"key": Value("string"), "value": Value("float64")})),
}


def test_features_are_those_of_datasets() -> None:
    schema = pa.schema([*((name, type) for name, (type, _) in TYPES.items()), ("none", pa.null())])
    assert Features._from_yaml_list(features(schema)) == Features(
        {
            "jpg": Image(),
            "txt": Value("string"),
            "json": {name: feature for name, (_, feature) in TYPES.items()},
            "__key__": Value("string"),
            "__url__": Value("string"),
        }
    )


@pytest.mark.parametrize("name", ["plain", 'with "quotes": {and} # more', "ünï — 'x'"])
def test_front_matter_is_yaml(name: str) -> None:
    funnel = {"rows_read": 3, "success": 2, "http_404": 1}
    _, front, body = render(funnel, pa.schema([(name, pa.int32())])).split("---\n", 2)
    read = yaml.safe_load(front)
    assert read["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}]
    assert read["dataset_info"]["features"][2]["struct"] == [{"name": name, "dtype": "int32"}]
    assert read["size_categories"] == ["n<1K"]
    assert "\n2 pictures with captions" in body
    assert "| `http_404` | 1 | The server no longer has the file. |" in body
