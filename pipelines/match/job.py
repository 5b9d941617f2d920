"""`gesso match`: the nearest training pictures of every reference picture, exact, with perceptual-hash distances."""

from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import identity, kinds, layout, manifest
from gesso.dataset.progress import ShardsProgress
from gesso.flags import Parser, add_flags, at_least, flag, path, read_flags
from gesso.lock import lock
from gesso.pipelines import directory_progress, jobs

if TYPE_CHECKING:
    import apache_beam as beam

    from gesso.dataset.embeddings import Embeddings
    from gesso.dedup.nearest import Neighbours

VERSIONED = ("gesso", "faiss-cpu", "numpy", "pyarrow")
DESCRIPTION = """\
Finds the nearest training pictures of every reference picture: exact, in one pass over the training embeddings.

Other flags are passed to Beam. One process uses all cores of a machine.
Run again, the same command resumes; a finished search is not changed.
"""


@dataclass(frozen=True)
class MatchSettings:
    """How many neighbours are searched."""

    top_k: int = flag(8, "number of nearest training pictures of each reference")

    def __post_init__(self) -> None:
        at_least(1, top_k=self.top_k)


@dataclass(frozen=True)
class Job:
    """The parameters of one search."""

    output: str
    training: "Embeddings"
    reference: "Embeddings"
    queries: int  # views of references that are searched for
    model: dict[str, Any]
    settings: MatchSettings

    @property
    def references(self) -> int:
        return self.queries // self.reference.views

    def record(self) -> dict[str, Any]:
        """What decides the result, as plan.json records it."""
        sides = (self.training, self.reference)
        settings = {"top_k": self.settings.top_k, "model": self.model}
        return {"settings": settings, "input": [{"path": side.path, "sha256": side.sha256} for side in sides]}


def build_parser() -> Parser:
    parser = Parser("gesso match", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    for name, text in (
        ("embeddings", "embeddings of the training pictures, by `gesso embed` or clip-retrieval"),
        ("reference", "embeddings of the reference pictures, likewise and by the same model"),
        ("output", "directory to write the matches to"),
    ):
        what.add_argument(f"--{name}", type=path, required=True, metavar="DIR", default=SUPPRESS, help=text)
    add_flags(parser, "search", MatchSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso match`: parses, checks both sides, searches, and prints the next command."""
    job, beam_flags = parse(argv)
    from gesso.pipelines.match import parts

    with lock(job.output):
        if parts.start_or_resume(job.output, job.record()):
            print(f"{job.output} is finished: nothing to do")
        else:
            read_state = ShardsProgress(job.output, job.training.samples, "embeddings")
            jobs.run(lambda pipeline: build(pipeline, job), beam_flags, progress.watch(job.output, read_state))
        parts.remove_parts(job.output)
    manifest = storage.read_json(storage.join(job.output, layout.MANIFEST))
    print(directory_progress.found(manifest))
    for side in ("training", "reference"):
        if left_out := parts.describe_counts(manifest[side].get("left_out", {})):
            print(f"{side}: {left_out}")
    print(f"matches in {job.output}; next: gesso review {job.output}")
    return 0


def parse(argv: Sequence[str]) -> tuple[Job, list[str]]:
    """The job with both sides opened, and Beam's flags."""
    given, beam_flags = jobs.parse(build_parser(), argv)
    from gesso.dataset import embeddings
    from gesso.dedup import matches

    settings = read_flags(given, MatchSettings)
    for side in (given.embeddings, given.reference):
        kinds.expect(side, "gesso match", "embeddings")
    kinds.check_output(given.output, "gesso match", "matches")
    training, reference = (embeddings.open_embeddings(path) for path in (given.embeddings, given.reference))
    embeddings.check_comparable(training, reference)
    if assumption := embeddings.assumption(training, reference):
        print(assumption)
    queries, model = len(matches.read_references(reference).keys), embeddings.common_model(training, reference)
    return Job(given.output, training, reference, queries, model, settings), beam_flags


def build(pipeline: "beam.Pipeline", job: Job) -> None:
    """Parts of the training embeddings → neighbours in each of every reference's views → the nearest of all → files."""
    import apache_beam as beam

    from gesso.pipelines.match import transforms

    done, top_k = set(manifest.committed(job.output)), job.settings.top_k
    (
        pipeline
        | "Parts" >> beam.Create(list(enumerate(transforms.match_parts(job.training))))
        | beam.Reshuffle()
        | "SearchParts" >> beam.ParDo(transforms.SearchParts(job.output, job.training, job.reference, top_k, done))
        | "Nearest" >> beam.CombineGlobally(transforms.MergeNearest(job.queries, top_k))
        | "Write" >> beam.Map(lambda found: write(job, found))
    )


def write(job: Job, found: "Neighbours") -> None:
    """Writes matches.parquet, then the manifest."""
    from gesso.dataset.embeddings import all_rows
    from gesso.dedup import matches
    from gesso.dedup.overlap import MATCHES
    from gesso.pipelines.match import parts

    best = matches.best_of_views(matches.read_references(job.reference), found, job.reference.views)
    summary = parts.write_table(storage.join(job.output, MATCHES), matches.matches_table(best))
    left_out, reference_left_out = parts.left_out(job.output), dict(job.reference.left_out(all_rows(job.reference)))
    manifest = {
        "format": 1,
        "kind": "matches",
        "model": job.model,
        "top_k": job.settings.top_k,
        "references": job.references,
        "samples": job.training.samples - sum(left_out.values()),
        "metric": "cosine",
        "training": side_record(job.training, left_out),
        "reference": {**side_record(job.reference, reference_left_out), "views": job.reference.views},
        "files": {MATCHES: summary},
        "versions": {name: version(name) for name in VERSIONED},
    }
    hinted = identity.with_paths(manifest, partial(identity.hint, output=job.output))
    storage.write_json(storage.join(job.output, layout.MANIFEST), hinted)


def side_record(side: "Embeddings", left_out: dict[str, int]) -> dict[str, Any]:
    """A side as manifest.json tells it; `left_out`: vectors without a direction, by reason."""
    return {"embeddings": side.path, "sha256": side.sha256, "source": side.source, "left_out": left_out}
