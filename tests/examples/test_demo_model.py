"""The rules by which the small model's data set is made: captions, colours, pictures on white, what is held out."""

import json
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gesso.pipelines.export.shuffle import key_hashes

FOLDER = Path(__file__).parents[2] / "examples/demo_model"
MODULES = ("captions", "colours", "render", "sources", "make_data")


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    """The example's modules, which import each other by plain names, as a script's do."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(FOLDER))
    try:
        return {name: __import__(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in before.items():
            del sys.modules[name]
            if module:
                sys.modules[name] = module


def filled(colour: tuple[int, int, int], share: float = 0.5) -> np.ndarray:
    """A white picture whose upper part has a colour, (100, 100, 3)."""
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[: round(100 * share)] = colour
    return pixels


# ── captions ──


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("red-apple", "red apple"),
        ("RedApple_01.svg", "red apple"),
        ("Dog 03", "dog"),
        ("Ice Cream Cone (1 Scoop)", "ice cream cone"),
        ("man-factory-worker-2", "man factory worker"),
        ("coffe,tea", "coffe, tea"),
        ("woman’s boot", "woman's boot"),
    ],
)
def test_names_become_plain_words(modules: dict[str, ModuleType], name: str, normal: str) -> None:
    assert modules["captions"].normal(name) == normal


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("red apple", "a red apple"),
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("ufo", "a ufo"),
        ("scissors", "scissors"),
        ("french fries", "french fries"),
        ("bus", "a bus"),
        ("octopus", "an octopus"),
        ("bread", "bread"),
        ("glass of milk", "a glass of milk"),
        ("people holding hands", "people holding hands"),
        ("cat with tears of joy", "a cat with tears of joy"),
        ("flag of france", "the flag of france"),
        ("two sailboats", "two sailboats"),
        ("the moon", "the moon"),
    ],
)
def test_articles(modules: dict[str, ModuleType], phrase: str, said: str) -> None:
    assert modules["captions"].with_article(phrase) == said


def test_icon_is_called_by_name_measured_colour_and_a_further_form(modules: dict[str, ModuleType]) -> None:
    of_icon = modules["captions"].of_icon
    said = [of_icon(f"set/{number}", "car", "a flat icon", ("vehicle", "road"), "red") for number in range(40)]
    assert {tuple(each[:2]) for each in said} == {("a car", "a red car")}
    assert {each[2] for each in said} == {"car", "a flat icon of a car", "car, vehicle, road"}


def test_a_colour_in_the_name_is_never_contradicted(modules: dict[str, ModuleType]) -> None:
    said = modules["captions"].of_icon("set/orange-book", "orange book", "", (), "yellow")
    assert said == ["an orange book", "orange book"]


def test_face_of_an_animal_may_be_called_the_animal(modules: dict[str, ModuleType]) -> None:
    of_icon = modules["captions"].of_icon
    said = {caption for n in range(40) for caption in of_icon(f"set/{n}", "cat face", "", ("animal",), None)}
    assert said == {"a cat face", "cat face", "a cat", "cat face, animal"}


def test_silhouette_is_called_by_its_colour_in_every_caption(modules: dict[str, ModuleType]) -> None:
    of_silhouette = modules["captions"].of_silhouette
    said = {caption for n in range(40) for caption in of_silhouette(f"set/{n}", "anchor", "orange")}
    assert said == {"an orange anchor", "orange anchor", "an orange silhouette of an anchor", "an anchor in orange"}


# ── what is held out ──


@pytest.mark.parametrize(
    ("caption", "given"),
    [
        ("a blue apple", True),
        ("An apple in blue", True),
        ("blue apples, fruit", True),
        ("a blue silhouette of an apple", True),
        ("a blue pineapple", False),
        ("a red apple", False),
        ("a blue cat", False),
    ],
)
def test_captions_with_all_words_of_an_unseen_one_give_it_away(
    modules: dict[str, ModuleType], caption: str, given: bool
) -> None:
    assert modules["captions"].Unseen(["a blue apple", "a purple cat"]).gives_away(caption) is given


def test_unseen_captions_are_forty_and_ask_for_held_out_pairs(modules: dict[str, ModuleType]) -> None:
    unseen = modules["make_data"].read_unseen()
    pairs = [text for text in unseen if len(text.split()) == 3 and modules["colours"].named(text)]
    assert (len(unseen), len(set(unseen)), len(pairs)) == (40, 40, 30)


def test_table_holds_no_unseen_caption_and_repeats_no_picture(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [
        picture(modules, "icons/apple-blue", "apple", "blue"),
        picture(modules, "icons/apple-red", "apple", "red"),
        picture(modules, "icons/apple-red-again", "apple", "red"),
        picture(modules, "icons/dust", "dust", "red"),
    ]
    drawn = [
        modules["make_data"].Drawn(each.key, dropped, "", digest)
        for each, dropped, digest in zip(pictures, ["", "", "", "empty"], ["a", "b", "b", ""], strict=True)
    ]
    assert modules["make_data"].write_table(pictures, drawn, tmp_path) == 1
    rows = pq.read_table(tmp_path / "links.parquet").to_pylist()
    assert [row["caption"] for row in rows] == modules["captions"].of_silhouette("icons/apple-red", "apple", "red")
    assert [row["url"].rsplit("/", 1)[1] for row in rows] == ["apple-red.jpg?caption=0", "apple-red.jpg?caption=1"]
    assert {row["licence"] for row in rows} == {"MIT"}
    printed = capsys.readouterr().out
    for counted in ("pictures kept 1", "all captions held out 1", "same bytes as another 1", "empty 1"):
        assert counted in printed


def test_a_series_with_one_name_keeps_eight_pictures(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    pictures = [picture(modules, f"icons/{number}", "bell", "red") for number in range(10)]
    pictures.append(picture(modules, "others/1", "bell", "red"))
    drawn = [modules["make_data"].Drawn(each.key, "", "", each.key) for each in pictures]
    assert modules["make_data"].write_table(pictures, drawn, tmp_path) == 9
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert (counts["kept of icons"], counts["kept of others"]) == (8, 1)
    assert counts["pictures dropped: name of many others"] == 2


def picture(modules: dict[str, ModuleType], key: str, name: str, colour: str) -> Any:
    return modules["sources"].Picture(key, name, "", "icons", (), (), colour, "MIT", "Ann", "npm icons", b"")


def test_other_captions_of_a_validation_picture_are_dropped(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    keys = [f"{number:032x}" for number in range(60)]
    links = [f"http://127.0.0.1/{number // 3}.jpg?caption={number % 3}" for number in range(60)]
    table = pa.table({"key": keys, "url": links, "status": ["success"] * 60})
    pq.write_table(table.slice(0, 25), tmp_path / "00000.parquet")
    pq.write_table(table.slice(25), tmp_path / "00001.parquet")
    dropped = set(modules["make_data"].validation_repeats(tmp_path, 8))
    kept = [number for number in range(60) if keys[number] not in dropped]
    hashes = key_hashes([keys[number] for number in kept], person="validation")
    validation = {kept[place] // 3 for place in np.argsort(hashes)[:8]}
    train = {kept[place] // 3 for place in np.argsort(hashes)[8:]}
    assert (len(dropped), len(validation), validation & train) == (16, 8, set())


@pytest.mark.slow
def test_from_drawings_to_export_and_tokenizer(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data = modules["make_data"]
    monkeypatch.setattr(make_data, "PORT", free_port())
    pictures = [drawn_picture(modules, tmp_path / "drawings", number) for number in range(40)]
    results = make_data.draw_all(pictures, tmp_path / "pictures", 2)
    assert make_data.write_table(pictures, results, tmp_path) == 40
    monkeypatch.setattr(make_data, "VOCABULARY", 300)
    make_data.export(tmp_path, 40)
    rows = {split: rows_of(tmp_path / "export" / split) for split in ("train", "validation")}
    shown = {split: {row["url"].split("?")[0] for row in found} for split, found in rows.items()}
    assert (len(rows["train"]), len(rows["validation"])) == (72, 4)
    assert (len(shown["train"]), len(shown["validation"]), shown["train"] & shown["validation"]) == (36, 4, set())
    assert {(row["width"], row["height"], row["reencoded"]) for row in rows["train"]} == {(128, 128, False)}
    assert (tmp_path / "tokenizer/tokenizer.json").exists()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def drawn_picture(modules: dict[str, ModuleType], folder: Path, number: int) -> Any:
    """A disc of its own size in a file, called by a colour."""
    folder.mkdir(exist_ok=True)
    pixels = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(pixels, (100, 100), 60, (37, 99, 235), -1)
    cv2.circle(pixels, (100, 100), 5 + number, (255, 255, 255), -1)
    Image.fromarray(pixels).save(folder / f"{number}.png")
    return picture(modules, f"icons/{number}", f"ring {number}", "blue")._replace(drawing=folder / f"{number}.png")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


# ── colours ──


def test_each_colour_of_the_palette_has_its_own_word(modules: dict[str, ModuleType]) -> None:
    colours = modules["colours"]
    assert {word: colours.main_colour(filled(rgb)) for word, rgb in colours.PALETTE.items()} == {
        word: word for word in colours.WORDS
    }


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((200, 30, 40), "red"),
        ((255, 165, 0), "orange"),
        ((255, 235, 60), "yellow"),
        ((120, 200, 60), "green"),
        ((0, 200, 220), "blue"),
        ((140, 80, 200), "purple"),
        ((255, 150, 200), "pink"),
        ((255, 170, 170), "pink"),
        ((90, 50, 20), "brown"),
        ((40, 40, 60), "black"),
        ((160, 160, 170), "grey"),
        ((250, 250, 245), "white"),
    ],
)
def test_words_of_pixels(modules: dict[str, ModuleType], rgb: tuple[int, int, int], word: str) -> None:
    assert set(modules["colours"].words_of_pixels(filled(rgb, 1.0)).flat) == {word}


def test_shares_are_of_what_is_not_white(modules: dict[str, ModuleType]) -> None:
    pixels = filled((220, 38, 38), 0.3)
    pixels[90:] = (37, 99, 235)
    found = modules["colours"].shares(pixels)
    assert {word: share for word, share in found.items() if share} == {"red": 0.75, "blue": 0.25}


def test_white_picture_has_no_colour(modules: dict[str, ModuleType]) -> None:
    assert set(modules["colours"].shares(filled((255, 255, 255))).values()) == {0.0}


@pytest.mark.parametrize(
    ("caption", "word"),
    [("a red car", "red"), ("A gray cat", "grey"), ("a red and blue car", None), ("a car", None), ("white bear", None)],
)
def test_colour_that_a_caption_names(modules: dict[str, ModuleType], caption: str, word: str | None) -> None:
    assert modules["colours"].named(caption) == word


def test_agreement_counts_captions_that_name_one_colour(modules: dict[str, ModuleType]) -> None:
    red, blue = filled((220, 38, 38)), filled((37, 99, 235))
    captions = ["a red car", "a blue car", "a red bus", "a car", "a green car"]
    assert modules["colours"].agreement(captions, [red, blue, blue, red, red]) == 0.5


# ── pictures ──


def test_object_fills_the_square_up_to_the_margin(modules: dict[str, ModuleType]) -> None:
    drawn = np.full((100, 50, 3), (220, 38, 38), np.uint8)
    drawn[40:60] = 0
    square = modules["render"].on_white(drawn)
    assert square.shape == (128, 128, 3)
    assert modules["render"].box(square) == (4, 124, 34, 94)


@pytest.mark.parametrize(
    ("shape", "colour", "reason"),
    [
        ((100, 10), (0, 0, 0), "too narrow"),
        ((20, 20), (0, 0, 0), "too small"),
        ((100, 100), (240, 240, 240), "almost white"),
        ((100, 100), (0, 0, 0), "one colour all over"),
    ],
)
def test_what_shows_nothing_is_dropped(
    modules: dict[str, ModuleType], shape: tuple[int, int], colour: tuple[int, int, int], reason: str
) -> None:
    with pytest.raises(modules["render"].Dropped, match=reason):
        modules["render"].on_white(np.full((*shape, 3), colour, np.uint8))


def test_empty_drawing_is_dropped(modules: dict[str, ModuleType]) -> None:
    with pytest.raises(modules["render"].Dropped, match="empty"):
        modules["render"].box(np.full((9, 9, 3), 255, np.uint8))


def test_a_picture_that_cannot_be_read_is_counted_and_remembered(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(b"no picture")
    broken = picture(modules, "icons/broken", "broken", "red")._replace(drawing=file)
    expected = modules["make_data"].Drawn("icons/broken", "cannot be drawn", "", "")
    assert modules["make_data"].draw(broken, tmp_path) == expected
    file.unlink()
    assert modules["make_data"].draw(broken, tmp_path) == expected
    assert [path.name for path in (tmp_path / "icons").iterdir()] == ["broken.json"]


# ── names of sources ──


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A canadian dollar ($1.00) called a loonie.", "a canadian dollar ($1.00) called a loonie"),
        ("Bishop.  Can only move diagonally.", "bishop"),
        ("The cow goes 'moo'. Cows see far!", "the cow goes 'moo'"),
    ],
)
def test_first_sentence(modules: dict[str, ModuleType], text: str, sentence: str) -> None:
    assert modules["sources"].first_sentence(text) == sentence


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("flag: France", "flag of france"),
        ("woman: beard", "woman with beard"),
        ("red apple", "red apple"),
        ("woman’s boot", "woman's boot"),
    ],
)
def test_labels_of_unicode(modules: dict[str, ModuleType], label: str, phrase: str) -> None:
    assert modules["sources"].label(label) == phrase


@pytest.mark.parametrize(
    ("stem", "title", "author", "where", "name"),
    [
        ("apple_01", "Red Apple", "Gerald G.", "food/fruit", "red apple"),
        ("apple_gerald_g_01", "Etiquette Icons", "Gerald G.", "food/fruit", "apple"),
        ("x", "Clipart by Nicu Buculei - red apple", "Nicu Buculei", "food", "red apple"),
        ("arrow", "arrow-right-red", "Benji Park", "shapes/arrows", "red arrow right"),
        ("malawi", "", "", "signs_and_symbols/flags/africa", "flag of malawi"),
        ("cocc", "Coccinelle tanguy", "Tanguy JACQ", "animals/bugs", ""),
    ],
)
def test_names_of_clip_art(
    modules: dict[str, ModuleType], stem: str, title: str, author: str, where: str, name: str
) -> None:
    known = {"red", "apple", "arrow", "right"}
    assert modules["sources"].clip_art_name(stem, title, author, where, known) == name


def test_a_silhouette_has_colours_that_its_name_decides(modules: dict[str, ModuleType]) -> None:
    colours_of = modules["sources"].colours_of
    assert colours_of("anchor", 3) == colours_of("anchor", 3)
    assert len({*colours_of("anchor", 3)}) == 3
    assert len({tuple(colours_of(str(number), 2)) for number in range(50)}) > 20
