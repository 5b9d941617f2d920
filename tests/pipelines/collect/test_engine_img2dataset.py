"""img2dataset's engine against a server on this machine: rows, reasons, bytes, its own command, no other connection."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gesso import images, storage
from gesso.dataset import manifest
from gesso.errors import UserError
from gesso.pipelines import packing
from gesso.pipelines.collect import engine_img2dataset, plan
from gesso.pipelines.collect import job as collect
from gesso.pipelines.collect.captions import CaptionRules
from gesso.pipelines.collect.engine_img2dataset import Img2datasetEngine, check_installed, reason_of
from gesso.pipelines.collect.settings import EngineSettings, FetchLimits, ImageRules

pytest.importorskip("img2dataset")

RULES = ImageRules(image_size=64, min_side=32, max_pixels=100_000)
SETTINGS = EngineSettings(concurrency=16, limits=FetchLimits(deadline=6, retries=0), rules=RULES)
EXTRA = (pa.field("similarity", pa.float64()),)
CLOSED = "http://127.0.0.1:1/x.jpg"
NOWHERE = "http://nowhere.invalid/x.jpg"


def picture(width: int, height: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A smooth picture, so that a JPEG of it is small and like a photograph."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    channels = {"RGB": (x, y, x + y), "RGBA": (x, y, x + y, y), "L": (x,)}[mode]
    pixels = np.stack(channels, axis=-1).astype(np.uint8).squeeze()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


BODIES = {
    "/large.jpg": picture(160, 120),
    "/tall.jpg": picture(120, 160),
    "/fits.jpg": picture(80, 60),
    "/grey.jpg": picture(90, 60, mode="L"),
    "/alpha.png": picture(80, 60, "PNG", "RGBA"),
    "/small.jpg": picture(31, 40),
    "/wide.jpg": picture(201, 100),
    "/many.jpg": picture(400, 300),
    "/text": b"<html>no picture</html>",
    "/empty": b"",
    "/broken.png": picture(80, 60, "PNG")[:60],
}
REASONS = {
    "/large.jpg": None,
    "/tall.jpg": None,
    "/fits.jpg": None,
    "/grey.jpg": None,
    "/alpha.png": None,
    "/small.jpg": "too_small",
    "/wide.jpg": "aspect_ratio",
    "/many.jpg": "too_many_pixels",
    "/text": "not_an_image",
    "/empty": "not_an_image",
    "/broken.png": "undecodable",
    "/missing": "http_404",
    "/busy": "http_503",
    "/loop": "redirects",
    "/file": "redirects",
    "/cut": "body_incomplete",
    "/noai": "disallowed",
    "/slow": "timeout",
    CLOSED: "connection",
    NOWHERE: "dns",
}


class Handler(BaseHTTPRequestHandler):
    """Pictures, and every way in which a server fails."""

    released = threading.Event()

    def do_GET(self) -> None:
        if self.path in BODIES:
            self.answer(200, BODIES[self.path])
        elif self.path == "/slow":
            self.released.wait()
        else:
            self.fail()

    def fail(self) -> None:
        match self.path:
            case "/busy":
                self.answer(503)
            case "/loop":
                self.answer(302, Location="/loop")
            case "/file":
                self.answer(302, Location="file:///etc/hostname")
            case "/noai":
                self.answer(200, BODIES["/large.jpg"], **{"X-Robots-Tag": "gesso: noai"})
            case "/cut":
                self.answer(200, BODIES["/large.jpg"], **{"Content-Length": "99999"})
            case _:
                self.answer(404)

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Handler.released.set()
    server.shutdown()


def link(server: str, name: str) -> str:
    return name if name.startswith("http") else server + name


def write_plan(output: Path, links: list[str]) -> str:
    """The plan of one shard; the last link's caption is rejected beforehand."""
    captions = [f"a picture of number {number}".encode() for number in range(len(links) - 1)] + [b""]
    schema = pa.schema([("url", pa.binary()), ("caption", pa.binary()), *EXTRA])
    similarity = [number / 10 for number in range(len(links))]
    rows = pa.RecordBatch.from_arrays(
        [pa.array([link.encode() for link in links]), pa.array(captions), pa.array(similarity)], schema=schema
    )
    pairs, _ = plan.judge_rows(rows, CaptionRules(english=False))
    plan.write_plan(str(output), 0, [packing.pack(pairs)], EXTRA)
    return str(output)


def run(output: str, settings: EngineSettings = SETTINGS) -> dict[str, Any]:
    return Img2datasetEngine(settings).submit(output, 0, EXTRA).result()


def read_tar(path: str | Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def collected(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A shard of every kind of link, and its marker."""
    links = [link(server, name) for name in REASONS] + [server + "/never.jpg"]
    output = write_plan(tmp_path_factory.mktemp("collected"), links)
    return output, run(output)


@pytest.fixture(scope="module")
def rows(server: str, collected: tuple[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    table = pq.read_table(f"{collected[0]}/00000.parquet").to_pylist()
    return {row["url"].removeprefix(server): row for row in table}


def test_every_link_ends_with_its_reason(rows: dict[str, dict[str, Any]]) -> None:
    assert {name: row["reason"] for name, row in rows.items()} == REASONS | {"/never.jpg": "caption_empty"}


def test_messages_are_img2datasets(rows: dict[str, dict[str, Any]]) -> None:
    told = {name: rows[name]["error_message"] for name in ("/missing", "/noai", "/text", "/small.jpg", "/wide.jpg")}
    assert told == {
        "/missing": "HTTP Error 404: Not Found",
        "/noai": "Use of image disallowed by X-Robots-Tag directive",
        "/text": "Image decoding error",
        "/small.jpg": "image too small",
        "/wide.jpg": "aspect ratio too large",
    }


def test_kept_rows_are_whole(rows: dict[str, dict[str, Any]]) -> None:
    shape = ("status", "width", "height", "original_width", "original_height", "original_format", "reencoded")
    kept = {name: tuple(row[field] for field in shape) for name, row in rows.items() if row["reason"] is None}
    assert kept == {
        "/large.jpg": ("success", 85, 64, 160, 120, "jpeg", True),
        "/tall.jpg": ("success", 64, 85, 120, 160, "jpeg", True),
        "/fits.jpg": ("success", 80, 60, 80, 60, "jpeg", False),
        "/grey.jpg": ("success", 90, 60, 90, 60, "jpeg", False),
        "/alpha.png": ("success", 80, 60, 80, 60, "png", True),
    }
    for name in kept:
        assert rows[name]["sha256"] == hashlib.sha256(BODIES[name]).hexdigest()
        assert rows[name]["original_bytes"] == len(BODIES[name])


def test_hash_is_of_the_kept_picture(collected: tuple[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    tar = read_tar(f"{collected[0]}/00000.tar")
    for row in (rows["/large.jpg"], rows["/fits.jpg"], rows["/alpha.png"]):
        body = tar[f"{row['key']}.jpg"]
        pixels = images.decode(body, images.read_header(body), 60)
        assert row["phash"] == images.perceptual_hash(pixels)


def test_rejected_pictures_have_their_source(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["/wide.jpg"]
    assert (row["status"], row["original_bytes"]) == ("failed_to_resize", len(BODIES["/wide.jpg"]))
    assert row["sha256"] == hashlib.sha256(BODIES["/wide.jpg"]).hexdigest()
    assert rows["/missing"]["sha256"] is None


def test_tar_is_in_the_order_of_uids(collected: tuple[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    keys = sorted(row["key"] for row in rows.values() if row["reason"] is None)
    tar = read_tar(f"{collected[0]}/00000.tar")
    assert list(tar) == [f"{key}.{kind}" for key in keys for kind in ("jpg", "txt", "json")]
    by_key = {row["key"]: {name: value for name, value in row.items() if value is not None} for row in rows.values()}
    assert all(json.loads(tar[f"{key}.json"]) == by_key[key] for key in keys)


def test_marker_counts(collected: tuple[str, dict[str, Any]]) -> None:
    output, marker = collected
    assert marker == storage.read_json(f"{output}/00000_stats.json")
    told = {name: marker[name] for name in ("count", "successes", "failed_to_download", "failed_to_resize", "rejected")}
    assert told == {"count": 21, "successes": 5, "failed_to_download": 9, "failed_to_resize": 6, "rejected": 1}
    assert manifest.is_whole(marker, manifest.sizes(output))
    assert not list(Path(output, ".progress").glob("*"))


def quick(server: str) -> list[str]:
    """Links that need no waiting."""
    return [link(server, name) for name in REASONS if name not in ("/slow", NOWHERE)] + [server + "/never.jpg"]


@pytest.mark.slow
def test_same_bytes_whatever_the_threads(server: str, tmp_path: Path) -> None:
    outputs = [write_plan(tmp_path / name, quick(server)) for name in ("one", "many")]
    markers = [
        run(output, replace(SETTINGS, concurrency=threads)) for output, threads in zip(outputs, (1, 32), strict=True)
    ]
    assert markers[0]["files"] == markers[1]["files"]


def test_nothing_to_fetch(server: str, tmp_path: Path) -> None:
    assert run(write_plan(tmp_path, [server + "/never.jpg"]))["status_dict"] == {"caption_empty": 1}


@pytest.mark.slow
def test_failed_process_fails_the_shard(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken" / "img2dataset").mkdir(parents=True)
    (tmp_path / "broken" / "img2dataset" / "__init__.py").write_text("raise SystemExit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    output = write_plan(tmp_path / "out", quick(server))
    with pytest.raises(RuntimeError, match=r"img2dataset ended with exit code 7 after 0 of 18 links"):
        run(output)
    assert sorted(path.name for path in Path(output).iterdir() if path.is_file()) == []


def test_failed_writer_ends_the_process(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise OSError("no room")

    begun: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(engine_img2dataset.shards, "write_shard", no_room)
    monkeypatch.setattr(engine_img2dataset, "fill", lambda process, *_: begun.append(process))
    with pytest.raises(OSError, match="no room"):
        run(write_plan(tmp_path, [link(server, "/slow"), server + "/never.jpg"]))
    assert [process.returncode for process in begun] == [-9]


@pytest.mark.slow
def test_same_pictures_as_its_own_command(server: str, tmp_path: Path, collected: tuple[str, Any]) -> None:
    table = [{"url": link(server, name), "caption": "x"} for name in REASONS if name not in ("/slow", NOWHERE)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "links.parquet")
    arguments = {
        "url_list": str(tmp_path / "links.parquet"),
        "output_folder": str(tmp_path / "out"),
        "input_format": "parquet",
        "output_format": "webdataset",
        "caption_col": "caption",
        "image_size": 64,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "skip_reencode": True,
        "min_image_size": 32,
        "max_image_area": 100_000,
        "max_aspect_ratio": 2.0,
        "timeout": 6,
        "user_agent_token": "gesso",
    }
    script = f"import img2dataset\nif __name__ == '__main__':\n    img2dataset.download(**{arguments!r})\n"
    (tmp_path / "command.py").write_text(script)
    environment = {"NO_ALBUMENTATIONS_UPDATE": "1", "PATH": ""}
    subprocess.run([sys.executable, tmp_path / "command.py"], check=True, env=environment, capture_output=True)
    theirs, ours = by_link(tmp_path / "out"), by_link(Path(collected[0]))
    assert len(theirs) == 18
    assert {url: ours[url] for url in theirs} == theirs


def by_link(output: Path) -> dict[str, tuple[Any, ...]]:
    """What stands in a shard of either kind: message, size, checksum of the source, and the JPEG's bytes, by link."""
    tar = read_tar(output / "00000.tar")
    columns = ("status", "error_message", "width", "height", "original_width", "original_height")
    return {
        row["url"]: (
            *(row[name] for name in columns),
            row["sha256"] if row["status"] == "success" else None,
            tar.get(f"{row['key']}.jpg"),
        )
        for row in pq.read_table(output / "00000.parquet").to_pylist()
    }


GUARD = """\
import os, socket

def note(kind, address):
    if not str(address).startswith(("127.", "localhost", "('127.")):
        with open(os.environ["CALLS"], "a") as log:
            log.write(f"{kind} {address}\\n")
        raise OSError("no network in this test")

class Socket(socket.socket):
    def connect(self, address):
        note("connect", address)
        return super().connect(address)

look_up = socket.getaddrinfo
def getaddrinfo(host, *rest, **named):
    note("look up", host)
    return look_up(host, *rest, **named)

socket.socket, socket.getaddrinfo = Socket, getaddrinfo
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every new process notes what it wants from beyond this machine."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "guard"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


@pytest.mark.slow
def test_no_connection_beyond_the_links(server: str, tmp_path: Path, calls: Path) -> None:
    run(write_plan(tmp_path / "out", [server + "/large.jpg", server + "/never.jpg"]))
    assert calls.read_text() == ""


@pytest.mark.slow
def test_the_guard_sees_albumentations_ask(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    subprocess.run([sys.executable, "-c", "import albumentations"], check=True, capture_output=True)
    assert "look up pypi.org" in calls.read_text()


@pytest.mark.slow
def test_whole_job(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    links = [server + name for name in ("/large.jpg", "/fits.jpg", "/small.jpg", "/missing")]
    captions = [f"A photograph of a red house with number {number}" for number in range(len(links))]
    pq.write_table(pa.table({"url": links, "caption": captions}), tmp_path / "links.parquet")
    flags = ["--engine", "img2dataset", "--image_size", "64", "--min_side", "32", "--retries", "0"]
    assert collect.main(["--input", f"{tmp_path}/*.parquet", "--output", f"{tmp_path}/out", *flags]) == 0
    manifest = storage.read_json(f"{tmp_path}/out/manifest.json")
    assert manifest["funnel"] == {"rows_read": 4, "success": 2, "http_404": 1, "too_small": 1}
    assert manifest["settings"]["engine"] == "img2dataset"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("<urlopen error [Errno -2] Name or service not known>", "dns"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "dns"),
        ("<urlopen error [Errno 111] Connection refused>", "connection"),
        ("[Errno 104] Connection reset by peer", "connection"),
        ("Remote end closed connection without response", "connection"),
        ("<urlopen error timed out>", "timeout"),
        ("The read operation timed out", "timeout"),
        ("<urlopen error [Errno 110] Connection timed out>", "timeout"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "tls"),
        ("IncompleteRead(10 bytes read, 90 more expected)", "body_incomplete"),
        ("HTTP Error 410: Gone", "http_410"),
        ("HTTP Error 302: Found - Redirection to url 'file:///etc/passwd' is not allowed", "redirects"),
        ("URL can't contain control characters. '/a b' (found at least ' ')", "url_unusable"),
        ("'ascii' codec can't encode character '\\xe9' in position 5: ordinal not in range(128)", "url_unusable"),
    ],
)
def test_reasons_of_messages(message: str, reason: str) -> None:
    assert reason_of({"status": "failed_to_download"}, message) == reason


def test_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_img2dataset, "find_spec", lambda name: None)
    told = "--engine img2dataset needs img2dataset: pip install 'gesso\\[img2dataset\\]'"
    with pytest.raises(UserError, match=told):
        check_installed()
