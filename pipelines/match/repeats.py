"""`gesso repeats`: repeated samples of a dataset as drop lists, by content and, on request, by embedding."""

from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import identity, kinds, layout, manifest
from gesso.dataset.progress import ShardsProgress
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, at_least, flag, path, read_flags
from gesso.lock import lock
from gesso.pipelines import jobs

if TYPE_CHECKING:
    import apache_beam as beam
    import pyarrow as pa

    from gesso.dataset.collection import Collection
    from gesso.dataset.embeddings import Embeddings

EXACT_LIST, NEAR_LIST = "exact.parquet", "near.parquet"
VERSIONED = ("gesso", "pyarrow")
DESCRIPTION = """\
Finds repeated samples of a dataset and writes drop lists for `gesso export`.

exact.parquet  pictures that were downloaded as the same bytes; of each group the smallest key is kept
near.parquet   with --near: pictures with similar embeddings. Samples are visited in the order of their keys; one is
               kept unless one that is kept already is at least as similar as --near. Every pair is compared.

Other flags are passed to Beam.
Run again, the same command resumes; finished lists are not changed.
"""


@dataclass(frozen=True)
class RepeatSettings:
    """What counts as a repeat."""

    near: float = flag(0.0, "cosine similarity, up to 1, from which two pictures are near repeats; 0: off")

    def __post_init__(self) -> None:
        at_least(0, near=self.near)
        if self.near > 1:
            raise UserError(f"--near is {self.near:g}: give 1 or less")


@dataclass(frozen=True)
class Job:
    """The parameters of one search for repeats."""

    output: str
    source: "Collection"
    embeddings: "Embeddings | None"
    settings: RepeatSettings

    def record(self) -> dict[str, Any]:
        """What decides the result, as plan.json records it."""
        sides = [self.source.input_record()]
        if self.embeddings:
            sides.append({"path": self.embeddings.path, "sha256": self.embeddings.sha256})
        return {"settings": {"near": self.settings.near}, "input": sides}


def build_parser() -> Parser:
    parser = Parser("gesso repeats", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--shards",
        type=path,
        required=True,
        metavar="DIR",
        default=SUPPRESS,
        help="the --output of `gesso collect` or `gesso index`",
    )
    what.add_argument(
        "--embeddings",
        type=path,
        metavar="DIR",
        help="embeddings of these shards, by `gesso embed` or clip-retrieval; only with --near",
    )
    what.add_argument(
        "--output",
        type=path,
        required=True,
        metavar="DIR",
        default=SUPPRESS,
        help="directory to write the drop lists to",
    )
    add_flags(parser, "repeats", RepeatSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso repeats`: parses, checks, searches, writes the lists, and prints how many samples they drop."""
    job, beam_flags = parse(argv)
    from gesso.pipelines.match import parts

    with lock(job.output):
        if parts.start_or_resume(job.output, job.record()):
            print(f"{job.output} is finished: nothing to do")
        else:
            jobs.run(lambda pipeline: build(pipeline, job), beam_flags, progress.watch(job.output, read_state(job)))
            finish(job)
        parts.remove_parts(job.output)
    written = storage.read_json(storage.join(job.output, layout.MANIFEST))
    if left_out := parts.describe_counts(written.get("left_out", {})):
        print(left_out)
    for reason, number in written["dropped"].items():
        print(f"{reason:13}{number:>12,}  {100 * number / max(1, job.source.samples):5.1f}%")
    print(f"drop lists in {job.output}; next: gesso export --shards {job.source.path} --drop {job.output}")
    return 0


def parse(argv: Sequence[str]) -> tuple[Job, list[str]]:
    """The job with its input opened, and Beam's flags."""
    given, beam_flags = jobs.parse(build_parser(), argv)
    from gesso.dataset import collection

    settings = read_flags(given, RepeatSettings)
    if bool(settings.near) != bool(given.embeddings):
        missing_flag = "--embeddings" if settings.near else "--near"
        raise UserError(f"{missing_flag} is missing: near repeats need both, such as --near 0.95 --embeddings DIR")
    kinds.expect(given.shards, "gesso repeats --shards", *kinds.SHARDS)
    if given.embeddings:
        kinds.expect(given.embeddings, "gesso repeats --embeddings", "embeddings")
    kinds.check_output(given.output, "gesso repeats", "repeats")
    shards = storage.absolute(given.shards)
    source = collection.open_collection(shards)
    embeddings = open_embeddings_of(given.embeddings, source) if given.embeddings else None
    return Job(given.output, source, embeddings, settings), beam_flags


def open_embeddings_of(path: str, source: "Collection") -> "Embeddings":
    """The embeddings in `path`. Raises UserError where they are not of these shards.

    Of clip-retrieval's own, which do not tell what they were made of, a key of the first file has to be there.
    """
    from gesso.dataset.embeddings import open_embeddings

    embeddings, shards = open_embeddings(path), source.source_record()
    if embeddings.foreign:
        keys = embeddings.metadata(embeddings.blocks[0], ["key"])["key"] if embeddings.blocks else None
        if keys is not None and not source.has_any(keys.combine_chunks()):
            raise UserError(f"{path} has no key of {source.path}, its first is {keys[0]}: embed these shards")
    elif not identity.same(embeddings.source, shards, path):
        moved = " as they are now" if embeddings.source["path"] == shards["path"] else ""
        raise UserError(
            f"{path} holds embeddings of {embeddings.source['path']}, not of {source.path}{moved}: embed these shards"
        )
    return embeddings


def read_state(job: Job) -> Callable[[], progress.State]:
    """The function that reads the progress: the number of compared pairs, or a fixed line without --near."""
    if not job.embeddings:
        return lambda: progress.State(0, None, lambda rate: f"grouping {job.source.samples:,} samples by content")
    from gesso.dataset.embeddings import chunks
    from gesso.dedup.repeats import pairs_to_compare

    tiles = list(chunks(job.embeddings.blocks))
    return ShardsProgress(job.output, pairs_to_compare(job.embeddings, tiles), "pairs")


def build(pipeline: "beam.Pipeline", job: Job) -> None:
    """Shards → exact.parquet; tiles of embeddings → committed parts with their similar pairs."""
    import apache_beam as beam

    from gesso.pipelines.match import transforms

    exact, path = storage.join(job.output, EXACT_LIST), job.source.path
    (
        pipeline
        | "Shards" >> beam.Create([shard.number for shard in job.source.shards])
        | beam.Reshuffle()
        | "ReadHashes" >> beam.FlatMap(lambda index: transforms.read_hashes(path, index))
        | "SameContent" >> beam.GroupByKey()
        | "DropRepeats" >> beam.ParDo(transforms.FindDrops())
        | "AllDrops" >> beam.combiners.ToList()
        | "WriteExact" >> beam.Map(lambda drops: transforms.write_exact(exact, drops))
    )
    if job.embeddings:
        (
            pipeline
            | "Tiles" >> beam.Create(transforms.missing_tiles(job.output, job.embeddings))
            | "Spread" >> beam.Reshuffle()
            | "FindPairs" >> beam.ParDo(transforms.FindPairs(job.output, job.embeddings, job.settings.near))
        )


def finish(job: Job) -> None:
    """Writes near.parquet where it is requested, then the manifest."""
    from gesso.dedup import repeats
    from gesso.pipelines.match import parts

    names = {EXACT_LIST: repeats.EXACT}
    if job.embeddings:
        write_near(job, job.embeddings)
        names[NEAR_LIST] = repeats.NEAR
    manifest: dict[str, Any] = {
        "format": 1,
        "kind": "repeats",
        "shards": job.source.path,
        "shards_sha256": job.source.sha256,
        "samples": job.source.samples,
        "near": job.settings.near,
        "dropped": {reason: read_list(job, name).num_rows for name, reason in names.items()},
        "files": {name: parts.file_summary(storage.join(job.output, name)) for name in names},
        "versions": {name: version(name) for name in VERSIONED},
    }
    if job.embeddings:
        manifest |= {"embeddings": job.embeddings.path, "model": job.embeddings.model, "views": job.embeddings.views}
        manifest["left_out"] = parts.left_out(job.output)
    hinted = identity.with_paths(manifest, partial(identity.hint, output=job.output))
    storage.write_json(storage.join(job.output, layout.MANIFEST), hinted)


def read_list(job: Job, name: str) -> "pa.Table":
    import pyarrow.parquet as pq

    with storage.open_input(storage.join(job.output, name)) as stream:
        return pq.read_table(stream)


def write_near(job: Job, embeddings: "Embeddings") -> None:
    """Writes near.parquet from the committed parts, without the samples that exact.parquet drops."""
    import numpy as np

    from gesso.dedup import repeats
    from gesso.pipelines.match import parts

    pairs = [parts.read_part(job.output, index) for index in sorted(manifest.committed(job.output))]
    already_dropped = np.array([key.encode() for key in read_list(job, EXACT_LIST)["uid"].to_pylist()], np.bytes_)
    all_pairs = np.concatenate([np.zeros(0, repeats.PAIR), *pairs])
    table = repeats.near_table(embeddings.keys(), all_pairs, already_dropped)
    parts.write_table(storage.join(job.output, NEAR_LIST), table)
