"""The pictures of free packages, with what these say of them: names, keywords, folders, authors and licences.

Debian's openclipart-svg and tuxpaint-stamps-default, icon sets of npm's @iconify-json, keywords of npm's
emojibase-data, and the photographs of examples/pictures.
"""

import csv
import html
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from captions import WORDLISTS, content, has_colour, normal, number_of
from colours import PALETTE

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "pictures"
DEBIAN = ("openclipart-svg", "tuxpaint-stamps-default")
EMOJI = {  # npm package → style, by which its captions tell it from others
    "noto@1.2.9": "an emoji",
    "noto-v1@1.2.5": "an old emoji",
    "fluent-emoji-flat@1.2.6": "a flat icon",
    "fluent-emoji@1.2.7": "a glossy icon",
    "twemoji@1.2.5": "a simple emoji",
    "openmoji@1.2.29": "an outlined icon",
    "emojione@1.2.3": "a small emoji",
    "emojione-v1@1.2.3": "a classic emoji",
    "fxemoji@1.2.2": "a cartoon icon",
    "streamline-emojis@1.2.4": "a line drawing",
    "flat-color-icons@1.2.3": "a flat symbol",
}
SILHOUETTES = ("game-icons@1.2.4", "mdi@1.2.3")
COLOURS_OF_AN_ICON = {1: 3, 2: 2}  # words of its name → colours that it is painted in
EMOJIBASE = "emojibase-data@17.0.0"
NPM = (*(f"@iconify-json/{name}" for name in (*EMOJI, *SILHOUETTES)), EMOJIBASE)
FREE = ("Apache-2.0", "MIT", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0")

FACES = re.compile("face|emotion|hand|person|people|gesture")  # whose keywords are moods and slang
FLAGS_OF = "twemoji"  # the only set whose flags of countries are kept
VARIANTS = re.compile(  # of clocks, of walking people, of couples
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)(?:.thirty| o.clock)"
    r"|facing right|kiss:|couple with heart:|: bald"
)
SKIPPED_FOLDERS = re.compile(  # of Open Clip Art: patterns, themes of programs' icons, signs without a name
    r"shapes/(?:stars|jigsaw|flowchart|callouts)|computer/(?:icons|buttons|folders|network)|special|games/cards|roadsigns"
    r"|map_symbols|/led|semaphore|unsorted/duplicates|logos|symbols/hazard|geography/(?!astronomy)"
)
EMPTY_TITLES = re.compile(
    r"etiquette|theme|collection|gramastar|untitled|clipart|drawing|map symbol|simple|tasto|svg|^\W*$|logo|icon set|@"
    r"|hotel icon",
    re.I,
)


class Picture(NamedTuple):
    """A picture to draw, and what its package says of it."""

    key: str  # "noto/red-apple": name of its file
    name: str  # normalised; "" where `sentences` say it
    style: str  # "a flat icon"; "" for none
    group: str  # folder or category
    keywords: tuple[str, ...]
    sentences: tuple[str, ...]  # captions of the package's own
    colour: str  # that it is painted in; "" for its own
    licence: str
    author: str
    source: str
    drawing: bytes | Path  # an SVG, or a file


class Emoji(NamedTuple):
    name: str
    group: str
    keywords: tuple[str, ...]


def download(folder: Path) -> None:
    """Fetches and unpacks the packages that are not there yet, by apt-get and npm."""
    for name in DEBIAN:
        if not (folder / name).exists():
            subprocess.run(["apt-get", "download", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (archive,) = folder.glob(f"{name}_*.deb")
            subprocess.run(["dpkg", "-x", archive, folder / f"{name}.part"], check=True)
            (folder / f"{name}.part").rename(folder / name)
            archive.unlink()
    for name in NPM:
        if not npm_folder(folder, name).exists():
            pack = ["npm", "pack", "--silent", name]
            packed = subprocess.run(pack, cwd=folder, check=True, capture_output=True, text=True)
            archive = folder / packed.stdout.strip()
            part = npm_folder(folder, name).with_suffix(".part")
            with tarfile.open(archive) as tar:
                tar.extractall(part, filter="data")
            (part / "package").rename(npm_folder(folder, name))
            part.rmdir()
            archive.unlink()


def npm_folder(folder: Path, package: str) -> Path:
    return folder / package.removeprefix("@iconify-json/").split("@")[0]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def all_pictures(folder: Path) -> Iterator[Picture]:
    """Every picture of the packages that lie in a folder, in a fixed order."""
    emoji = Emojis(folder)
    sets = [emoji_set(folder, package, emoji) for package in EMOJI]
    known = emoji.words()
    silhouettes = [silhouette_set(folder, package, known) for package in SILHOUETTES]
    yield from chain(*sets, open_clip_art(folder, known), stamps(folder), photographs(), *silhouettes)


# ── emoji ──


class Emojis:
    """Unicode's emoji by the names that icon sets give them; only those without a skin tone."""

    def __init__(self, folder: Path) -> None:
        data = npm_folder(folder, EMOJIBASE) / "en"
        names = read_json(data / "messages.json")
        subgroups = {each["order"]: each["key"] for each in names["subgroups"]}
        self._by_code, self._by_name = dict[str, Emoji](), dict[str, Emoji]()
        entries = read_json(data / "data.json")
        self._nouns = WORDLISTS["classes"].union(*(label(each["label"]).split() for each in entries))
        for each in entries:
            entry = self._read(each, subgroups)
            self._by_code[plain_code(each["hexcode"])] = entry
            self._by_name[slug(each["label"])] = entry
            self._by_name.setdefault(slug(each["label"]).replace("-", ""), entry)
        for package in EMOJI:
            codes = npm_folder(folder, package) / "chars.json"
            for code, name in read_json(codes).items():
                if plain_code(code) in self._by_code:
                    self._by_name.setdefault(name, self._by_code[plain_code(code)])

    def _read(self, each: dict[str, Any], subgroups: dict[int, str]) -> Emoji:
        group = subgroups.get(each.get("subgroup", -1), "component")
        if group == "food-sweet" and "fish" in each.get("tags", ()):
            group = "food-marine"
        words = () if FACES.search(group) else tuple(word for word in each.get("tags", ()) if word in self._nouns)
        return Emoji(label(each["label"]), group, words)

    def find(self, name: str) -> Emoji | None:
        return self._by_name.get(name) or self._by_name.get(re.sub(r"-\d$", "", name))

    def words(self) -> set[str]:
        """The words of every name and keyword."""
        return {
            word for each in self._by_name.values() for text in (each.name, *each.keywords) for word in content(text)
        }


def plain_code(code: str) -> str:
    return re.sub("-fe0f", "", code.lower())


def slug(label: str) -> str:
    return re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")


def label(text: str) -> str:
    """Unicode's label as a phrase: "flag: France" → "flag of france", "woman: beard" → "woman with beard"."""
    of, _, what = text.lower().replace("’", "'").partition(": ")
    if what and not VARIANTS.search(text.lower()):
        return f"{of} {'of' if of == 'flag' else 'with'} {what.replace(',', ' and')}"
    return text.lower() if what else normal(of)


def emoji_set(folder: Path, package: str, emoji: Emojis) -> Iterator[Picture]:
    """The colourful icons of a set."""
    name, known = package.split("@")[0], emoji.words()
    for icon, svg, credits in icons(folder, package):
        found = emoji.find(icon)
        if name == "flat-color-icons" and found is None and content(normal(icon)) <= known:
            found = Emoji(normal(icon), "symbol", ())
        if found is None or found.group in WORDLISTS["left_out"] or VARIANTS.search(found.name):
            continue
        if found.group == "country-flag" and name != FLAGS_OF:
            continue
        words, style = found.keywords, EMOJI[package]
        yield Picture(f"{name}/{icon}", found.name, style, found.group, words, (), "", *credits, svg)


def icons(folder: Path, package: str) -> Iterator[tuple[str, bytes, tuple[str, str, str]]]:
    """Name, SVG, and (licence, author, source) of each icon of a set. Raises ValueError where it is not free."""
    where = npm_folder(folder, package)
    data, info = read_json(where / "icons.json"), read_json(where / "info.json")
    licence = info["license"]["spdx"]
    if licence not in FREE:
        raise ValueError(f"{package} has the licence {licence}: only {', '.join(FREE)} are used")
    for icon, entry in sorted(data["icons"].items()):
        left, top = entry.get("left", 0), entry.get("top", 0)
        width, height = (entry.get(side) or data.get(side) or 16 for side in ("width", "height"))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}" '
            f'height="{height}" viewBox="{left} {top} {width} {height}">{entry["body"]}</svg>'
        )
        yield icon, svg.encode(), (licence, info["author"]["name"], f"npm @iconify-json/{package}")


# ── silhouettes ──


def silhouette_set(folder: Path, package: str, known: set[str]) -> Iterator[Picture]:
    """Icons of one tone, each in two or three of the ten colours, chosen by the hash of its name."""
    name = package.split("@")[0]
    kept = mdi_names(folder, package) if name == "mdi" else None
    for icon, svg, credits in icons(folder, package):
        phrase = silhouette_name(icon)
        if (kept is not None and icon not in kept) or not is_noun(phrase, icon, known):
            continue
        for colour in colours_of(icon, COLOURS_OF_AN_ICON[len(phrase.split())]):
            painted = svg.replace(b"currentColor", "#{:02x}{:02x}{:02x}".format(*PALETTE[colour]).encode())
            key = f"{name}/{icon}-{colour}"
            yield Picture(key, phrase, "a silhouette", name, (), (), colour, *credits, painted)


def colours_of(name: str, count: int) -> list[str]:
    """`count` different colours for a name."""
    return sorted(PALETTE, key=lambda colour: number_of(f"{name} {colour}"))[:count]


def silhouette_name(icon: str) -> str:
    """ "food-apple" → "apple", "flower-tulip" → "tulip flower"."""
    first, _, rest = icon.partition("-")
    if rest and first in ("food", "fruit", "weather", "nature"):
        return normal(rest)
    if rest and "-" not in rest and first in ("flower", "car", "temple", "glass", "bag", "ship", "food", "hat"):
        return f"{rest} {first}"
    return normal(icon)


def is_noun(phrase: str, icon: str, known: set[str]) -> bool:
    """Whether an icon's name is one plain word, or two that emoji's names and keywords have, without a colour."""
    words = phrase.split()
    if not 0 < len(words) < 3 or not icon.replace("-", "").isalpha() or len(phrase) < 3 or has_colour(phrase):
        return False
    return len(words) == 1 or content(phrase) <= known


def mdi_names(folder: Path, package: str) -> set[str]:
    """Icons of things, without the variants of a symbol."""
    categories = read_json(npm_folder(folder, package) / "metadata.json")["categories"]
    things = {icon for group in WORDLISTS["mdi_groups"] for icon in categories[group]}
    return {icon for icon in things if WORDLISTS["mdi_variants"].isdisjoint(icon.split("-"))}


# ── Debian ──


def open_clip_art(folder: Path, known: set[str]) -> Iterator[Picture]:
    """Open Clip Art's drawings that have an English name."""
    root = folder / "openclipart-svg/usr/share/openclipart/svg"
    for path in sorted(root.rglob("*.svg")):
        where = path.parent.relative_to(root).as_posix()
        if path.is_symlink() or SKIPPED_FOLDERS.search(where):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        author = author_of(text)
        name = clip_art_name(path.stem, title_of(text), author, where, known)
        if name:
            key = f"openclipart/{path.relative_to(root).with_suffix('').as_posix().replace('/', '-')}"
            words = tuple(keywords_of(text, known))
            source = "Debian openclipart-svg 0.18"
            yield Picture(key, name, "clip art", where, words, (), "", "Public domain", author, source, path)


def title_of(svg: str) -> str:
    found = re.search(r"<dc:title>([^<]*)", svg)
    return html.unescape(found[1]) if found else ""


def author_of(svg: str) -> str:
    found = re.search(r"<dc:creator>.*?<dc:title>([^<]*)", svg, re.S)
    return html.unescape(found[1]).strip() if found else ""


def keywords_of(svg: str, known: set[str]) -> list[str]:
    """Plain English keywords."""
    words = [word.strip().lower() for word in re.findall(r"<rdf:li>([^<]*)", svg)]
    return [
        word for word in dict.fromkeys(words) if word not in ("hash", "unsorted", "symbol") and content(word) & known
    ]


def clip_art_name(stem: str, title: str, author: str, where: str, known: set[str]) -> str:
    """The title, or where it says nothing the file's name, without the author; "" where most words are not English."""
    title = re.sub(r"^clipart by .*? - ", "", title.strip(), flags=re.I)
    name = normal(title)
    if EMPTY_TITLES.search(title) or not name:
        name = normal(re.sub(r"_\d+$", "", stem))
    name = re.sub(r"\b(?:b and w|bw|ganson|01|02|03|and w)\b", " ", name)
    written_by = [part for part in re.split(r"\W+", author.lower()) if len(part) > 1]
    words = [word for word in name.split() if not (len(word) > 2 and any(part.startswith(word) for part in written_by))]
    words = [word for word in words if not re.fullmatch(r"\d+[a-z]*|[a-z]|part|svg|v\d", word) or word == "a"]
    if len(words) > 1 and words[-1] in PALETTE and not has_colour(" ".join(words[:-1])):
        words = [words[-1], *words[:-1]]
    if "flags" in where:
        return f"flag of {' '.join(word for word in words if word != 'flag')}" if words else ""
    english = sum(bool(content(word) & known) or word in ("a", "of", "the", "in", "on") for word in words)
    return " ".join(words) if words and len(words) < 8 and 3 * english >= 2 * len(words) else ""


def stamps(folder: Path) -> Iterator[Picture]:
    """Tux Paint's stamps, with the English sentence of each."""
    root = folder / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for path in sorted(chain(root.rglob("*.png"), root.rglob("*.svg"))):
        said, where = path.with_suffix(".txt"), path.parent.relative_to(root).as_posix()
        drawn_as_svg = path.suffix == ".png" and path.with_suffix(".svg").exists()
        if not said.exists() or drawn_as_svg or "alphabet" in where or "/math" in where:
            continue
        sentence = first_sentence(said.read_text(encoding="utf-8", errors="replace").splitlines()[0])
        name = re.sub("^an? ", "", sentence)
        short = name != sentence and len(name.split()) < 4
        key = f"tuxpaint/{path.relative_to(root).with_suffix('').as_posix().replace('/', '-')}"
        credits = ("GPL-2.0-or-later", "Tux Paint", "Debian tuxpaint-stamps-default 2022.06.04")
        yield Picture(key, name if short else "", "", where, (), () if short else (sentence,), "", *credits, path)


def first_sentence(text: str) -> str:
    """Without its stop, in lower case."""
    return re.split(r"(?<=[a-z)'])[.!](?:\s|$)", text.strip())[0].replace("’", "'").lower()


def photographs() -> Iterator[Picture]:
    """The photographs of examples/pictures, with their captions."""
    with (PHOTOGRAPHS / "pictures.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    for row in rows:
        path = PHOTOGRAPHS / "files" / row["file"]
        if path.suffix == ".jpg":
            credits = (row["licence"], row["author"], row["source"])
            caption = first_sentence(row["caption"])
            yield Picture(f"photographs/{path.stem}", "", "", "photograph", (), (caption,), "", *credits, path)


def count_by(pictures: Iterable[Picture]) -> dict[str, int]:
    """The number of pictures of each source."""
    counts: dict[str, int] = {}
    for picture in pictures:
        name = picture.key.split("/")[0]
        counts[name] = counts.get(name, 0) + 1
    return counts
