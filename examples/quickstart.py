"""The main job on the bundled pictures, from links to clean shards and tokens. `make quickstart` runs it.

Run again, it goes on where it stopped and keeps what was decided and trained. The table of links holds what the real
web holds besides good pictures: dead links, a slow server, redirects, a page in the place of a picture, a truncated
file, a panorama, foreign and boilerplate captions, repeats. In the place of MS-COCO's validation set stands a folder
with altered copies of collected pictures and with pictures that are not.
"""

import csv
import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from gesso import cli
from gesso.dedup.overlap import read
from gesso.dedup.review.suggestion import suggest

HERE = Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
OUTPUT = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE.parent / "quickstart"
TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}
DEADLINE = 8  # seconds; the slow server never answers
UPDATES = "300"  # of the dVAE
PRIOR_UPDATES = "40"
BOILERPLATE = (
    "IMG_2041.JPG",
    "Photographed on 3 May 2014",
    "Click to enlarge",
    "$12.99",
    "Canon EOS 5D Mark II",
    "dog",
)

CAPTIONS = ("a red apple", "a blue heart", "a smiling face", "a green tree")  # for the model that gesso ships

Row = tuple[str, str, str, str]  # link, caption, licence, source


class Web(BaseHTTPRequestHandler):
    """A small web: the pictures under /pictures, and a fault under each other path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind, _, name = self.path.strip("/").partition("/")
        getattr(self, f"serve_{kind}", self.serve_missing)(name)

    def serve_pictures(self, name: str) -> None:
        self.answer(200, (PICTURES / "files" / name).read_bytes(), TYPES[name.rsplit(".")[-1]])

    def serve_missing(self, name: str) -> None:
        self.answer(404, b"gone", "text/plain")

    def serve_error(self, name: str) -> None:
        self.answer(500, b"try another day", "text/plain")

    def serve_page(self, name: str) -> None:
        self.answer(200, b"<html><title>Parked domain</title></html>", "image/jpeg")

    def serve_moved(self, name: str) -> None:
        self.answer(302, b"", "text/plain", Location=f"/pictures/{name}")

    def serve_circle(self, name: str) -> None:
        self.answer(302, b"", "text/plain", Location=self.path)

    def serve_truncated(self, name: str) -> None:
        whole = (PICTURES / "files" / name).read_bytes()
        self.answer(200, whole[: len(whole) // 2], "image/jpeg")

    def serve_panorama(self, name: str) -> None:
        picture, stream = Image.open(PICTURES / "files" / name).convert("RGB"), io.BytesIO()
        picture.resize((1800, 400)).save(stream, "JPEG")
        self.answer(200, stream.getvalue(), "image/jpeg")

    def serve_slow(self, name: str) -> None:
        self.connection.recv(1)  # returns when the client has lost its patience

    def answer(self, code: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(code)
        for header, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A request is no news."""


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as the job opens."""

    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(port: int) -> Iterator[int]:
    """The port of the small web, on loopback, while the body runs; any that is free where `port` is 0."""
    with Server(("127.0.0.1", port), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def read_tsv(name: str) -> list[dict[str, str]]:
    with (PICTURES / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def links(port: int) -> list[Row]:
    """The table: every picture with its own caption, then the faults."""
    pictures = read_tsv("pictures.tsv")
    photographs = [row for row in pictures if row["file"].endswith(".jpg")]
    base, other = f"http://127.0.0.1:{port}", f"http://localhost:{port}"

    def row(path: str, of: dict[str, str], caption: str | None = None) -> Row:
        host = other if len(path) % 3 == 0 else base
        return f"{host}/{path}/{of['file']}", caption or of["caption"], of["licence"], of["source"]

    good = [row("pictures", of) for of in pictures]
    faults = ("missing", "error", "page", "moved", "circle", "truncated", "panorama", "slow")
    broken = [row(fault, of) for n, fault in enumerate(faults) for of in photographs[4 * n : 4 * n + 4]]
    foreign = [
        (f"{base}/pictures/{of['file']}?lang={of['language']}", of["caption"], "", "")
        for of in read_tsv("captions_foreign.tsv")[::6]
    ]
    useless = [row(f"missing/{n}", photographs[n], text) for n, text in enumerate(BOILERPLATE)]
    cut = [row("moved", of, f"{of['caption']} | Stock Photo") for of in photographs[40:46]]
    private = ("file:///etc/hostname", "a file of this machine", "", "")
    return [*good, *broken, *foreign, *useless, *cut, *good[:12], private]


def cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 10, height // 8, width, height))


def framed(picture: Image.Image) -> Image.Image:
    return ImageOps.expand(picture, min(picture.size) // 12, "black")


def small(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // 3, picture.height // 3))


def tilted(picture: Image.Image) -> Image.Image:
    return picture.rotate(6, Image.Resampling.BICUBIC, fillcolor="white")


ALTERATIONS = (cropped, ImageOps.mirror, framed, small, tilted, ImageOps.grayscale)


def write_references(folder: Path, annotations: Path) -> None:
    """The validation set: altered copies of 36 photographs, and the pictures that are too small for the collection."""
    folder.mkdir(exist_ok=True)
    pictures = read_tsv("pictures.tsv")
    photographs = [row for row in pictures if row["file"].endswith(".jpg")][48:84]
    chosen = []
    for number, row in enumerate(pictures):
        picture = Image.open(PICTURES / "files" / row["file"]).convert("RGB")
        if row in photographs:
            picture = ALTERATIONS[number % len(ALTERATIONS)](picture)
        elif min(picture.size) >= 256:
            continue
        name = f"{len(chosen):012d}.jpg"
        picture.save(folder / name, "JPEG", quality=70)
        chosen.append((name, row["caption"]))
    images = [{"id": number, "file_name": name} for number, (name, _) in enumerate(chosen)]
    captions = [{"id": number, "image_id": number, "caption": text} for number, (_, text) in enumerate(chosen)]
    annotations.write_text(json.dumps({"images": images, "annotations": captions}))


def gesso(*argv: str) -> None:
    """Runs a `gesso` command as a user would and shows it."""
    print(f"\n$ gesso {' '.join(argv)}", flush=True)
    code = cli.main(argv)
    if code:
        print(f"`make clean-quickstart` removes {OUTPUT}, with what was decided and trained there, to begin anew")
        sys.exit(code)


def port_of(table: Path) -> int:
    """The port that an earlier run's links point to; 0 where there is none."""
    return urlsplit(pq.read_table(table)["url"][0].as_py()).port or 0 if table.exists() else 0


def collect() -> str:
    """Links of the small web → OUTPUT/raw."""
    table, shards = OUTPUT / "links.parquet", str(OUTPUT / "raw")
    with serving(port_of(table)) as port:
        rows = links(port)
        columns = ("url", "caption", "licence", "source")
        if not table.exists():
            pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), table)
        print(f"{len(rows)} links to a small web on 127.0.0.1:{port}, good ones and faulty ones: {table}")
        flags = ("--shard_size", "200", "--deadline", str(DEADLINE), "--concurrency", "32")
        gesso("collect", "--input", str(table), "--output", shards, "--extra_columns", "licence,source", *flags)
    gesso("verify", shards)
    gesso("report", shards)
    return shards


def deduplicate(shards: str) -> tuple[str, str]:
    """Which samples show what the validation set shows, and which repeat each other."""
    folder, annotations = OUTPUT / "validation", OUTPUT / "validation.json"
    if not annotations.exists():
        write_references(folder, annotations)
    embeddings, reference, overlap = (str(OUTPUT / name) for name in ("embeddings", "validation_embeddings", "overlap"))
    gesso("embed", "--shards", shards, "--output", embeddings)
    gesso("embed", "--images", str(folder), "--annotations", str(annotations), "--output", reference)
    gesso("match", "--embeddings", embeddings, "--reference", reference, "--output", overlap)
    gesso("review", overlap, "--no-serve")
    if not (OUTPUT / "overlap/decision.json").exists():
        suggested = suggest(read(overlap)).threshold  # a person would look at the page first
        gesso("review", overlap, "--threshold", f"{suggested}", "--who", "make quickstart")
    gesso("repeats", "--shards", shards, "--output", str(OUTPUT / "repeats"))
    return overlap, str(OUTPUT / "repeats")


def train(clean: str) -> tuple[str, str]:
    """A tokenizer, a small dVAE and a small prior that have only just begun to learn."""
    tokenizer, dvae = str(OUTPUT / "tokenizer"), str(OUTPUT / "dvae")
    gesso("train", "tokenizer", "--data", clean, "--output", tokenizer)
    loop = ("--steps", UPDATES, "--evaluate_every", str(int(UPDATES) // 2), "--log_every", "5")
    gesso("train", "dvae", "--data", clean, "--output", dvae, "--preset", "tiny", *loop)
    gesso("report", dvae)
    if not (OUTPUT / "tokens/manifest.json").exists():  # the dVAE may have been trained on since
        gesso("encode", "--shards", clean, "--dvae", dvae, "--output", str(OUTPUT / "tokens"), "--views", "2")
    gesso("verify", str(OUTPUT / "tokens"))
    return dvae, train_prior(tokenizer, dvae)


def train_prior(tokenizer: str, dvae: str) -> str:
    """A small prior on captions and image tokens."""
    prior, what = str(OUTPUT / "prior"), ("--data", str(OUTPUT / "tokens"), "--tokenizer", tokenizer, "--dvae", dvae)
    loop = ("--steps", PRIOR_UPDATES, "--evaluate_every", str(int(PRIOR_UPDATES) // 2), "--log_every", "5")
    gesso("train", "prior", *what, "--output", prior, "--preset", "tiny", *loop)
    gesso("report", prior)
    return prior


def generate(prior: str) -> None:
    """Pictures by the model that gesso ships; by the one just begun those of the validation set's captions, rated."""
    shipped, begun, captions = OUTPUT / "generated", OUTPUT / "generated_by_prior", OUTPUT / "captions.txt"
    captions.write_text("\n".join(CAPTIONS) + "\n")
    gesso("generate", "--captions", str(captions), "--output", str(shipped), "--n", "32", "--keep", "8")
    annotations = OUTPUT / "validation.json"
    captions = OUTPUT / "validation_captions.txt"
    told = json.loads(annotations.read_text())["annotations"]
    captions.write_text("\n".join(each["caption"] for each in told) + "\n")
    gesso("generate", "--captions", str(captions), "--prior", prior, "--output", str(begun), "--n", "1")
    sides = ("--generated", str(begun), "--reference", str(OUTPUT / "validation"), "--annotations", str(annotations))
    excluded = ("--exclude", str(OUTPUT / "clean/coco_overlap.json"), "--blur", "0", "2")
    gesso("evaluate", *sides, *excluded, "--output", str(OUTPUT / "evaluation"))


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    shards = collect()
    overlap, repeats = deduplicate(shards)
    clean = str(OUTPUT / "clean")
    drops = ("--drop", overlap, "--drop", repeats)
    gesso("export", "--shards", shards, *drops, "--output", clean, "--validation_size", "20", "--shard_size", "100")
    gesso("verify", clean)
    dvae, prior = train(clean)
    generate(prior)
    gesso("report", str(OUTPUT))
    print(f"""
Look at, in a browser:
  {OUTPUT}/report.html             all of it on one page: links, overlaps, shards, reconstructions, pictures
  {shards}/report.html             what was collected, and what became of every link
  {overlap}/review/index.html  pairs of validation and training pictures; `gesso review {overlap}` serves it
  {dvae}/report.html            the training's curves, reconstructions and codes; more --steps go on with it
  {prior}/report.html           the prior's losses, and what it draws from captions so far
and at:
  {OUTPUT}/generated/contact_sheet.png   what the model that gesso ships draws; `gesso studio` draws on a page
  {clean}/train, validation        the clean shards
  {clean}/README.md                their dataset card
  {clean}/coco_overlap.json        validation pictures to leave out of an evaluation""")


if __name__ == "__main__":
    main()
