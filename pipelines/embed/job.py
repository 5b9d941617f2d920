"""`gesso embed`: shards, or a folder of pictures → contrastive embeddings in clip-retrieval's layout. A Beam job."""

from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import identity, kinds, layout, manifest
from gesso.dataset.progress import ShardsProgress
from gesso.dedup.model_names import check_name
from gesso.dedup.settings import ModelSettings
from gesso.devices import check_device
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.lock import lock
from gesso.pipelines import jobs
from gesso.pipelines.embed import pictures
from gesso.pipelines.embed.settings import EmbedSettings

if TYPE_CHECKING:
    import apache_beam as beam

    from gesso.pipelines.embed.pictures import Source

Json = dict[str, Any]

# Embeddings depend on the versions of these.
VERSIONED = (
    "apache-beam",
    "gesso",
    "numpy",
    "open_clip_torch",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "simplejpeg",
    "timm",
    "torch",
)
REFERENCE_VIEWS = 6  # of a folder's pictures, unless --views says otherwise: they are few, shards' are many
DESCRIPTION = """\
Computes contrastive embeddings of shards or of a folder of pictures, row-aligned with their metadata.

Other flags are passed to Beam: --runner, --direct_num_workers, --direct_running_mode, …
Run again, the same command resumes; finished embeddings are not changed.
"""


@dataclass(frozen=True)
class Job:
    """The parameters of one run."""

    output: str
    source: "Source"
    model: ModelSettings
    identity: Json
    settings: EmbedSettings

    def record(self) -> Json:
        """plan.json: what decides the bytes of the output; device and threads do not. One view is not mentioned."""
        identity = {"model" if name == "name" else name: value for name, value in self.identity.items()}
        settings = {**identity, "precision": self.model.precision, "batch_size": self.settings.batch_size}
        settings |= {"views": self.settings.views} if self.settings.views > 1 else {}
        return {"settings": {"source": self.source.kind, **settings}, "input": self.source.input}

    def manifest_head(self) -> Json:
        """The fields of manifest.json that are the same for all blocks."""
        source = {"kind": self.source.kind, "path": self.source.path, "sha256": self.source.sha256}
        head = {"format": 1, "kind": "embeddings", "model": self.identity, "source": source, **self.record()}
        return dict(identity.with_paths(head, partial(identity.hint, output=self.output)))


def build_parser() -> Parser:
    parser = Parser("gesso embed", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--shards",
        type=path,
        metavar="DIR",
        help="the --output of a finished `gesso collect` or `gesso index`, or img2dataset's folder",
    )
    what.add_argument(
        "--images", type=path, metavar="DIR", help="instead of --shards: a folder of pictures, such as COCO's val2014"
    )
    what.add_argument(
        "--annotations", type=path, metavar="FILE", help="COCO's annotation file for --images: captions_val2014.json"
    )
    what.add_argument(
        "--output",
        type=path,
        required=True,
        metavar="DIR",
        default=SUPPRESS,
        help="directory to write the embeddings to",
    )
    add_flags(parser, "model", ModelSettings)
    add_views(parser)
    add_flags(parser, "process", EmbedSettings)
    return parser


def add_views(parser: Parser) -> None:
    """--views, whose default depends on the input."""
    parser.add_argument_group("views").add_argument(
        "--views",
        type=int,
        default=SUPPRESS,
        metavar="INT",
        help="views of each picture, a row for each: 1 is the whole, 6 adds five crops of 70%% of each side, 15 also "
        f"nine of 50%%, which find copies of a part (default: {REFERENCE_VIEWS} with --images, 1 with --shards)",
    )


def main(argv: Sequence[str]) -> int:
    """`gesso embed`: parses, checks, opens the model, runs, and prints the funnel."""
    given, beam_flags = jobs.parse(build_parser(), argv)
    views = getattr(given, "views", 1 if given.images is None else REFERENCE_VIEWS)
    model, settings = read_flags(given, ModelSettings), read_flags(given, EmbedSettings, views=views)
    check_name(model.model)
    check_device(model.device)
    kinds.check_output(given.output, "gesso embed", "embeddings")
    source = open_source(given)
    progress.announce("loading torch and the model")
    from gesso.dedup.models import open_model

    opened = open_model(model)  # kept open for the workers of this process
    job = Job(given.output, source, model, opened.identity, settings)
    with lock(job.output):
        run(job, beam_flags)
    jobs.print_funnel(storage.read_json(storage.join(job.output, layout.MANIFEST))["funnel"])
    print(f"embeddings in {job.output}{describe_views(settings.views)}; next: gesso match")
    return 0


def describe_views(views: int) -> str:
    return f", {views} views of each picture" if views > 1 else ""


def open_source(given: Namespace) -> "Source":
    """The pictures to embed. Raises UserError unless exactly one source is given."""
    if (given.shards is None) == (given.images is None):
        raise UserError("give either --shards or --images")
    if given.images is not None:
        return pictures.open_folder(given.images, given.annotations)
    if given.annotations:
        raise UserError("--annotations is for --images: shards have their own captions")
    kinds.expect(given.shards, "gesso embed", *kinds.SHARDS)
    return pictures.open_shards(given.shards)


def run(job: Job, beam_flags: list[str]) -> None:
    """Embeds the blocks that are missing."""
    write_or_check_plan(job)
    done = manifest.committed(job.output)
    missing = [block for block in job.source.blocks if block.index not in done]
    if not missing and storage.exists(storage.join(job.output, layout.MANIFEST)):
        print(f"{job.output} is finished: nothing to do")
        return
    read_state = ShardsProgress(job.output, job.source.count, "images")
    jobs.run(lambda pipeline: build(pipeline, job, missing), beam_flags, progress.watch(job.output, read_state))


def write_or_check_plan(job: Job) -> None:
    """Writes the plan, or checks that the existing one is this job's."""
    plan = manifest.read_plan(job.output)
    if plan:
        old, new = ({**side, "settings": {"views": 1, **side["settings"]}} for side in (plan, job.record()))
        manifest.check_settings(old, new, job.output)
        return
    manifest.clear_unfinished_plan(job.output)
    plan = {**job.record(), "shards": len(job.source.blocks)}
    hinted = identity.with_paths(plan, partial(identity.hint, output=job.output))
    storage.write_json(storage.join(job.output, layout.PLAN), hinted)


def build(pipeline: "beam.Pipeline", job: Job, missing: "list[pictures.Block]") -> None:
    """The whole pipeline; the blocks' descriptions cross a shuffle, their pictures do not."""
    import apache_beam as beam

    from gesso.pipelines import combiners
    from gesso.pipelines.embed.transforms import EmbedBlocks

    indexes = [block.index for block in job.source.blocks]
    write_manifest = partial(finish, job.output, job.manifest_head(), job.source.counted_only, indexes)
    (
        pipeline
        | "MissingBlocks" >> beam.Create(missing)
        | beam.Reshuffle()
        | beam.ParDo(EmbedBlocks(job.output, job.model, job.settings, job.identity))
        | "TotalEmbedded" >> beam.CombineGlobally(combiners.total)
        | "WriteManifest" >> beam.Map(lambda _: write_manifest())
    )


def finish(output: str, head: Json, counted_only: dict[str, int], indexes: list[int]) -> None:
    """Writes the manifest when every block is committed; removes temporary files of killed runs."""
    markers = manifest.committed(output)
    missing = [index for index in indexes if index not in markers]
    if missing:
        raise RuntimeError(f"{output}: blocks {missing[:10]} are not committed")
    for name in manifest.sizes(output):
        if manifest.LEFT_BEHIND.search(name):
            storage.remove(storage.join(output, name))
    ours = {index: markers[index] for index in indexes}
    storage.write_json(storage.join(output, layout.MANIFEST), build_manifest(head, counted_only, ours))


def build_manifest(head: Json, counted_only: dict[str, int], markers: dict[int, Json]) -> Json:
    """manifest.json; it depends on the blocks alone, not on when they were written."""
    rows = sum(marker["count"] for marker in markers.values()) + sum(counted_only.values())
    return {
        **head,
        "shards": [
            {"index": index, "count": marker["count"], "successes": marker["successes"], "files": marker["files"]}
            for index, marker in sorted(markers.items())
        ],
        "samples": sum(marker["successes"] for marker in markers.values()),
        "funnel": manifest.funnel({"rows_read": rows, "counted_only": counted_only}, markers.values()),
        "versions": {name: version(name) for name in VERSIONED},
    }
