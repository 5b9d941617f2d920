"""Rebuilds this folder's pictures and tables from unpacked packages; needs Pillow alone, and must never fetch.

    python make.py --gcompris-qt-data DIR --tuxpaint-stamps-default DIR ... --out .

Each DIR is what the package unpacks to (`dpkg -x`, or a wheel's files). `selection.tsv` says which pictures, in
which form; what it leaves blank (caption, licence, author) is read from the package. The same packages and the
same Pillow give the same bytes.
"""

import argparse
import csv
import html
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, __version__

PACKAGES = {
    "budgie-backgrounds": "Debian budgie-backgrounds 3.0-1",
    "gcompris-qt-data": "Debian gcompris-qt-data 3.1-2",
    "lomiri-wallpapers-16.04": "Debian lomiri-wallpapers-16.04 20.04.0-2",
    "lomiri-wallpapers-20.04": "Debian lomiri-wallpapers-20.04 20.04.0-2",
    "mate-backgrounds": "Debian mate-backgrounds 1.26.0-1",
    "openclipart-png": "Debian openclipart-png 1:0.18+dfsg-19",
    "openclipart-svg": "Debian openclipart-svg 1:0.18+dfsg-19",
    "palapeli-data": "Debian palapeli-data 4:22.12.3-1",
    "python3-skimage": "Debian python3-skimage 0.19.3-8",
    "scikit-learn": "PyPI scikit-learn 1.5.2 (wheel)",
    "tuxpaint-data": "Debian tuxpaint-data 1:0.9.28-sdl2-1",
    "tuxpaint-stamps-default": "Debian tuxpaint-stamps-default 2022.06.04-1",
}
ACTIVITIES = "gcompris/src/activities/"
LANGUAGES = ("de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "zh_CN", "zh_TW")
LICENCES = {"CC0": "CC0-1.0", "Public Domain": "Public domain", "GPLv2+": "GPL-2.0-or-later"}

KEEP_BYTES = 60_000  # an original up to this size stays as it is: a quarter of a thousand of them fit 14 MB
LIGHT_BYTES = 52_000  # what a re-encoded photograph may weigh before the next smaller size is tried
SIDES = (800, 720, 640, 576, 512)  # long sides tried in turn; the last is taken whatever it weighs
CAPTION_CHARACTERS = 200  # whole sentences up to here

Row = dict[str, str]
Encoded = tuple[bytes, str, str]  # bytes, suffix, what was done


# ---- packages --------------------------------------------------------------------------------------------------


@cache
def resources(path: Path) -> dict[str, bytes]:
    """Every file of a Qt resource bundle (format 1–3, deflate or none), by its path inside."""
    data = path.read_bytes()
    version, tree, blobs, names = struct.unpack(">4I", data[4:20])
    width = 22 if version >= 2 else 14
    files: dict[str, bytes] = {}

    def walk(index: int, prefix: str) -> None:
        at = tree + index * width
        name_at, flags = struct.unpack(">IH", data[at : at + 6])
        length = struct.unpack(">H", data[names + name_at : names + name_at + 2])[0]
        name = data[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be") if index else ""
        inside = f"{prefix}/{name}".lstrip("/")
        if flags & 2:  # a folder: how many children, and the first
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                walk(child, inside)
            return
        start = blobs + struct.unpack(">I", data[at + 10 : at + 14])[0]
        size = struct.unpack(">I", data[start : start + 4])[0]
        blob = data[start + 4 : start + 4 + size]
        files[inside] = zlib.decompress(blob[4:]) if flags & 1 else blob

    walk(0, "")
    return files


def bundle(root: Path, path: str) -> dict[str, bytes]:
    """The bundle of the GCompris activity that `path` belongs to."""
    return resources(root / "usr/share/gcompris-qt/rcc" / f"{path.split('/')[0]}.rcc")


@cache
def credits_of(root: Path, path: str) -> tuple[str, str, str]:
    """(licence, author, address) of a GCompris picture, from the README beside it."""
    folder, name = path.rsplit("/", 1)
    files = bundle(root, path)
    while f"{ACTIVITIES}{folder}/README" not in files:
        folder, last = folder.rsplit("/", 1)
        name = f"{last}/{name}"
    text = files[f"{ACTIVITIES}{folder}/README"].decode()
    # One typo of the README: its block says auda, its file is aula.
    listed = {name, name.replace("aulaPalatina", "audaPalatina")}
    for block in re.split(r"\n\s*\n", text):
        if not listed & set(re.findall(r"[\w/.-]+\.webp", block)):
            continue
        fields = dict(re.findall(r"^(Copyright|License):\s*(.+(?:\n {2,}.+)*)", block, re.MULTILINE))
        authors = [re.sub(r"^(Copyright )?[©\d, ]+", "", line.strip()) for line in fields["Copyright"].splitlines()]
        based = re.findall(r"based on an? (?:original )?(image|photo|painting) by ([^,]+),", block)
        authors += [f"after a{'n' * (kind == 'image')} {kind} by {name}" for kind, name in based]
        address = re.search(r"https?://\S+", block)
        return spdx(fields["License"]), ", ".join(authors), address[0] if address else ""
    raise ValueError(f"{path}: no block of {folder}/README names it")


def spdx(licence: str) -> str:
    """`CC-BY-SA 4.0` → `CC-BY-SA-4.0`, `Public domain` as it is."""
    licence = licence.strip()
    return LICENCES.get(licence.replace("domain", "Domain"), licence.replace(" ", "-"))


@cache
def texts(root: Path) -> dict[str, str]:
    """The English text that GCompris shows beside each picture, by the picture's path."""
    found: dict[str, str] = {}
    pattern = r'"text": ?qsTr\("((?:[^"\\]|\\.)*)"\).*?"image2": ?"[^"]*/activities/([^"]+)"'
    for activity in ("explore_farm_animals", "explore_monuments", "explore_world_animals", "explore_world_music"):
        for name, data in bundle(root, activity).items():
            if name.endswith(".qml"):
                for text, picture in re.findall(pattern, data.decode(), re.DOTALL):
                    found[picture] = re.sub(r"\\(.)", r"\1", text)
    return found


@cache
def translations(root: Path, language: str) -> dict[str, str]:
    """English → translated texts of one GCompris locale (Qt's .qm: tag, length, value)."""
    path = root / f"usr/share/gcompris-qt/translations/gcompris_{language}.qm"
    if not path.exists():
        return {}
    data, at, messages = path.read_bytes(), 16, b""
    while at < len(data):
        section, length = struct.unpack(">BI", data[at : at + 5])
        messages = data[at + 5 : at + 5 + length] if section == 0x69 else messages
        at += 5 + length
    found, fields, at = {}, dict[int, bytes](), 0
    while at < len(messages):
        tag, at = messages[at], at + 1
        if tag == 1:  # the end of one message
            found[fields.get(6, b"").decode()] = fields.get(3, b"").decode("utf-16-be")
            fields = {}
            continue
        length = struct.unpack(">I", messages[at : at + 4])[0]
        at += 4
        if length != 0xFFFFFFFF:
            fields[tag], at = messages[at : at + length], at + length
    return found


def sentences(text: str) -> str:
    """The whole sentences that fit CAPTION_CHARACTERS, at least the first."""
    parts = re.split(r"(?<=[.!?])\s+|(?<=[。!?])", text.strip())
    kept = parts[0]
    for part in parts[1:]:
        if len(kept) + 1 + len(part) > CAPTION_CHARACTERS:
            break
        kept = f"{kept} {part}"
    return kept.strip()


def stamp_captions(path: Path) -> dict[str, str]:
    """language → text of a Tux Paint stamp; `en` is its first line."""
    lines = path.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").splitlines()
    found = {"en": lines[0].strip()}
    for line in lines[1:]:
        if match := re.match(r"([\w@]+)\.utf8=(.+)", line):
            found[match[1].lower()] = match[2].strip()
    return found


def drawing_credits(path: Path) -> tuple[str, str]:
    """(title, author) in the metadata of an Open Clip Art drawing."""
    text = path.read_text(encoding="utf-8", errors="replace")
    titles = [html.unescape(t).strip() for t in re.findall(r"<dc:title>([^<]*)<", text)]
    creator = re.search(r"<dc:creator>.*?<dc:title>([^<]*)<", text, re.DOTALL)
    return titles[0], html.unescape(creator[1]).strip() if creator and creator[1].strip() else "Open Clip Art Library"


def facts(row: Row, roots: dict[str, Path]) -> tuple[bytes, Row]:
    """The bytes of one selected picture, and its row with nothing left blank but perhaps the address."""
    root, path = roots[row["package"]], row["path"]
    if row["package"] == "gcompris-qt-data":
        licence, author, address = credits_of(root, path)
        told = {"licence": licence, "author": author, "address": address}
        caption = row["caption"] or sentences(texts(root)[path])
        return bundle(root, path)[ACTIVITIES + path], row | told | {"caption": caption}
    data = (root / path).read_bytes()
    if row["package"] == "tuxpaint-stamps-default":
        return data, row | {"caption": stamp_captions(root / path)["en"]}
    if row["package"] == "openclipart-png":
        drawing = path.replace("/png/", "/svg/").replace(".png", ".svg")
        caption, author = drawing_credits(roots["openclipart-svg"] / drawing)
        return data, row | {"caption": caption, "author": author}
    return data, row


def foreign(row: Row, roots: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """(language, caption) of stamps and animals in other languages, untranslated ones left out."""
    root, path = roots[row["package"]], row["path"]
    found: dict[str, str] = {}
    if row["package"] == "tuxpaint-stamps-default":
        captions = stamp_captions(root / path)
        found = {lang: captions[lang.lower()] for lang in LANGUAGES if lang.lower() in captions}
        english = captions["en"]
    elif "_animals/" in path:
        english = texts(root)[path]
        found = {lang: translations(root, lang).get(english, "") for lang in LANGUAGES}
    for language, caption in found.items():
        if caption and caption != english:
            yield language.replace("_", "-"), sentences(caption)


# ---- bytes -----------------------------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as one file's bytes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image with its long side at most `side`."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def lightest(image: Image.Image, sides: tuple[int, ...], encode: Callable[[Image.Image], bytes]) -> tuple[bytes, str]:
    """(bytes, size as text) of the largest of `sides` that weighs at most LIGHT_BYTES."""
    for side in sides:
        small = fitted(image, side)
        data = encode(small)
        if len(data) <= LIGHT_BYTES:
            break
    return data, f"{small.width}×{small.height}"


def has_alpha(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    return image.has_transparency_data and min(image.convert("RGBA").getchannel("A").tobytes()) < 255


def jpeg(image: Image.Image, **options: object) -> bytes:
    """A JPEG at quality 85."""
    return saved(image, "JPEG", quality=85, optimize=True, **options)


def as_jpeg(image: Image.Image, what: str, **options: object) -> Encoded:
    """A JPEG of the largest size that is light enough."""
    data, size = lightest(image, SIDES, lambda small: jpeg(small, **options))
    return data, "jpg", f"{what} at quality 85, {size}"


def as_turned(image: Image.Image) -> Encoded:
    """A JPEG whose pixels lie turned and whose EXIF orientation 6 turns them back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return as_jpeg(image.transpose(Image.Transpose.ROTATE_90), "turned, EXIF orientation 6, JPEG", exif=exif)


def as_16_bit(image: Image.Image) -> Encoded:
    """A grey 16-bit PNG, 320 at the long side, each 8-bit value spread over 16 bits."""
    small = fitted(image.convert("L"), 320)
    wide = small.convert("I").point(lambda value: value * 257).convert("I;16")
    return saved(wide, "PNG", optimize=True), "png", f"grey 16-bit PNG, {small.width}×{small.height}"


def as_palette(image: Image.Image) -> Encoded:
    """A PNG of 128 colours with transparency."""
    small = image.convert("RGBA").quantize(128, method=Image.Quantize.FASTOCTREE)
    return saved(small, "PNG", optimize=True), "png", f"palette PNG with transparency, {small.width}×{small.height}"


def as_gif(image: Image.Image) -> Encoded:
    """A GIF, 400 at the long side."""
    small = fitted(image.convert("RGBA") if has_alpha(image) else image.convert("RGB"), 400)
    return saved(small, "GIF"), "gif", f"GIF, {small.width}×{small.height}"


def as_webp(image: Image.Image) -> Encoded:
    """A WebP at quality 80."""
    plain = image.convert("RGBA" if has_alpha(image) else "RGB")
    data, size = lightest(plain, SIDES, lambda small: saved(small, "WEBP", quality=80, method=6))
    return data, "webp", f"WebP at quality 80, {size}"


def as_it_is_or_lighter(data: bytes, image: Image.Image) -> Encoded:
    """The original bytes where they are light; else a PNG or WebP where alpha matters, a JPEG elsewhere."""
    if len(data) <= KEEP_BYTES:
        return data, {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[image.format or ""], "none"
    if has_alpha(image):
        rgba = image.convert("RGBA")
        smaller, size = lightest(rgba, (640, 480, 400), lambda small: saved(small, "PNG", optimize=True))
        return (smaller, "png", f"PNG, {size}") if len(smaller) <= LIGHT_BYTES else as_webp(image)
    return as_jpeg(image.convert("L" if image.mode == "L" else "RGB"), "JPEG")


FORMS: dict[str, Callable[[Image.Image], Encoded]] = {
    "gif": as_gif,
    "jpeg-cmyk": lambda image: as_jpeg(image.convert("CMYK"), "CMYK JPEG"),
    "jpeg-grey": lambda image: as_jpeg(image.convert("L"), "grey JPEG"),
    "jpeg-progressive": lambda image: as_jpeg(image.convert("RGB"), "progressive JPEG", progressive=True),
    "jpeg-turned": as_turned,
    "png-16-bit": as_16_bit,
    "png-palette": as_palette,
    "webp": as_webp,
}


def encoded(data: bytes, form: str) -> Encoded:
    """One picture in its form: (bytes, suffix, what was done)."""
    image = Image.open(io.BytesIO(data))
    return FORMS[form](ImageOps.exif_transpose(image)) if form else as_it_is_or_lighter(data, image)


# ---- the folder ------------------------------------------------------------------------------------------------


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A TSV with one header line; no value holds a tab or a line break."""
    lines = ["\t".join(header)] + ["\t".join(" ".join(value.split()) for value in row) for row in sorted(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(selection: list[Row], roots: dict[str, Path], out: Path) -> None:
    """Writes files/, pictures.tsv and captions_foreign.tsv."""
    (out / "files").mkdir(parents=True, exist_ok=True)
    pictures: list[tuple[str, ...]] = []
    captions: list[tuple[str, ...]] = []
    for row in selection:
        data, told = facts(row, roots)
        data, suffix, change = encoded(data, row["form"])
        name = f"{row['name']}.{suffix}"
        (out / "files" / name).write_bytes(data)
        source = f"{PACKAGES[row['package']]}: {row['path']} {told['address']}"
        pictures.append((name, told["caption"], "en", told["licence"], told["author"], source, change))
        captions += [(name, language, text) for language, text in foreign(row, roots)]
    write_table(
        out / "pictures.tsv",
        ("file", "caption", "language", "licence", "author", "source", "change"),
        pictures,
    )
    write_table(out / "captions_foreign.tsv", ("file", "language", "caption"), captions)


def main() -> None:
    """Parses, builds, says how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in PACKAGES:
        parser.add_argument(f"--{package}", dest=package, type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = vars(parser.parse_args())
    with (Path(__file__).parent / "selection.tsv").open(encoding="utf-8", newline="") as file:
        selection = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    Image.MAX_IMAGE_PIXELS = None  # wallpapers of known packages, not links
    build(selection, {package: arguments[package] for package in PACKAGES}, arguments["out"])
    total = sum(path.stat().st_size for path in (arguments["out"] / "files").iterdir())
    print(f"{len(selection)} pictures, {total:,} bytes, Pillow {__version__}")


if __name__ == "__main__":
    main()
