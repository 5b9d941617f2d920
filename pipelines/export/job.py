"""`gesso export`: shards less drop lists → clean shards, shuffled globally, and a validation split. One Beam pipeline.

How the samples are shuffled between all shards while no picture crosses a shuffle: the headers of the source's tars
tell where each sample stands, so what is grouped by target shard are rows with byte ranges. Each target's rows are
written first, in their final order; then a task a target reads its samples' ranges straight from the source's tars and
writes its own. A body is read once and written once (tests/benchmarks/export.py counts it).
"""

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gesso import storage
from gesso.dataset.layout import DROPPED, PLAN, SPLITS
from gesso.flags import Formatter, add_flags, path, read_flags
from gesso.pipelines import jobs
from gesso.pipelines.export.settings import ExportSettings

if TYPE_CHECKING:
    import apache_beam as beam
    import pyarrow as pa

    from gesso.dataset.collection import Collection
    from gesso.pipelines.export.drop_lists import DropList

Json = dict[str, Any]

DESCRIPTION = """\
Shards less drop lists → clean shards, shuffled globally, and a validation split; with a dataset card.

Flags that are not listed here go to Beam: --runner, --direct_num_workers, --direct_running_mode, …
The same command again does what is missing; a finished export is left as it is.
"""
DROP_HELP = (
    "samples to leave out: an overlap of `gesso match` that was reviewed, repeats of `gesso repeats`, or a parquet or "
    "text file of uids; again for more lists, of which the first that names a sample is its reason"
)


@dataclass(frozen=True)
class Job:
    """All that one export is made of."""

    output: str
    source: "Collection"
    drops: "tuple[DropList, ...]"
    fields: "tuple[pa.Field, ...]"
    settings: ExportSettings

    def record(self) -> Json:
        """What decides the bytes of the output, as plan.json keeps it."""
        return {"settings": asdict(self.settings), "input": [self.source.identity(), *(d.identity for d in self.drops)]}

    @property
    def dropped(self) -> str | None:
        return storage.join(self.output, DROPPED) if self.drops else None

    @property
    def sizes(self) -> dict[int, int]:
        """Bytes of each source shard's tar."""
        return {shard.number: shard.bytes for shard in self.source.shards}


def build_parser() -> ArgumentParser:
    parser = ArgumentParser("gesso export", description=DESCRIPTION, allow_abbrev=False, formatter_class=Formatter)
    what = parser.add_argument_group("input and output")
    shards_help = "what `gesso collect` was given as --output, or img2dataset's folder"
    what.add_argument("--shards", type=path, required=True, metavar="DIR", default=SUPPRESS, help=shards_help)
    what.add_argument("--drop", type=path, action="append", metavar="PATH", default=[], help=DROP_HELP)
    what.add_argument(
        "--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help="where the export goes"
    )
    add_flags(parser, "splits and shards", ExportSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso export`: parses, checks, plans, copies, and prints the funnel."""
    job, beam_flags = parse(argv)
    from gesso import progress
    from gesso.dataset import export, manifest

    plan = manifest.read_plan(job.output)
    if plan:
        manifest.check_settings(plan, job.record(), job.output)
    if plan and export.is_finished(job.output, plan):
        print(f"{job.output} is finished: nothing to do")
    else:
        with planning(job) if plan is None else resuming() as told:
            watching = progress.watch(job.output, export.Look(job.output))
            jobs.run(lambda pipeline: build(pipeline, job, plan, told), beam_flags, watching)
    print_funnel(manifest.read_plan(job.output) or {})
    print(f"shards in {job.output}; next: {storage.join(job.output, 'README.md')}, gesso verify {job.output}")
    return 0


def parse(argv: Sequence[str]) -> tuple[Job, list[str]]:
    """The job, its input looked into, and the flags that are Beam's."""
    given, beam_flags = build_parser().parse_known_args(argv)
    settings = read_flags(given, ExportSettings)
    from gesso.dataset import collection
    from gesso.pipelines.export import drop_lists, shuffle

    jobs.check_beam_flags("export", beam_flags)
    source = collection.open_collection(given.shards)
    drops = tuple(drop_lists.read(path, source.path) for path in given.drop)
    fields = shuffle.kept_fields(source.schema())
    return Job(given.output, source, drops, fields, settings), beam_flags


@contextmanager
def planning(job: Job) -> Iterator[Json]:
    """Makes room in the output, writes the file of the dropped, and gives what plan.json tells of the input.

    Where the body fails before plan.json stands, nothing is left.
    """
    from gesso.dataset import export

    export.clear_unfinished(job.output)
    try:
        yield write_dropped(job)
    except BaseException:
        if not storage.exists(storage.join(job.output, PLAN)):
            export.clear_unfinished(job.output)
            storage.remove_empty(*(storage.join(job.output, split) for split in SPLITS), job.output)
        raise


@contextmanager
def resuming() -> Iterator[Json]:
    """A plan that stands tells all of the input itself."""
    yield {}


def write_dropped(job: Job) -> Json:
    """Writes dropped.parquet, where there are drop lists; returns what plan.json tells of the input."""
    from gesso.pipelines.export import drop_lists, shuffle

    dropped = drop_lists.union(job.drops)
    manifest = job.source.manifest or {}
    names = [field.name for field in job.fields]
    listed = drop_lists.count(dropped)
    written = drop_lists.write(dropped, job.dropped) if job.dropped else None
    return {
        "listed": listed,
        "dropped": written,
        "overlaps": [drop.overlap for drop in job.drops if drop.overlap],
        "source_funnel": manifest.get("funnel"),
        "source_settings": manifest.get("settings", {}),
        "source_input": manifest.get("input", []),
        "licence_column": next((name for name in shuffle.LICENCES if name in names), None),
    }


def build(pipeline: "beam.Pipeline", job: Job, plan: Json | None, told: Json) -> None:
    """The whole pipeline: from the source's shards where there is no plan, else what a plan that stands still lacks."""
    import apache_beam as beam

    from gesso.dataset import export
    from gesso.pipelines.export import transforms

    source = job.source.path
    if plan is None:
        config = transforms.DealConfig(source, job.output, job.fields, job.dropped, job.settings, job.record(), told)
        shards = pipeline | "SourceShards" >> beam.Create(job.source.shards)
        targets = shards | transforms.WritePlan(config) | "Targets" >> beam.FlatMap(export.targets)
    else:
        targets = pipeline | "MissingTargets" >> beam.Create(export.missing(job.output, plan))
    _ = targets | transforms.CopyShards(source, job.output, job.sizes)


def print_funnel(plan: Json) -> None:
    """Every sample that was read, by where it ended, and what the drop lists name in vain."""
    jobs.print_funnel(plan["funnel"])
    for reason, count in plan["not_found"].items():
        if count:
            print(f"{count:,} samples that a drop list names for {reason} are not in the shards")
