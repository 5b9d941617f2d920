"""`gesso match`: the nearest training pictures of every reference picture, exact, with perceptual-hash distances."""

from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import kinds, layout, manifest
from gesso.dataset.progress import ShardsProgress
from gesso.flags import Parser, add_flags, at_least, flag, path, read_flags
from gesso.lock import lock
from gesso.pipelines import jobs

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
    settings: MatchSettings

    def record(self) -> dict[str, Any]:
        """What decides the result, as plan.json records it."""
        sides = (self.training, self.reference)
        settings = {"top_k": self.settings.top_k, "model": self.training.model}
        return {"settings": settings, "input": [{"path": side.path, "sha256": side.sha256} for side in sides]}


def build_parser() -> Parser:
    parser = Parser("gesso match", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    for name, text in (
        ("embeddings", "embeddings of the training pictures, by `gesso embed`"),
        ("reference", "embeddings of the reference pictures, by the same model"),
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
    print(f"{manifest['references']:,} references among {manifest['samples']:,} training pictures")
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
    matches.read_references(reference)
    return Job(given.output, training, reference, settings), beam_flags


def build(pipeline: "beam.Pipeline", job: Job) -> None:
    """Parts of the training embeddings → every reference's neighbours in each → the nearest of all → files."""
    import apache_beam as beam

    from gesso.pipelines.match import transforms

    done, top_k = set(manifest.committed(job.output)), job.settings.top_k
    (
        pipeline
        | "Parts" >> beam.Create(list(enumerate(transforms.match_parts(job.training))))
        | beam.Reshuffle()
        | "SearchParts" >> beam.ParDo(transforms.SearchParts(job.output, job.training, job.reference, top_k, done))
        | "Nearest" >> beam.CombineGlobally(transforms.MergeNearest(job.reference.samples, top_k))
        | "Write" >> beam.Map(lambda found: write(job, found))
    )


def write(job: Job, found: "Neighbours") -> None:
    """Writes matches.parquet, then the manifest."""
    from gesso.dedup import matches
    from gesso.dedup.overlap import MATCHES
    from gesso.pipelines.match import parts

    table = matches.matches_table(matches.read_references(job.reference).keys, found)
    summary = parts.write_table(storage.join(job.output, MATCHES), table)
    sides = {"training": job.training, "reference": job.reference}
    manifest = {
        "format": 1,
        "kind": "matches",
        "model": job.training.model,
        "top_k": job.settings.top_k,
        "references": job.reference.samples,
        "samples": job.training.samples,
        "metric": "cosine",
        **{name: {"embeddings": side.path, "source": side.source} for name, side in sides.items()},
        "files": {MATCHES: summary},
        "versions": {name: version(name) for name in VERSIONED},
    }
    storage.write_json(storage.join(job.output, layout.MANIFEST), manifest)
