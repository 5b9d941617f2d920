"""`gesso export`: shards less drop lists → clean shards, shuffled globally, and a validation split. One Beam pipeline.

Samples are shuffled between all shards, but no picture crosses Beam's shuffle. The headers of the source's tars give
the byte range of each sample, so only rows with byte ranges are grouped by target shard. Each target's rows are written
first, in their final order; then one task for each target reads the ranges from the source's tars and writes the new
tar. Every byte is read once and written once (tests/benchmarks/export.py counts them).
"""

import os
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gesso import storage
from gesso.dataset import identity, kinds
from gesso.dataset.layout import DROPPED, PLAN, SPLITS
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.lock import lock
from gesso.pipelines import jobs
from gesso.pipelines.export.settings import ExportSettings, fitted

if TYPE_CHECKING:
    import apache_beam as beam
    import pyarrow as pa

    from gesso.dataset.collection import Collection
    from gesso.pipelines.export.drop_lists import DropList

Json = dict[str, Any]

DESCRIPTION = """\
Drops the samples of drop lists, shuffles the rest globally, and writes train and validation shards and a dataset card.

Other flags are passed to Beam: --runner, --direct_num_workers, --direct_running_mode, …
Run again, the same command resumes; a finished export is not changed.
"""
DROP_HELP = (
    "samples to drop: a reviewed --output of `gesso match`, the --output of `gesso repeats`, or a file of keys (text, "
    "one a line, or parquet with a column key); may be repeated, and the first list that has a sample gives its reason"
)


@dataclass(frozen=True)
class Job:
    """The parameters of one export."""

    output: str
    source: "Collection"
    drops: "tuple[DropList, ...]"
    fields: "tuple[pa.Field, ...]"
    settings: ExportSettings

    def record(self) -> Json:
        """What decides the bytes of the output; plan.json has it with paths that can be published."""
        return {
            "settings": asdict(self.settings),
            "input": [self.source.input_record(), *(d.input_record for d in self.drops)],
        }

    def published(self, value: Any) -> Any:
        """The value, its paths as published: relative to the output, or as names."""
        return identity.with_paths(value, partial(identity.published, output=self.output))

    @property
    def dropped(self) -> str | None:
        return storage.join(self.output, DROPPED) if self.drops else None


def build_parser() -> Parser:
    parser = Parser("gesso export", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    shards_help = "the --output of `gesso collect` or `gesso index`, or img2dataset's folder"
    what.add_argument("--shards", type=path, required=True, metavar="DIR", default=SUPPRESS, help=shards_help)
    what.add_argument("--drop", type=path, action="append", metavar="PATH", default=[], help=DROP_HELP)
    what.add_argument(
        "--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help="directory to write the export to"
    )
    add_flags(parser, "splits and shards", ExportSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso export`: parses, checks, plans, writes the shards, and prints the funnel."""
    job, beam_flags = parse(argv)
    from gesso.dataset import manifest

    with lock(job.output):
        run(job, beam_flags)
    print_funnel(manifest.read_plan(job.output) or {})
    print(f"shards in {job.output}; next: {storage.join(job.output, 'README.md')}, gesso verify {job.output}")
    return 0


def run(job: Job, beam_flags: list[str]) -> None:
    """Does what is missing."""
    from gesso import progress
    from gesso.dataset import export, manifest

    plan = manifest.read_plan(job.output)
    if plan:
        manifest.check_settings(plan, job.record(), job.output)
    if plan and export.is_finished(job.output, plan):
        print(f"{job.output} is finished: nothing to do")
        return
    with planning(job) if plan is None else resuming() as input_info:
        watching = progress.watch(job.output, export.ExportProgress(job.output))
        jobs.run(lambda pipeline: build(pipeline, job, plan, input_info), beam_flags, watching)


def parse(argv: Sequence[str]) -> tuple[Job, list[str]]:
    """The job with its input opened, and Beam's flags."""
    given, beam_flags = jobs.parse(build_parser(), argv)
    settings = read_flags(given, ExportSettings)
    check_apart(given.shards, given.output)
    kinds.expect(given.shards, "gesso export --shards", *kinds.SHARDS)
    for listed in given.drop:
        kinds.expect(listed, "gesso export --drop", "matches", "repeats")
    kinds.check_output(given.output, "gesso export", "export")
    from gesso.dataset import collection
    from gesso.pipelines.export import drop_lists, shuffle

    source = collection.open_collection(given.shards)
    check_tars({shard.tar.rpartition("/")[0] for shard in source.shards}, given.output)
    drops = tuple(drop_lists.read(path, source.source_record()) for path in given.drop)
    fields = shuffle.kept_fields(source.schema(), source.indexed)
    return Job(given.output, source, drops, fields, fitted(settings, source.samples)), beam_flags


def check_apart(shards: str, output: str) -> None:
    """Raises UserError where one of the two directories is the other, or lies in it, by their real paths."""
    source, target = jobs.real_path(shards), jobs.real_path(output)
    if target.is_relative_to(source) or source.is_relative_to(target):
        relation = "is" if source == target else "is inside" if target.is_relative_to(source) else "contains"
        raise UserError(f"--output {output} {relation} --shards {shards}: give a directory apart from it")


def check_tars(folders: set[str], output: str) -> None:
    """Raises UserError where the output holds tars that an index points to."""
    for folder in sorted(folders):
        if jobs.real_path(folder).is_relative_to(jobs.real_path(output)):
            raise UserError(f"--output {output} holds tars of --shards, in {folder}: give another")


@contextmanager
def planning(job: Job) -> Iterator[Json]:
    """Clears the output, writes dropped.parquet, and yields the fields of plan.json about the input.

    Where the block fails before plan.json is written, nothing is left.
    """
    from gesso.dataset import export
    from gesso.pipelines.export import drop_lists

    drop_lists.check_keys(job.drops, job.source)
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
    """An existing plan.json has all about the input already."""
    yield {}


def write_dropped(job: Job) -> Json:
    """Writes dropped.parquet where there are drop lists; returns the fields of plan.json about the input."""
    from gesso.pipelines.export import drop_lists, shuffle

    dropped = drop_lists.union(job.drops)
    manifest = job.source.manifest or {}
    names = [field.name for field in job.fields]
    listed = drop_lists.count_reasons(dropped)
    written = drop_lists.write(dropped, job.dropped) if job.dropped else None
    return {
        "listed": listed,
        "dropped": written,
        "overlaps": job.published([drop.overlap for drop in job.drops if drop.overlap]),
        "source_funnel": manifest.get("funnel"),
        "source_settings": manifest.get("settings", {}),
        "source_input": identity.with_paths(manifest.get("input", []), table_name),
        "licence_column": next((name for name in shuffle.LICENCES if name in names), None),
    }


def table_name(path: str) -> str:
    """A table of links as the card tells it: of an absolute path of a machine the name alone."""
    return os.path.basename(path) if storage.is_local(path) and os.path.isabs(storage.local(path)) else path


def build(pipeline: "beam.Pipeline", job: Job, plan: Json | None, input_info: Json) -> None:
    """The whole pipeline: from the source's shards where there is no plan, else the shards that are missing."""
    import apache_beam as beam

    from gesso.dataset import export
    from gesso.pipelines.export import transforms

    source = job.source.path
    if plan is None:
        config = transforms.PlanConfig(
            source, job.output, job.fields, job.dropped, job.settings, job.published(job.record()), input_info
        )
        shards = pipeline | "SourceShards" >> beam.Create(job.source.shards)
        targets = shards | transforms.WritePlan(config) | "Targets" >> beam.FlatMap(export.targets)
    else:
        targets = pipeline | "MissingTargets" >> beam.Create(export.missing(job.output, plan))
    _ = targets | transforms.WriteShards(job.source.shards, job.output)


def print_funnel(plan: Json) -> None:
    """The funnel, and how many samples of the drop lists are not in the shards."""
    jobs.print_funnel(plan["funnel"])
    for reason, count in plan["not_found"].items():
        if count:
            print(f"{count:,} samples that a drop list names ({reason}) are not in the shards")
