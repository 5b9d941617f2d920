"""`gesso repeats`: samples that a dataset holds more than once, as drop lists: by content, by embedding on request."""

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import layout, manifest
from gesso.dataset.progress import ShardsLook
from gesso.errors import UserError
from gesso.flags import Formatter, add_flags, at_least, flag, path, read_flags
from gesso.pipelines import jobs

if TYPE_CHECKING:
    import apache_beam as beam
    import pyarrow as pa

    from gesso.dataset.collection import Collection
    from gesso.dataset.embeddings import Embeddings

EXACT_LIST, NEAR_LIST = "exact.parquet", "near.parquet"
VERSIONED = ("gesso", "pyarrow")
DESCRIPTION = """\
Samples that a dataset holds more than once, as drop lists for `gesso export`.

exact.parquet  pictures that were downloaded as the same bytes; the smallest uid stays
near.parquet   with --near: pictures whose embeddings are that similar. Samples are gone through by uid; one stays
               unless one that stays already is at least so similar. Exact: every pair is compared.

Flags that are not listed here go to Beam.
The same command again does what is missing; finished lists are left as they are.
"""


@dataclass(frozen=True)
class RepeatSettings:
    """What counts as a repeat."""

    near: float = flag(0.0, "cosine similarity from which two pictures are near repeats, up to 1; 0: off")

    def __post_init__(self) -> None:
        at_least(0, near=self.near)
        if self.near > 1:
            raise UserError(f"--near is {self.near:g}: give 1 or less")


@dataclass(frozen=True)
class Job:
    """All that one search for repeats is made of."""

    output: str
    source: "Collection"
    embeddings: "Embeddings | None"
    settings: RepeatSettings

    def record(self) -> dict[str, Any]:
        """What decides the result, as plan.json keeps it."""
        sides = [self.source.identity()]
        if self.embeddings:
            sides.append({"path": self.embeddings.path, "sha256": self.embeddings.sha256})
        return {"settings": {"near": self.settings.near}, "input": sides}


def build_parser() -> ArgumentParser:
    parser = ArgumentParser("gesso repeats", description=DESCRIPTION, allow_abbrev=False, formatter_class=Formatter)
    what = parser.add_argument_group("input and output")
    what.add_argument("--shards", type=path, required=True, metavar="DIR", default=SUPPRESS, help="a collected dataset")
    what.add_argument("--embeddings", type=path, metavar="DIR", help="its embeddings, by `gesso embed`, for --near")
    what.add_argument(
        "--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help="where the drop lists go"
    )
    add_flags(parser, "repeats", RepeatSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso repeats`: parses, checks, searches, writes the lists, and prints how many samples they drop."""
    job, beam_flags = parse(argv)
    from gesso.pipelines.match import parts

    if parts.begin(job.output, job.record()):
        print(f"{job.output} is finished: nothing to do")
    else:
        jobs.run(lambda pipeline: build(pipeline, job), beam_flags, progress.watch(job.output, look(job)))
        finish(job)
    parts.sweep(job.output)
    dropped = storage.read_json(storage.join(job.output, layout.MANIFEST))["dropped"]
    for reason, number in dropped.items():
        print(f"{reason:13}{number:>12,}  {100 * number / max(1, job.source.samples):5.1f}%")
    print(f"drop lists in {job.output}; next: gesso export --shards {job.source.path} --drop {job.output}")
    return 0


def parse(argv: Sequence[str]) -> tuple[Job, list[str]]:
    """The job, its input looked into, and the flags that are Beam's."""
    given, beam_flags = build_parser().parse_known_args(argv)
    from gesso.dataset import collection

    jobs.check_beam_flags("repeats", beam_flags)
    settings = read_flags(given, RepeatSettings)
    if bool(settings.near) != bool(given.embeddings):
        lacking = "--embeddings" if settings.near else "--near"
        raise UserError(f"{lacking} is missing: near repeats need both --near 0.95, say, and --embeddings DIR")
    shards = storage.absolute(given.shards)
    source = collection.open_collection(shards)
    embeddings = open_own(given.embeddings, shards) if given.embeddings else None
    return Job(given.output, source, embeddings, settings), beam_flags


def open_own(path: str, shards: str) -> "Embeddings":
    """The embeddings under `path`. Raises UserError where they are not those of the shards."""
    from gesso.dataset.embeddings import open_embeddings

    embeddings = open_embeddings(path)
    if embeddings.source != {"kind": "shards", "path": shards}:
        raise UserError(f"{path} holds embeddings of {embeddings.source['path']}, not of {shards}: embed these shards")
    return embeddings


def look(job: Job) -> Callable[[], progress.State]:
    """What to show: the pairs compared, or that there is nothing to count."""
    if not job.embeddings:
        return lambda: progress.State(0, None, lambda rate: f"grouping {job.source.samples:,} samples by content")
    from gesso.dataset.embeddings import portions
    from gesso.dedup.repeats import pairs_to_compare

    tiles = list(portions(job.embeddings.blocks))
    return ShardsLook(job.output, pairs_to_compare(tiles), "pairs")


def build(pipeline: "beam.Pipeline", job: Job) -> None:
    """Shards → exact.parquet; tiles of embeddings → their similar pairs, committed."""
    import apache_beam as beam

    from gesso.pipelines.match import transforms

    exact, path = storage.join(job.output, EXACT_LIST), job.source.path
    (
        pipeline
        | "Shards" >> beam.Create([shard.number for shard in job.source.shards])
        | beam.Reshuffle()
        | "ReadHashes" >> beam.FlatMap(lambda index: transforms.read_hashes(path, index))
        | "SameContent" >> beam.GroupByKey()
        | "DropRepeats" >> beam.ParDo(transforms.DropRepeats())
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
    """near.parquet where it was asked for, then the manifest."""
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
        "samples": job.source.samples,
        "near": job.settings.near,
        "dropped": {reason: read_list(job, name).num_rows for name, reason in names.items()},
        "files": {name: parts.summary(storage.join(job.output, name)) for name in names},
        "versions": {name: version(name) for name in VERSIONED},
    }
    if job.embeddings:
        manifest |= {"embeddings": job.embeddings.path, "model": job.embeddings.model}
    storage.write_json(storage.join(job.output, layout.MANIFEST), manifest)


def read_list(job: Job, name: str) -> "pa.Table":
    import pyarrow.parquet as pq

    with storage.open_input(storage.join(job.output, name)) as stream:
        return pq.read_table(stream)


def write_near(job: Job, embeddings: "Embeddings") -> None:
    """near.parquet, from the committed parts and the samples that exact.parquet leaves."""
    import numpy as np

    from gesso.dedup import repeats
    from gesso.pipelines.match import parts

    pairs = [parts.read(job.output, index) for index in sorted(manifest.committed(job.output))]
    gone = np.array([uid.encode() for uid in read_list(job, EXACT_LIST)["uid"].to_pylist()], np.bytes_)
    every = np.concatenate([np.zeros(0, repeats.PAIR), *pairs])
    table = repeats.near_table(embeddings.keys(), every, gone)
    parts.write_table(storage.join(job.output, NEAR_LIST), table)
