"""`gesso index`: tars that others have made → rows with byte ranges into them: a collection of which nothing is copied.

plan.json        settings, input; written first
00000.parquet    a row for every sample of a tar, taken or not, in the tar's order (schemas.INDEX_FIELDS)
00000_stats.json the commit marker of a tar
manifest.json    written last
tars/            with --unpack: the tars that were compressed
"""

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import identity, kinds, layout, manifest
from gesso.dataset.progress import IndexProgress
from gesso.dataset.reasons import meaning
from gesso.dataset.records import ROWS_READ, SUCCESS
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.lock import lock
from gesso.pipelines import jobs
from gesso.pipelines.index.settings import BY_SAMPLE, IndexSettings

if TYPE_CHECKING:
    import apache_beam as beam

    from gesso.pipelines.index.keys import Repeat
    from gesso.pipelines.index.tars import Ends, Tar

Json = dict[str, Any]

VERSIONED = ("gesso", "apache-beam", "opencv-python-headless", "pillow", "pyarrow", "simplejpeg")
SHOWN = 8  # of what was dropped
DESCRIPTION = """\
Indexes tars that others have made, by webdataset's rules: what follows takes the index for a collection of gesso's.

Nothing is copied: the rows point into the tars, which have to stay where they are. Each tar is read once.
Other flags are passed to Beam: --runner, --direct_num_workers, --direct_running_mode, …
Run again, the same command resumes; a finished index is not changed.
"""
TARS_HELP = "tars, quoted patterns such as 'cc3m/*.tar', or folders of tars"
UNPACK_HELP = "unpack compressed tars (.tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst) into --output"


@dataclass(frozen=True)
class Job:
    """The parameters of one index."""

    output: str
    tars: "tuple[Tar, ...]"
    input: Json
    settings: IndexSettings

    def record(self) -> Json:
        """What decides the rows."""
        return {"settings": asdict(self.settings), "input": [self.input]}

    def hinted(self) -> Json:
        """The same as plan.json and manifest.json tell it, its path as a hint."""
        return dict(identity.with_paths(self.record(), partial(identity.hint, output=self.output)))


def build_parser() -> Parser:
    parser = Parser("gesso index", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument("tars", type=path, nargs="+", metavar="TARS", help=TARS_HELP)
    what.add_argument(
        "--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help="directory to write the index to"
    )
    what.add_argument("--unpack", action="store_true", help=UNPACK_HELP)
    add_flags(parser, "samples", IndexSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso index`: parses, looks at both ends of each tar, indexes, and prints the funnel."""
    job, beam_flags = parse(argv)
    with lock(job.output):
        run(job, beam_flags)
    written = storage.read_json(storage.join(job.output, layout.MANIFEST))
    jobs.print_funnel(written["funnel"])
    print_left_out(written)
    warn_of_nothing(written["funnel"])
    print(f"an index in {job.output}; next: gesso embed --shards {job.output} --output …")
    return 0


def parse(argv: Sequence[str]) -> tuple[Job, list[str]]:
    """The job, with its tars looked at, and Beam's flags."""
    given, beam_flags = jobs.parse(build_parser(), argv)
    settings = read_flags(given, IndexSettings)
    kinds.check_output(given.output, "gesso index", "index")
    from gesso.pipelines.index import rows, tars

    rows.carried_fields(settings)
    found = tars.find_tars(given.tars)
    check_apart([each.path for each in found], given.output)
    opened, ends = tars.open_tars(found, given.unpack)
    if settings.keys == BY_SAMPLE:
        tars.check_keys(opened, ends)
    print_unended(opened, ends)
    return Job(given.output, tuple(opened), tars.input_record(opened), settings), beam_flags


def check_apart(paths: list[str], output: str) -> None:
    """Raises UserError where the output is the folder of a tar, by their real paths."""
    folders = {storage.absolute(each).rpartition("/")[0] for each in paths}
    if jobs.real_path(output) in map(jobs.real_path, folders):
        raise UserError(f"--output {output} is the folder of tars that are indexed: give another")


def print_unended(tars: "Sequence[Tar]", ends: "Sequence[Ends]") -> None:
    unended = [tar.path for tar, end in zip(tars, ends, strict=True) if not end.ended]
    if unended:
        more = f" and {len(unended) - 1:,} more" if unended[1:] else ""
        print(f"{unended[0]}{more}: no end-of-archive block, but every member is whole: taken")


def run(job: Job, beam_flags: list[str]) -> None:
    """Indexes the tars that are missing."""
    write_or_check_plan(job)
    todo = missing(job)
    if not todo and storage.exists(storage.join(job.output, layout.MANIFEST)):
        print(f"{job.output} is finished: nothing to do")
        return
    watching = progress.watch(job.output, IndexProgress(job.output, len(job.tars)))
    jobs.run(lambda pipeline: build(pipeline, job, todo), beam_flags, watching)


def write_or_check_plan(job: Job) -> None:
    plan = manifest.read_plan(job.output)
    if plan:
        manifest.check_settings(plan, job.record(), job.output)
        return
    manifest.clear_unfinished_plan(job.output)
    plan = {"kind": "index", **job.hinted(), "shards": len(job.tars)}
    storage.write_json(storage.join(job.output, layout.PLAN), plan)


def missing(job: Job) -> "list[Tar]":
    """The tars that are not indexed yet, or whose unpacked copy is gone."""
    done = manifest.committed(job.output)

    def is_done(tar: "Tar") -> bool:
        if tar.number not in done or not tar.compression:
            return tar.number in done
        place = tar.place(job.output)
        return storage.exists(place) and storage.Ranges(place).size == done[tar.number]["tar"]["bytes"]

    return [tar for tar in job.tars if not is_done(tar)]


def build(pipeline: "beam.Pipeline", job: Job, todo: "list[Tar]") -> None:
    """The whole pipeline; the tars' names cross a shuffle, then hashes of keys."""
    import apache_beam as beam

    from gesso.pipelines import combiners
    from gesso.pipelines.index.transforms import FindRepeats, IndexTars

    indexed = (
        pipeline
        | "MissingTars" >> beam.Create(todo)
        | beam.Reshuffle()
        | beam.ParDo(IndexTars(job.output, job.settings))
        | "TotalIndexed" >> beam.CombineGlobally(combiners.total)
    )
    (
        pipeline
        | "Shards" >> beam.Create([tar.number for tar in job.tars])
        | FindRepeats(job.output, indexed)
        | "Repeats" >> beam.combiners.ToList()
        | "WriteManifest" >> beam.Map(lambda repeats: finish(job, repeats))
    )


def finish(job: Job, repeats: "list[Repeat]") -> None:
    """Writes the manifest when every tar is indexed. Raises UserError where two of them hold one key."""
    from gesso.pipelines.index import tars

    if repeats:
        key, one, other = min(repeats)
        raise tars.repeated_key(key, job.tars[one].path, job.tars[other].path)
    markers = manifest.committed(job.output)
    absent = [tar.number for tar in job.tars if tar.number not in markers]
    if absent:
        raise RuntimeError(f"{job.output}: shards {absent[:10]} are not committed")
    for name in manifest.sizes(job.output):
        if manifest.LEFT_BEHIND.search(name):
            storage.remove(storage.join(job.output, name))
    storage.write_json(storage.join(job.output, layout.MANIFEST), build_manifest(job, markers))


def build_manifest(job: Job, markers: dict[int, Json]) -> Json:
    """manifest.json; it depends on the tars alone, not on when they were indexed."""
    from gesso.pipelines.index.indexer import totals

    fields = ("index", "count", "successes", "files", "tar")
    listed = [{"index": index, **marker} for index, marker in sorted(markers.items())]
    rows = sum(marker["count"] for marker in markers.values())
    return {
        "format": 1,
        "kind": "index",
        "shards": [{name: entry[name] for name in fields} for entry in listed],
        "samples": sum(marker["successes"] for marker in markers.values()),
        "funnel": manifest.funnel({"rows_read": rows, "counted_only": {}}, markers.values()),
        **{name: totals(markers, name) for name in ("members_dropped", "members_skipped", "values_dropped")},
        **job.hinted(),
        "versions": {name: version(name) for name in VERSIONED},
    }


def print_left_out(written: Json) -> None:
    """What does not travel, and how it would."""
    for name, text in (
        ("members_dropped", "files of samples that are not carried (--carry ENDING)"),
        ("members_skipped", "members of no sample"),
        ("values_dropped", "values left out, not of their column's type (--extra_columns NAME:TYPE)"),
    ):
        counts: dict[str, int] = written[name]
        shown = ", ".join(f"{item} {count:,}" for item, count in list(counts.items())[:SHOWN])
        more = f" and {len(counts) - SHOWN:,} kinds more" if len(counts) > SHOWN else ""
        if counts:
            print(f"{text}: {shown}{more}")


def warn_of_nothing(funnel: dict[str, int]) -> None:
    """A warning where not one sample was taken, with the reason that most ended with."""
    if funnel[SUCCESS]:
        return
    reason = max((name for name in funnel if name not in (ROWS_READ, SUCCESS)), key=funnel.__getitem__, default=None)
    why = f"most ended as {reason}: {meaning(reason)}" if reason else "the tars hold none."
    print(f"warning: no sample was taken of {funnel[ROWS_READ]:,}; {why}", file=sys.stderr)
