"""The main job on the bundled pictures: serve them on loopback, collect, verify, report. `make quickstart` runs it.

The table of links holds what the real web holds besides good pictures: dead links, a slow server, redirects, a page in
the place of a picture, a truncated file, a panorama, foreign and boilerplate captions, repeats.
"""

import csv
import io
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines import cli

HERE = Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
OUTPUT = HERE.parent / "quickstart"
TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}
DEADLINE = 8  # seconds; the slow server never answers
BOILERPLATE = (
    "IMG_2041.JPG",
    "Photographed on 3 May 2014",
    "Click to enlarge",
    "$12.99",
    "Canon EOS 5D Mark II",
    "dog",
)

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


@contextmanager
def serving() -> Iterator[int]:
    """The port of the small web, on loopback, while the body runs."""
    with Server(("127.0.0.1", 0), Web) as server:
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


def gesso(*argv: str) -> None:
    """Runs a `gesso` command as a user would and shows it."""
    print(f"\n$ gesso {' '.join(argv)}", flush=True)
    code = cli.main(argv)
    if code:
        sys.exit(code)


def main() -> None:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    table, shards = OUTPUT / "links.parquet", OUTPUT / "raw"
    with serving() as port:
        rows = links(port)
        columns = ("url", "caption", "licence", "source")
        pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), table)
        print(f"{len(rows)} links to a small web on 127.0.0.1:{port}, good ones and faulty ones: {table}")
        collect = ("collect", "--input", str(table), "--output", str(shards), "--extra_columns", "licence,source")
        gesso(*collect, "--shard_size", "200", "--deadline", str(DEADLINE), "--concurrency", "32")
    gesso("verify", str(shards))
    gesso("report", str(shards))
    print(f"\nLook at {shards / 'report.html'} in a browser, and at the shards beside it.")


if __name__ == "__main__":
    main()
