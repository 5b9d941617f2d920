"""`gesso collect`: tables of links → committed webdataset shards, one Beam pipeline for every runner."""

import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gesso import storage
from gesso.dataset import kinds, layout, manifest
from gesso.dataset.reasons import meaning
from gesso.dataset.records import ROWS_READ, SUCCESS
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.lock import lock
from gesso.pipelines import jobs
from gesso.pipelines.collect.settings import CaptionRules, EngineSettings, FetchLimits, ImageRules, PlanSettings
from gesso.pipelines.status import watch

if TYPE_CHECKING:
    import apache_beam as beam
    import pyarrow as pa

    from gesso.pipelines.collect.sources import Columns, Table

PRESETS = ("laion", "coyo", "datacomp", "conceptual-captions", "yfcc100m")
ENGINES = ("gesso", "img2dataset")
INPUT_HELP = (
    "tables of links: parquet, CSV, TSV, JSON (an object a line, or an array) or .txt (a link a line), "
    "plain or .gz .bz2 .zst .xz"
)
CAPTION_HELP = (
    "column of the captions, where it is not the preset's or `caption`; '' where the tables have none, like .txt: "
    "no caption rule applies then, and KEY.txt is empty"
)
EXTRA_HELP = "columns that travel to the shards; one with a name of gesso's own, such as width, travels as table_width"
DESCRIPTION = """\
Tables of links → filtered, reproducible webdataset shards.

Flags that are not listed here go to Beam: --runner, --direct_num_workers, --direct_running_mode, …
The same command again does what is missing, and does not change a finished collection.
"""


@dataclass(frozen=True)
class Job:
    """The settings and the input of one collection."""

    output: str
    tables: "tuple[Table, ...]"
    identities: tuple[dict[str, Any], ...]  # name, size and hash of each
    columns: "Columns"
    extra: "tuple[pa.Field, ...]"
    captions: CaptionRules
    plan: PlanSettings
    engine_name: str
    engine: EngineSettings

    def record(self) -> dict[str, Any]:
        """What decides the bytes of the output, as plan.json keeps it. Limits and parallelism may change."""
        columns = {name: value for name, value in asdict(self.columns).items() if name in ("url", "caption", "extra")}
        settings = {**columns, **asdict(self.captions), **asdict(self.engine.rules), **asdict(self.plan)}
        settings |= {"extra": list(self.columns.extra), "engine": self.engine_name}
        return {"settings": settings, "input": list(self.identities)}


def build_parser() -> Parser:
    parser = Parser("gesso collect", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--input",
        type=path,
        required=True,
        nargs="+",
        action="extend",
        metavar="GLOB",
        default=SUPPRESS,
        help=INPUT_HELP,
    )
    what.add_argument("--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help="where the shards go")
    what.add_argument("--preset", choices=PRESETS, help="columns of a known dataset")
    what.add_argument("--url_column", metavar="NAME", help="column of the links, where it is not the preset's or `url`")
    what.add_argument("--caption_column", metavar="NAME", help=CAPTION_HELP)
    what.add_argument("--extra_columns", metavar="A,B", default="", help=EXTRA_HELP)
    what.add_argument("--engine", choices=ENGINES, default="gesso", help="whose code fetches and resizes the pictures")
    add_flags(parser, "plan", PlanSettings)
    add_flags(parser, "caption rules", CaptionRules)
    add_flags(parser, "image rules", ImageRules)
    add_flags(parser, "fetching", FetchLimits)
    add_flags(parser, "a process", EngineSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso collect`: parses, checks, plans, runs, and prints the funnel."""
    job, beam_flags = parse(argv)
    with lock(job.output):
        run(job, beam_flags)
    funnel = storage.read_json(storage.join(job.output, layout.MANIFEST))["funnel"]
    jobs.print_funnel(funnel)
    warn_of_nothing(funnel)
    print(f"shards in {job.output}; next: gesso verify {job.output}, gesso report {job.output}")
    return 0


def run(job: Job, beam_flags: list[str]) -> None:
    """Does what is missing."""
    plan = resume(job)
    shards = missing(job.output, plan) if plan else None
    if shards == [] and storage.exists(storage.join(job.output, layout.MANIFEST)):
        print(f"{job.output} is finished: nothing to do")
    else:
        jobs.run(lambda pipeline: build(pipeline, job, shards), beam_flags, watch(job.output))


def warn_of_nothing(funnel: dict[str, int]) -> None:
    """A warning where not one picture was kept, with the reason that most rows ended with."""
    read, kept, *_ = funnel.values()
    if kept:
        return
    reason = max((name for name in funnel if name not in (ROWS_READ, SUCCESS)), key=funnel.__getitem__, default=None)
    why = f"most ended as {reason}: {meaning(reason)}" if reason else "the tables hold no rows."
    print(f"warning: no picture was kept of {read:,} rows; {why}", file=sys.stderr)


def parse(argv: Sequence[str]) -> tuple[Job, list[str]]:
    """The job, with its input's columns checked, and the flags that are Beam's."""
    given, beam_flags = jobs.parse(build_parser(), argv)
    from gesso.pipelines.collect import sources

    kinds.check_output(given.output, "gesso collect", "collection")
    if given.engine == "img2dataset":
        from gesso.pipelines.collect import engine_img2dataset

        engine_img2dataset.check_installed()
    columns = choose_columns(given)
    engine = read_flags(
        given, EngineSettings, limits=read_flags(given, FetchLimits), rules=read_flags(given, ImageRules)
    )
    captions, plan = read_flags(given, CaptionRules), read_flags(given, PlanSettings)
    tables = tuple(sources.find_tables(given.input))
    extra = sources.extra_fields(tables, columns)
    identities = tuple(sources.identities(tables))
    job = Job(given.output, tables, identities, columns, extra, captions, plan, given.engine, engine)
    return job, beam_flags


def choose_columns(given: Namespace) -> "Columns":
    from gesso.pipelines.collect import sources

    columns = sources.PRESETS[given.preset] if given.preset else sources.Columns()
    chosen = {"url": given.url_column, "caption": given.caption_column}
    extra = tuple(name.strip() for name in given.extra_columns.split(",") if name.strip())
    return replace(columns, **{name: value for name, value in chosen.items() if value is not None}, extra=extra)


def resume(job: Job) -> dict[str, Any] | None:
    """The plan of an output that was started before, after a check that it is this job's; None for a new one."""
    plan = manifest.read_plan(job.output)
    if plan:
        manifest.check_settings(plan, job.record(), job.output)
    else:
        manifest.clear_unfinished_plan(job.output)
    return plan


def missing(output: str, plan: dict[str, Any]) -> list[int]:
    done = manifest.committed(output)
    return [index for index in range(plan["shards"]) if index not in done]


def build(pipeline: "beam.Pipeline", job: Job, shards: list[int] | None) -> None:
    """The whole pipeline: from the tables where `shards` is None, else from the plan that has been written."""
    import apache_beam as beam

    from gesso.pipelines import combiners
    from gesso.pipelines.collect import sources, transforms

    if shards is None:
        config = transforms.PlanConfig(job.output, job.columns, job.extra, job.captions, job.plan, job.record())
        indexes = (
            pipeline
            | "Tables" >> beam.Create(job.tables)
            | "Units" >> beam.FlatMap(sources.units)
            | transforms.WritePlan(config)
            | "Shards" >> beam.FlatMap(lambda shards: list(range(shards)))
        )
    else:
        indexes = pipeline | "MissingShards" >> beam.Create(shards)
    (
        indexes
        | beam.Reshuffle()
        | beam.ParDo(transforms.CollectShards(job.output, job.extra, job.engine_name, job.engine))
        | "TotalCollected" >> beam.CombineGlobally(combiners.total)
        | "WriteManifest" >> beam.Map(lambda _: manifest.finish(job.output))
    )
