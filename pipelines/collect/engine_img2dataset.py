"""img2dataset's own downloader and resizer, a planned shard at a time, into our own commit. Knows no Beam.

    plan/00000.plan ─▶ a process for the shard: img2dataset's Downloader, its threads, its Resizer
        ─ a pipe, a record an outcome ─▶ reasons, perceptual hash ─▶ spool ─▶ tar and rows in the order of the uids

A process for the shard, because img2dataset's resizer points the descriptors of stdout and stderr at /dev/null while it
works: in a process with other threads their messages are lost, and two resizers at once leave both there for good.
"""

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from typing import IO, Any

import pyarrow as pa

from gesso import images
from gesso.dataset import shards
from gesso.dataset.img2dataset import reason_of_message
from gesso.dataset.manifest import plan_path
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import FAILED_TO_DOWNLOAD, SUCCESS, status_of
from gesso.dataset.shards import Outcome, Row, Spool
from gesso.errors import Rejected, UserError
from gesso.pipelines.collect.engine import NOTE_INTERVAL, count_rows, read_plan
from gesso.pipelines.collect.settings import EngineSettings

SHARDS_AT_ONCE = 2  # one shard's start and slowest links are the other's time
LINK_FIELDS = pa.schema([("position", pa.int64()), ("url", pa.string())])
LINKS = "links.arrow"
# img2dataset's default: what a server may say in X-Robots-Tag to be left alone.
DISALLOWING = ("noai", "noimageai", "noindex", "noimageindex")
SIZE_REASONS = ("too_small", "too_many_pixels", "aspect_ratio")


def check_installed() -> None:
    """Raises UserError where img2dataset is not there."""
    if find_spec("img2dataset") is None:
        raise UserError("--engine img2dataset needs img2dataset: pip install 'gesso[img2dataset]'")


class Img2datasetEngine:
    """Runs a process for each shard, with `concurrency` threads for its requests; `submit` returns at once."""

    def __init__(self, settings: EngineSettings) -> None:
        check_installed()
        self._settings = settings
        self._shards = ThreadPoolExecutor(SHARDS_AT_ONCE, "img2dataset")

    def submit(self, output: str, index: int, extra: tuple[pa.Field, ...]) -> "Future[Row]":
        """Starts shard `index` of the plan under `output`; the future holds its marker once it is committed."""
        return self._shards.submit(collect, output, index, extra, self._settings)


def collect(output: str, index: int, extra: tuple[pa.Field, ...], settings: EngineSettings) -> Row:
    """One planned shard → its commit marker."""
    plan = plan_path(output, index)
    started, total = time(), count_rows(plan)
    with (
        closing(Spool(total)) as spool,
        TemporaryDirectory(prefix="gesso-") as folder,
        ThreadPoolExecutor(1) as filler,
    ):
        note = ProgressFile(output, index, spool.counts)
        planned = write_links(plan, Path(folder, LINKS))
        with running(folder, total, settings) as process:
            filling = filler.submit(fill, process, planned, spool, note)
            filling.add_done_callback(partial(pass_failure_on, spool))
            written, counts = shards.write_shard(output, index, read_plan(plan), spool.take, extra)
            filling.result()
    marker = shards.commit(output, index, written, counts, started, time())
    note.remove()
    return marker


def write_links(plan: str, path: Path) -> int:
    """Writes the pairs to fetch and their positions as img2dataset's Downloader reads them; returns their number."""
    start = planned = 0
    with pa.ipc.new_file(str(path), LINK_FIELDS) as writer:
        for batch in read_plan(plan):
            positions = pa.array(range(start, start + batch.num_rows), pa.int64())
            pairs = pa.RecordBatch.from_arrays([positions, batch["url"]], schema=LINK_FIELDS)
            writer.write_batch(pairs.filter(batch["reason"].is_null()))
            start += batch.num_rows
            planned += batch["reason"].null_count
    return planned


@contextmanager
def running(folder: str, total: int, settings: EngineSettings) -> "Iterator[subprocess.Popen[bytes]]":
    """The shard's process, which is gone when the body is left; `albumentations` asks no index for newer versions."""
    command = [sys.executable, "-P", "-m", "gesso.pipelines.collect.engine_img2dataset"]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    try:
        with process.stdin:
            pickle.dump((folder, total, settings), process.stdin)
        yield process
    finally:
        process.kill()
        process.wait()


def fill(process: "subprocess.Popen[bytes]", planned: int, spool: Spool, note: ProgressFile) -> None:
    """Puts the outcomes that the process finds into the spool. Raises RuntimeError where it failed or lost some."""
    assert process.stdout is not None
    noted = 0.0
    with process.stdout as pipe:
        for position, found, body in results(pipe):
            outcome = judge(found, body)
            spool.put(position, outcome)
            if monotonic() - noted > NOTE_INTERVAL:
                noted = monotonic()
                note.write()
    done = spool.counts.total()
    if process.wait() or done < planned:
        raise RuntimeError(f"img2dataset ended with exit code {process.returncode} after {done} of {planned} links")


def pass_failure_on(spool: Spool, filling: "Future[None]") -> None:
    """Fails the writer, which waits for outcomes that will not come."""
    error = filling.exception()
    if error:
        spool.fail(error)


def results(pipe: IO[bytes]) -> Iterator[tuple[int, Row, bytes]]:
    """What the process has written, to its end or as far as it came."""
    while True:
        try:
            yield pickle.load(pipe)
        except (EOFError, pickle.UnpicklingError):
            return


def judge(found: Row, body: bytes) -> Outcome:
    """img2dataset's row and picture as an outcome of ours."""
    message = found.pop("error_message")
    if found["status"] == SUCCESS:
        reencoded = hashlib.sha256(body).hexdigest() != found["sha256"]
        return Outcome({**found, "reason": None, "reencoded": reencoded, "phash": hash_of(body)}, body)
    reason = reason_of(found, message)
    return Outcome({**found, "status": status_of(reason), "reason": reason, "error_message": message})


def reason_of(found: Row, message: str) -> str:
    """Our reason for a failure that img2dataset describes in `message`."""
    reason = reason_of_message(message)
    if found["status"] == FAILED_TO_DOWNLOAD:
        return reason or "connection"
    return reason if reason in SIZE_REASONS else "undecodable" if found["original_format"] else "not_an_image"


def hash_of(body: bytes) -> str | None:
    """The picture's perceptual hash; None for one that is damaged: img2dataset keeps those."""
    try:
        header = images.read_header(body)
        pixels = images.decode(body, header, min(header.width, header.height))
    except Rejected:
        return None
    return images.perceptual_hash(images.upright(pixels, header.orientation))


# From here on: what runs in the shard's process.


class DescribingResizer:
    """img2dataset's resizer, which also records its input, for columns that img2dataset does not have."""

    def __init__(self, resizer: Any) -> None:
        self._resizer = resizer
        self.described: Row = {}

    def __call__(self, stream: BytesIO, boxes: None = None) -> Any:
        body = stream.getvalue()
        self.described = {
            "sha256": hashlib.sha256(body).hexdigest(),
            "original_bytes": len(body),
            "original_format": format_of(body),
        }
        return self._resizer(stream, boxes)


def format_of(body: bytes) -> str | None:
    try:
        return images.read_header(body).format
    except Rejected:
        return None


class PipeWriter:
    """A sample writer of img2dataset's kind; its arguments after the first two are img2dataset's and of no use."""

    def __init__(self, pipe: IO[bytes], resizer: DescribingResizer, *_: Any) -> None:
        self._pipe = pipe
        self._resizer = resizer

    def write(self, body: bytes | None, key: str, caption: None, meta: Row) -> None:
        names = ("status", "error_message", "width", "height", "original_width", "original_height")
        described = {} if meta["status"] == FAILED_TO_DOWNLOAD else self._resizer.described
        found = {name: meta[name] for name in names} | described
        try:
            pickle.dump((meta["position"], found, body or b""), self._pipe)
            self._pipe.flush()
        except BrokenPipeError:
            os._exit(1)  # the reader is gone; img2dataset would swallow the exception and go on with the next link

    def close(self) -> None:
        """The process's end closes the pipe."""


def open_downloader(folder: str, total: int, settings: EngineSettings, pipe: IO[bytes]) -> Any:
    """img2dataset's Downloader, as its command builds it for these settings.

    The same as `--resize_mode keep_ratio --resize_only_if_bigger True --skip_reencode True`, and so on: the short side
    is `image_size` at most, and a JPEG that fits keeps its bytes.
    """
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer

    rules, limits = settings.rules, settings.limits
    resizer = DescribingResizer(
        Resizer(
            image_size=rules.image_size,
            resize_mode="keep_ratio",
            resize_only_if_bigger=True,
            encode_quality=rules.jpeg_quality,
            skip_reencode=True,
            min_image_size=rules.min_side,
            max_image_area=rules.max_pixels,
            max_aspect_ratio=rules.max_aspect_ratio,
        )
    )
    return Downloader(
        sample_writer_class=partial(PipeWriter, pipe, resizer),
        resizer=resizer,
        thread_count=settings.concurrency,
        save_caption=False,
        extract_exif=False,
        output_folder=folder,
        column_list=LINK_FIELDS.names,
        timeout=limits.deadline,
        number_sample_per_shard=max(1, total),
        oom_shard_count=5,
        compute_hash=None,  # DescribingResizer has it, also for what is not kept
        verify_hash_type=None,
        encode_format="jpg",
        retries=limits.retries,
        user_agent_token=limits.user_agent.split("/")[0],
        disallowed_header_directives=DISALLOWING,
    )


def fetch_shard() -> None:
    """The shard's process: results go into the pipe that was stdout, what img2dataset prints goes to stderr."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    folder, total, settings = pickle.load(sys.stdin.buffer)
    open_downloader(folder, total, settings, pipe).download_shard((0, str(Path(folder, LINKS))))


if __name__ == "__main__":
    fetch_shard()
