"""`gesso encode`: clean shards → captions and grids of a dVAE's codes. A Beam job; under torchrun one without Beam.

plan.json                 written first: settings, dVAE, input, samples
train/00000.npy           uint16 (n, views, g, g), and beside it rows and marker (training/encoding.py)
validation/…              likewise
manifest.json             written last: every shard with its files' sizes and checksums, the funnel
"""

import os
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import export, manifest
from gesso.dataset.layout import MANIFEST, PLAN, SPLITS
from gesso.dataset.records import SUCCESS
from gesso.errors import UserError
from gesso.flags import Formatter, add_flags, path, read_flags
from gesso.pipelines import jobs
from gesso.training.encode_settings import EncodeSettings

if TYPE_CHECKING:
    import apache_beam as beam

    from gesso.training.data.split import Split
    from gesso.training.encoding import Target

Json = dict[str, Any]

KIND = "tokens"
VERSIONED = ("gesso", "numpy", "opencv-python-headless", "pillow", "pyarrow", "simplejpeg", "torch")
PATIENCE = timedelta(days=30)  # that processes wait for the one with the most to do
DESCRIPTION = """\
Clean shards → captions and grids of codes (paper section 3). Several crops of each picture are encoded.

Flags that are not listed here go to Beam: --runner, --direct_num_workers, --direct_running_mode, …
Without Beam, a share of the shards in each process: torchrun --nproc_per_node 8 -m gesso encode …
The same command again does what is missing; finished tokens are left as they are.
"""


@dataclass(frozen=True)
class Job:
    """All that one encoding is made of."""

    output: str
    splits: "tuple[Split, ...]"
    dvae: str
    identity: Json  # the dVAE's
    codes: Json  # what a reader must know of them
    settings: EncodeSettings

    def targets(self) -> "list[Target]":
        """All shards; with each goes its split without the list of them."""
        from gesso.training.encoding import Target

        return [Target(replace(split, shards=()), shard) for split in self.splits for shard in split.shards]

    def record(self) -> Json:
        """What decides the bytes of the output."""
        settings = {"dvae": self.identity, **self.settings.record()}
        return {"settings": settings, "input": [split.identity() for split in self.splits]}

    def plan(self) -> Json:
        samples = {split.split: split.samples for split in self.splits}
        return {"format": 1, "kind": KIND, **self.record(), "samples": samples}


def build_parser() -> ArgumentParser:
    parser = ArgumentParser("gesso encode", description=DESCRIPTION, allow_abbrev=False, formatter_class=Formatter)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--shards", type=path, required=True, metavar="DIR", default=SUPPRESS, help="what `gesso export` wrote"
    )
    what.add_argument(
        "--dvae",
        type=path,
        required=True,
        metavar="PATH",
        default=SUPPRESS,
        help="a run of `gesso train dvae`, or a checkpoint",
    )
    what.add_argument("--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help="where the tokens go")
    add_flags(parser, "encoding", EncodeSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso encode`: parses, checks, runs, and prints the funnel."""
    given, others = build_parser().parse_known_args(argv)
    settings = read_flags(given, EncodeSettings)
    alone = "WORLD_SIZE" not in os.environ
    check_flags(others, alone)
    job = open_job(given.output, given.shards, given.dvae, settings)
    first = run(job, others) if alone else run_together(job)
    if first:
        jobs.print_funnel(storage.read_json(storage.join(job.output, MANIFEST))["funnel"])
        print(f"captions and codes in {job.output}")
    return 0


def check_flags(others: list[str], alone: bool) -> None:
    """Raises UserError for flags that nobody knows; under torchrun Beam's have no meaning."""
    if alone:
        jobs.check_beam_flags("encode", others)
    elif others:
        raise UserError(f"unknown flag {others[0]}: under torchrun there is no Beam to take it")


def open_job(output: str, shards: str, dvae: str, settings: EncodeSettings) -> Job:
    """Raises UserError where export or dVAE are not there, or do not fit."""
    splits = tuple(open_splits(shards))
    from gesso.training.dvae.settings import FACTOR
    from gesso.training.encoding import identity_of, open_model

    opened = open_model(dvae, settings)
    grid = opened.config.image_size // FACTOR
    codes = {"vocabulary": opened.config.vocabulary, "views": settings.views, "grid": grid}
    return Job(output, splits, dvae, identity_of(opened), codes, settings)


def open_splits(shards: str) -> "Iterator[Split]":
    """The splits of an export that hold samples. Raises UserError where there is none."""
    from gesso.training.data.split import open_split, read_manifest

    manifest, _ = read_manifest(shards)
    held = {entry["split"] for entry in manifest["shards"] if entry["count"]}
    yield from (open_split(shards, split) for split in SPLITS if split in held or split == SPLITS[0])


def run(job: Job, beam_flags: list[str]) -> bool:
    """Does what is missing, by Beam."""
    missing = begin(job)
    if missing is not None:
        jobs.run(lambda pipeline: build(pipeline, job, missing), beam_flags, watched(job))
    return missing is not None


def begin(job: Job) -> "list[Target] | None":
    """Writes the plan, or checks that the one which stands is this job's; gives what is missing, None when finished."""
    plan = manifest.read_plan(job.output)
    if plan:
        manifest.check_settings(plan, job.record(), job.output)
    else:
        manifest.clear_unfinished_plan(job.output)
        check_empty(job.output)
        storage.write_json(storage.join(job.output, PLAN), job.plan())
    done = export.committed(job.output)
    missing = [target for target in job.targets() if place(target) not in done]
    if not missing and storage.exists(storage.join(job.output, MANIFEST)):
        print(f"{job.output} is finished: nothing to do")
        return None
    return missing


def check_empty(output: str) -> None:
    """Raises UserError where shards stand that no plan tells of."""
    for split in SPLITS:
        for item in storage.files(storage.join(output, split)):
            raise UserError(f"{item.path} is there already without a {PLAN}: give another --output")


def place(target: "Target") -> tuple[str, int]:
    return target.split.split, target.shard.index


def watched(job: Job) -> Any:
    return progress.watch(job.output, export.Look(job.output))


def build(pipeline: "beam.Pipeline", job: Job, missing: "list[Target]") -> None:
    """The whole pipeline; the shards' descriptions cross a shuffle, their pictures do not."""
    import apache_beam as beam

    from gesso.pipelines import combiners
    from gesso.pipelines.encode.transforms import EncodeShards

    (
        pipeline
        | "MissingShards" >> beam.Create(missing)
        | beam.Reshuffle()
        | beam.ParDo(EncodeShards(job.output, job.dvae, job.settings, job.identity))
        | "TotalEncoded" >> beam.CombineGlobally(combiners.total)
        | "WriteManifest" >> beam.Map(lambda _: finish(job))
    )


def run_together(job: Job) -> bool:
    """Does what is missing with the processes that torchrun started, each a share of it; whether this is the first."""
    from gesso.processes import processes
    from gesso.training.encoding import encode_shard, open_same

    with processes(PATIENCE) as group:
        missing = group.first(lambda: begin(job))  # others would look when the first has begun to write
        if missing is None:
            return False
        dvae = open_same(job.dvae, job.settings, job.identity)
        with nullcontext() if group.rank else watched(job):
            for target in missing[group.rank :: group.size]:
                encode_shard(target.split, target.shard, dvae, job.settings, job.output)
            group.agreed(False)  # until all are through
        if group.rank == 0:
            finish(job)
        return group.rank == 0


def finish(job: Job) -> None:
    """Writes the manifest once every shard is committed, and sweeps what killed runs have left."""
    markers = export.committed(job.output)
    lost = [place(target) for target in job.targets() if place(target) not in markers]
    if lost:
        raise RuntimeError(f"{job.output}: shards {lost[:10]} are not committed")
    for folder in (job.output, *(storage.join(job.output, split.split) for split in job.splits)):
        for name in manifest.sizes(folder):
            if manifest.LEFT_BEHIND.search(name):
                storage.remove(storage.join(folder, name))
    ours = {place(target): markers[place(target)] for target in job.targets()}
    storage.write_json(storage.join(job.output, MANIFEST), build_manifest(job, ours))


def build_manifest(job: Job, markers: dict[tuple[str, int], Json]) -> Json:
    """The tokens in one file; the same for the same shards, whenever and by whatever they were written."""
    read = sum(marker["count"] for marker in markers.values())
    funnel = manifest.funnel({"rows_read": read, "counted_only": {}}, markers.values())
    shards = [
        {"split": split, "index": index, **{name: marker[name] for name in ("count", "successes", "files")}}
        for (split, index), marker in markers.items()
    ]
    splits = {split.split: 0 for split in job.splits}
    for entry in shards:
        splits[entry["split"]] += entry["successes"]
    return {
        "format": 1,
        "kind": KIND,
        "codes": job.codes,
        "shards": shards,
        "files": {},
        "samples": funnel[SUCCESS],
        "splits": splits,
        "funnel": funnel,
        **job.record(),
        "versions": {name: version(name) for name in VERSIONED},
    }
