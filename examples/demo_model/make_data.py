"""Makes the data set of the small model that comes with gesso: free packages → pictures → links → export → tokenizer.

    python examples/demo_model/make_data.py demo

Killed and started again, it goes on where it stopped. README.md beside it tells what each step does.
"""

import argparse
import json
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import captions
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import render
import sources
from colours import shares
from sources import Picture

from gesso import cli, progress, storage
from gesso.pipelines.export.shuffle import key_hashes

HERE = Path(__file__).resolve().parent
PORT = 8642  # of the links: a sample's key is made of its link, so it has to stay the same
DOMINATES = 0.6  # share of a colour from which a picture is called by it
NAMELESS = ("black", "grey")  # outlines and metal: never named by measurement
MOST_OF_A_NAME = 8  # pictures of a source with the same name, of series such as "blue man"
UNCOLOURED = re.compile("person|people|hand|flag")  # groups that are never called by a colour: of what would it be?
TOOLS = {"rsvg-convert": "librsvg2-bin", "npm": "npm", "apt-get": "apt", "dpkg": "dpkg"}  # command → Debian package
VALIDATION = 1000  # pictures, but a tenth of a smaller set
VOCABULARY = 2048
COLUMNS = ("url", "caption", "name", "group", "licence", "author", "source")


class Drawn(NamedTuple):
    """What became of a picture: why it was dropped, or its colour, where one dominates, and the hash of its bytes."""

    key: str
    dropped: str
    colour: str
    sha256: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for packages, pictures, shards, export and tokenizer")
    parser.add_argument("--pictures", type=int, default=0, help="of the packages to use, evenly chosen; 0: all")
    parser.add_argument("--threads", type=int, default=2, help="pictures drawn at a time")
    args = parser.parse_args()
    output: Path = args.output.resolve()
    (output / "packages").mkdir(parents=True, exist_ok=True)
    for tool, package in TOOLS.items():
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: install {package}")
    sources.download(output / "packages")
    pictures = list(sources.all_pictures(output / "packages"))
    if args.pictures:
        pictures = pictures[:: max(1, len(pictures) // args.pictures)]
    print(f"{len(pictures):,} pictures: {listed(sources.count_by(pictures))}", flush=True)
    drawn = draw_all(pictures, output / "pictures", args.threads)
    export(output, write_table(pictures, drawn, output))


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


# ── drawing ──


def draw_all(pictures: list[Picture], folder: Path, threads: int) -> list[Drawn]:
    """Draws the pictures that are not drawn yet, and says what became of each; two at a time."""
    done = 0

    def one(picture: Picture) -> Drawn:
        nonlocal done
        drawn = draw(picture, folder)
        done += 1
        return drawn

    def state() -> progress.State:
        return progress.State(done, len(pictures), lambda rate: progress.line(done, len(pictures), "pictures", rate))

    with progress.watch(str(folder), state), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, pictures))


def draw(picture: Picture, folder: Path) -> Drawn:
    """Writes a picture's JPEG and, once that is whole, what became of it; reads that where it is there already."""
    record = folder / f"{picture.key}.json"
    if record.exists():
        return Drawn(*json.loads(record.read_text()))
    try:
        square = square_of(picture)
        body, colour = render.jpeg(square), "" if picture.colour else dominant(square)
        with storage.write_whole(str(folder / f"{picture.key}.jpg")) as stream:
            stream.write(body)
        drawn = Drawn(picture.key, "", colour, sha256(body).hexdigest())
    except render.Dropped as reason:
        drawn = Drawn(picture.key, str(reason), "", "")
    storage.write_json(str(record), list(drawn))
    return drawn


def square_of(picture: Picture) -> render.Pixels:
    """The picture on its white square. Raises Dropped."""
    drawing = picture.drawing
    if isinstance(drawing, bytes):
        return render.on_white(render.draw_svg(drawing))
    if drawing.suffix == ".svg":
        return render.on_white(render.draw_svg(drawing.read_bytes()))
    return render.photograph(drawing) if picture.group == "photograph" else render.on_white(render.draw_file(drawing))


def dominant(square: render.Pixels) -> str:
    """The colour of at least DOMINATES of the picture, not black or grey; "" where there is none."""
    found = shares(square)
    colour = max(found, key=lambda word: found[word])
    return colour if found[colour] >= DOMINATES and colour not in NAMELESS else ""


# ── the table of links ──


def write_table(pictures: list[Picture], drawn: list[Drawn], output: Path) -> int:
    """OUTPUT/links.parquet: a link and a caption a row; OUTPUT/counts.json: what was left out, and why.

    Returns the number of pictures that are kept.
    """
    counts, rows, seen, names = Counter[str](), list[tuple[str, ...]](), set[str](), Counter[tuple[str, str]]()
    unseen = captions.Unseen(read_unseen())
    for picture, result in zip(pictures, drawn, strict=True):
        source = picture.key.split("/")[0]
        reason = result.dropped or ("same bytes as another" if result.sha256 in seen else "")
        seen.add(result.sha256)
        if not reason and picture.name:
            names[source, picture.name] += 1
            reason = "name of many others" if names[source, picture.name] > MOST_OF_A_NAME else ""
        texts = [] if reason else captions_of(picture, result.colour)
        kept = [text for text in texts if not unseen.gives_away(text)]
        counts["captions held out"] += len(texts) - len(kept)
        reason = reason or ("" if kept else "all captions held out")
        counts[f"pictures dropped: {reason}" if reason else "pictures kept"] += 1
        counts[f"kept of {source}"] += not reason
        rows += [row_of(picture, text, number) for number, text in enumerate(kept)]
    table = pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    with storage.write_whole(str(output / "links.parquet")) as stream:
        pq.write_table(table, stream)
    storage.write_json(str(output / "counts.json"), dict(counts, captions=len(rows)))
    print(listed({**counts, "captions": len(rows)}), flush=True)
    return counts["pictures kept"]


def read_unseen() -> list[str]:
    return (HERE / "unseen.txt").read_text(encoding="utf-8").splitlines()


def captions_of(picture: Picture, colour: str) -> list[str]:
    if picture.sentences:
        return list(picture.sentences)
    if picture.colour:
        return captions.of_silhouette(picture.key, picture.name, picture.colour)
    colour = "" if UNCOLOURED.search(picture.group) else colour
    return captions.of_icon(picture.key, picture.name, picture.style, picture.keywords, colour)


def row_of(picture: Picture, caption: str, number: int) -> tuple[str, ...]:
    """A row of COLUMNS; a link of its own for each caption, since a repeated link counts once."""
    link = f"http://127.0.0.1:{PORT}/{quote(picture.key)}.jpg?caption={number}"
    name = picture.name or caption
    return link, caption, name, picture.group, picture.licence, picture.author, picture.source


# ── gesso's pipeline ──


class Files(SimpleHTTPRequestHandler):
    """Serves a folder on loopback."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """A request is no news."""


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Serves the pictures on loopback while the body runs."""
    try:
        server = Server(("127.0.0.1", PORT), partial(Files, directory=str(folder)))
    except OSError as error:
        sys.exit(f"port {PORT} on loopback cannot be used ({error.strerror}): end what holds it")
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def gesso(*argv: object) -> None:
    """Runs a `gesso` command as a user would and shows it."""
    words = [str(each) for each in argv]
    print(f"\n$ gesso {' '.join(words)}", flush=True)
    if code := cli.main(words):
        sys.exit(code)


def export(output: Path, pictures: int) -> None:
    """The table of links → raw shards → an export whose validation pictures are not in train → a tokenizer."""
    raw, clean = output / "raw", output / "export"
    rules = ("--min_words", 1, "--no-english", "--min_side", render.SIZE, "--image_size", render.SIZE)
    with serving(output / "pictures"):
        columns = ("--extra_columns", ",".join(COLUMNS[2:]))
        gesso("collect", "--input", output / "links.parquet", "--output", raw, *columns, *rules, "--concurrency", 32)
    others, size = output / "validation_repeats.txt", min(VALIDATION, pictures // 10)
    with storage.write_whole(str(others)) as stream:
        stream.write("".join(f"{key}\n" for key in validation_repeats(raw, size)).encode())
    gesso("export", "--shards", raw, "--drop", others, "--output", clean, "--validation_size", size)
    gesso("train", "tokenizer", "--data", clean, "--output", output / "tokenizer", "--vocabulary", VOCABULARY)


def validation_repeats(raw: Path, size: int) -> list[str]:
    """Keys of samples whose picture is in the validation split with another caption.

    The split is the `size` kept samples with the smallest hashes: here those of the first `size` pictures.
    """
    table = pa.concat_tables(pq.read_table(path, columns=["key", "url", "status"]) for path in raw.glob("*.parquet"))
    rows = [row for row in table.to_pylist() if row["status"] == "success"]
    hashes = key_hashes([row["key"] for row in rows], person="validation")
    ordered = [rows[number] for number in np.argsort(hashes, kind="stable")]
    chosen: dict[str, str] = {}  # link → key
    for row in ordered:
        if len(chosen) < size:
            chosen.setdefault(picture_of(row["url"]), row["key"])
    return sorted(row["key"] for row in rows if chosen.get(picture_of(row["url"]), row["key"]) != row["key"])


def picture_of(link: str) -> str:
    return link.partition("?")[0]


if __name__ == "__main__":
    main()
