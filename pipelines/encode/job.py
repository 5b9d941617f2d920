"""`gesso encode`: clean shards → captions and grids of a dVAE's codes. A Beam job; under torchrun without Beam.

plan.json                 written first: settings, dVAE, input, samples
train/00000.npy           uint16 (n, views, g, g), with rows and marker (training/encoding.py)
validation/…              the same
manifest.json             written last: every shard with its files' sizes and checksums, the funnel
"""

import os
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import export, identity, kinds, manifest
from gesso.dataset.layout import MANIFEST, PLAN, SPLITS
from gesso.dataset.records import SUCCESS
from gesso.devices import check_device
from gesso.errors import UserError
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.lock import lock
from gesso.pipelines import jobs
from gesso.training.encode_settings import EncodeSettings

if TYPE_CHECKING:
    import apache_beam as beam

    from gesso.training.data.split import Split
    from gesso.training.encoding import Target

Json = dict[str, Any]

KIND = "tokens"
VERSIONED = ("gesso", "numpy", "opencv-python-headless", "pillow", "pyarrow", "simplejpeg", "torch")
TIMEOUT = timedelta(days=30)  # processes wait for the one with the most work
DESCRIPTION = """\
Encodes an export: captions, and several crops of each picture as grids of a dVAE's codes (arXiv 2102.12092, section 3).

Other flags are passed to Beam: --runner, --direct_num_workers, --direct_running_mode, …
Without Beam, the shards divided among processes: torchrun --nproc_per_node 8 -m gesso encode …
Run again, the same command resumes; finished tokens are not changed.
"""


@dataclass(frozen=True)
class Job:
    """The parameters of one encoding."""

    output: str
    splits: "tuple[Split, ...]"
    dvae: str
    identity: Json  # the dVAE's
    codes: Json  # their vocabulary, number of views and grid, for readers
    settings: EncodeSettings

    def targets(self) -> "list[Target]":
        """All shards, each with its split (without that split's list of shards)."""
        from gesso.training.encoding import Target

        return [Target(replace(split, shards=()), shard) for split in self.splits for shard in split.shards]

    def record(self) -> Json:
        """What decides the bytes of the output; the path of the dVAE hints where it was."""
        settings = {"dvae": {**self.identity, "path": self.dvae}, **self.settings.record()}
        return {"settings": settings, "input": [split.identity() for split in self.splits]}

    def plan(self) -> Json:
        samples = {split.split: split.samples for split in self.splits}
        return {"format": 1, "kind": KIND, **self.published(), "samples": samples}

    def published(self) -> Json:
        """The record, its paths as published: relative to the output, or as names."""
        return dict(identity.with_paths(self.record(), partial(identity.published, output=self.output)))


def build_parser() -> Parser:
    parser = Parser("gesso encode", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--shards", type=path, required=True, metavar="DIR", default=SUPPRESS, help="the --output of `gesso export`"
    )
    dvae_help = "a run of `gesso train dvae`, or a checkpoint"
    what.add_argument("--dvae", type=path, required=True, metavar="PATH", default=SUPPRESS, help=dvae_help)
    what.add_argument(
        "--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help="directory to write the tokens to"
    )
    add_flags(parser, "encoding", EncodeSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso encode`: parses, checks, runs, and prints the funnel."""
    given, other_flags = build_parser().parse_known_args(argv)
    settings = read_flags(given, EncodeSettings)
    kinds.expect(given.shards, "gesso encode --shards", "export")
    kinds.expect(given.dvae, "gesso encode --dvae", "dvae")
    kinds.check_output(given.output, "gesso encode", "tokens")
    single = "WORLD_SIZE" not in os.environ
    check_device(settings.device)
    check_flags(other_flags, single)
    job = open_job(given.output, given.shards, given.dvae, settings)
    is_first = run(job, other_flags) if single else run_distributed(job)
    if is_first:
        jobs.print_funnel(storage.read_json(storage.join(job.output, MANIFEST))["funnel"])
        print(f"captions and codes in {job.output}")
    return 0


def check_flags(other_flags: list[str], single: bool) -> None:
    """Raises UserError for unknown flags; under torchrun Beam's are unknown, too."""
    if single:
        jobs.check_beam_flags(build_parser(), other_flags)
    elif other_flags:
        raise UserError(f"unknown flag {other_flags[0]}: Beam's flags cannot be used under torchrun")


def open_job(output: str, shards: str, dvae: str, settings: EncodeSettings) -> Job:
    """Raises UserError where the export or the dVAE is missing or invalid."""
    splits = tuple(open_splits(shards))
    from gesso.training.dvae.settings import FACTOR

    progress.announce("loading torch and the dVAE")
    from gesso.training.encoding import identity_of, open_model

    opened = open_model(dvae, settings)
    grid = opened.config.image_size // FACTOR
    codes = {"vocabulary": opened.config.vocabulary, "views": settings.views, "grid": grid}
    return Job(output, splits, dvae, identity_of(opened), codes, settings)


def open_splits(shards: str) -> "Iterator[Split]":
    """The splits of an export that hold samples. Raises UserError where there is none."""
    from gesso.training.data.split import filled_splits, open_split

    filled = filled_splits(shards)
    yield from (open_split(shards, split) for split in SPLITS if split in filled or split == SPLITS[0])


def run(job: Job, beam_flags: list[str]) -> bool:
    """Encodes what is missing with Beam; False where all is finished already."""
    with lock(job.output):
        missing = write_or_check_plan(job)
        if missing is not None:
            jobs.run(lambda pipeline: build(pipeline, job, missing), beam_flags, watch_progress(job))
    return missing is not None


def write_or_check_plan(job: Job) -> "list[Target] | None":
    """Writes the plan, or checks that the existing one is this job's; returns what is missing, None when finished."""
    plan = manifest.read_plan(job.output)
    if plan:
        manifest.check_settings(plan, job.record(), job.output)
    else:
        manifest.clear_unfinished_plan(job.output)
        check_empty(job.output)
        storage.write_json(storage.join(job.output, PLAN), job.plan())
    done = export.committed(job.output)
    missing = [target for target in job.targets() if split_and_index(target) not in done]
    if not missing and storage.exists(storage.join(job.output, MANIFEST)):
        print(f"{job.output} is finished: nothing to do")
        return None
    return missing


def check_empty(output: str) -> None:
    """Raises UserError where there are shards without a plan."""
    for split in SPLITS:
        for item in storage.files(storage.join(output, split)):
            raise UserError(f"{item.path} exists already, without a {PLAN}: give another --output")


def split_and_index(target: "Target") -> tuple[str, int]:
    return target.split.split, target.shard.index


def watch_progress(job: Job) -> Any:
    return progress.watch(job.output, export.ExportProgress(job.output))


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


def run_distributed(job: Job) -> bool:
    """Encodes what is missing, divided among torchrun's processes; True in the first, unless finished already."""
    from gesso.processes import processes
    from gesso.training.encoding import encode_shard, open_same

    with processes(TIMEOUT) as group, ExitStack() as stack:
        group.first(lambda: stack.enter_context(lock(job.output)))
        missing = group.first(lambda: write_or_check_plan(job))  # in the others it would see what the first has written
        if missing is None:
            return False
        dvae = open_same(job.dvae, job.settings, job.identity)
        with nullcontext() if group.rank else watch_progress(job):
            for target in missing[group.rank :: group.size]:
                encode_shard(target.split, target.shard, dvae, job.settings, job.output)
            group.agreed(False)  # waits for all processes
        if group.rank == 0:
            finish(job)
        return group.rank == 0


def finish(job: Job) -> None:
    """Writes the manifest when every shard is committed; removes temporary files of killed runs."""
    markers = export.committed(job.output)
    uncommitted = [split_and_index(target) for target in job.targets() if split_and_index(target) not in markers]
    if uncommitted:
        raise RuntimeError(f"{job.output}: shards {uncommitted[:10]} are not committed")
    for folder in (job.output, *(storage.join(job.output, split.split) for split in job.splits)):
        for name in manifest.sizes(folder):
            if manifest.LEFT_BEHIND.search(name):
                storage.remove(storage.join(folder, name))
    wanted = {split_and_index(target): markers[split_and_index(target)] for target in job.targets()}
    storage.write_json(storage.join(job.output, MANIFEST), build_manifest(job, wanted))


def build_manifest(job: Job, markers: dict[tuple[str, int], Json]) -> Json:
    """manifest.json; it depends on the shards alone, not on when or by how many processes they were written."""
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
        **job.published(),
        "versions": {name: version(name) for name in VERSIONED},
    }
