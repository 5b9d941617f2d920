"""`gesso generate`: captions → pictures, the best of many by a ranker.

captions ─ prior: codes, position by position ─ dVAE ─▶ candidates ─ ranker ─▶ the best as PNG, a contact sheet
"""

import os
import re
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import resources
from itertools import count
from typing import TYPE_CHECKING, Any

from gesso import progress, storage
from gesso.dataset import kinds
from gesso.dataset.manifest import read_object
from gesso.devices import check_device
from gesso.errors import Rejected, UserError
from gesso.flags import Parser, add_flags, at_least, path, read_flags
from gesso.generation import captions as texts
from gesso.generation.layout import GAIN, MODEL, RANKER_WEIGHTS, SHEET
from gesso.generation.settings import Candidates, ComputeSettings, Sampling
from gesso.lock import lock

if TYPE_CHECKING:
    import torch

    from gesso.generation.models import Models
    from gesso.generation.output import Kept, Output
    from gesso.generation.ranker import Ranker
    from gesso.images import Pixels

Json = dict[str, Any]

KIND = "generated"
NO_RANKER = "none"
GIVEN_ROWS = 15 / 32  # of the picture that is completed (DALL-E paper, figure 2)
OUTPUTS = "generated"  # the folder of outputs that have no --output
NAME = 48  # characters of such an output's name
DIGITS = 6  # of a score
DESCRIPTION = """\
Draws pictures of a caption, or of a file of them, and keeps the best. Without --prior by the model that gesso ships.

  gesso generate "a red apple"
  gesso generate "a red apple" --prior runs/prior --n 512 --keep 8 --ranker runs/ranker
  gesso generate --captions captions.txt --output out/

A bundle may recommend how to sample, in the place of the defaults below. Candidate i has the seed `--seed` +
i, and one seed gives one picture, however many are drawn. Run again, the same command goes on where it stopped.
"""


@dataclass(frozen=True)
class Job:
    """The settings of one generation."""

    captions: Sequence[str]
    prior: str
    dvae: str
    tokenizer: str
    ranker: str
    pretrained: str
    image: str
    rows: int  # of the image; 0: the paper's share of the grid
    candidates: Candidates
    sampling: Sampling
    compute: ComputeSettings

    @property
    def seeds(self) -> range:
        return range(self.sampling.seed, self.sampling.seed + self.candidates.n)


def build_parser() -> Parser:
    parser = Parser("gesso generate", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument("caption", nargs="?", default="", metavar="CAPTION", help="what the pictures show")

    def add(name: str, metavar: str, text: str, **more: Any) -> None:
        what.add_argument(name, metavar=metavar, default=SUPPRESS, help=text, **{"type": path, **more})

    add("--captions", "FILE", "a UTF-8 text with a caption on each line, instead of CAPTION")
    add("--prior", "PATH", "a run of `gesso train prior`, or a bundle; without it the model that gesso ships")
    add("--dvae", "PATH", "the dVAE of the prior's codes; without it the one that the run had")
    add("--tokenizer", "PATH", "the prior's tokenizer; without it the one that the run had")
    add("--output", "DIR", f"directory for the pictures; without it a new one in {OUTPUTS}/, named by the caption")
    add("--image", "FILE", "a picture whose first rows are given, so that the rest is drawn")
    add("--rows", "INT", "rows of codes that are given of it; without it 15 of 32, or as large a part", type=int)
    ranker = "a run of `gesso train contrastive`, a model of open_clip, or none; without it the bundle's own, if any"
    add("--ranker", "NAME", ranker, type=str)
    add("--pretrained", "NAME", "weights of open_clip's model: a tag, or a file", type=str)
    add_flags(parser, "candidates", Candidates)
    add_flags(parser, "sampling", Sampling)
    add_flags(parser, "computation", ComputeSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso generate`: parses, checks, draws, and says where the pictures are."""
    given = parse(argv)
    job = job_of(
        vars(given), read_flags(given, Candidates), read_flags(given, Sampling), read_flags(given, ComputeSettings)
    )
    if job.prior:
        kinds.expect(job.prior, "gesso generate --prior", "prior", "bundle")
    check_device(job.compute.device)
    output = getattr(given, "output", "")
    if output:
        kinds.check_output(output, "gesso generate", KIND)
    progress.announce("loading torch and the models")
    drawing = open_drawing(job, output, getattr(given, "captions", ""))
    with lock(drawing.output.path):
        drawing.output.begin()
        drawing.run()
    print(f"{len(job.captions) * job.candidates.kept:,} pictures in {drawing.output.path}; {SHEET} shows them")
    return 0


def parse(argv: Sequence[str]) -> Namespace:
    """The flags; where --prior is a bundle, its own recommendation takes the place of the defaults of sampling."""
    parser = build_parser()
    prior = getattr(parser.parse_args(argv), "prior", "")
    parser.set_defaults(**recommended(prior))
    return parser.parse_args(argv)


def recommended(prior: str) -> Json:
    """What a bundle, or the shipped one, recommends to sample by; nothing of a run."""
    file = storage.join(prior or str(resources.files("gesso.generation") / "weights"), MODEL)
    described = read_object(file) if storage.exists(file) else None
    return dict((described or {}).get("sampling", {}))


def job_of(flags: Json, candidates: Candidates, sampling: Sampling, compute: ComputeSettings) -> Job:
    """Raises UserError where flags do not fit each other."""
    names = ("prior", "dvae", "tokenizer", "ranker", "pretrained", "image")
    found = {name: flags.get(name, "") for name in names}
    if "rows" in flags:
        at_least(1, rows=flags["rows"])
        if not found["image"]:
            raise UserError(f"--rows is {flags['rows']} without --image: give the picture, too")
    check_pretrained(found["ranker"], found["pretrained"])
    captions = texts.given(flags["caption"], flags.get("captions", ""))
    return Job(captions, **found, rows=flags.get("rows", 0), candidates=candidates, sampling=sampling, compute=compute)


class Drawing:
    """A job with its models opened."""

    def __init__(
        self, job: Job, output: "Output", models: "Models", ranker: "Ranker | None", prefix: "torch.Tensor | None"
    ) -> None:
        self.job, self.output = job, output
        self._models, self._ranker, self._prefix = models, ranker, prefix

    def run(self) -> None:
        """Draws what is missing, and writes what shows it all."""
        if self.output.is_finished:
            print(f"{self.output.path} is finished: nothing to do")
            return
        from gesso.generation.sampler import captions_at_once, draw_captions

        missing, job, models = self.output.missing(), self.job, self._models
        size = captions_at_once(models, job.candidates.n)
        given = 0 if self._prefix is None else len(self._prefix) // models.grid
        with Progress(models, job.candidates.n, len(missing), given) as shown:
            for start in range(0, len(missing), size):
                indexes = missing[start : start + size]
                captions = [job.captions[index] for index in indexes]
                codes = draw_captions(models, captions, job.seeds, job.sampling, self._prefix, shown.row)
                for index, drawn in zip(indexes, codes, strict=True):
                    self.output.write(index, *self._best(job.captions[index], drawn))
        self._show()

    def _best(self, caption: str, codes: "torch.Tensor") -> "tuple[list[Kept], list[float] | None]":
        """The kept candidates of a caption, best first, of equal ones the smaller seed, and the scores of all."""
        from gesso.generation.output import Kept
        from gesso.generation.sampler import decode_pictures

        kept = self.job.candidates.kept
        pictures = decode_pictures(self._models, codes if self._ranker else codes[:kept])
        scores = self._scores(caption, pictures)
        order = sorted(range(len(pictures)), key=lambda place: -scores[place]) if scores else range(len(pictures))
        return [
            Kept(pictures[place], self.job.seeds[place], scores[place] if scores else None) for place in order[:kept]
        ], scores

    def _scores(self, caption: str, pictures: "Pixels") -> list[float] | None:
        if not self._ranker:
            return None
        return [round(score, DIGITS) for score in self._ranker.scores(caption, pictures).tolist()]

    def _show(self) -> None:
        """The contact sheet, the gain of re-ranking, and generated.json."""
        from gesso.generation import sheet

        records = list(self.output.records())
        lines = [
            sheet.Line(*pair) for pair in zip(self.job.captions, (each["pictures"] for each in records), strict=True)
        ]
        with storage.write_whole(storage.join(self.output.path, SHEET)) as stream:
            stream.write(sheet.draw(self.output.path, lines))
        if self._ranker and self.job.candidates.n > 1:
            import numpy as np

            from gesso.generation import gain

            found = gain.expected_best(np.array([each["scores"] for each in records]))
            gain.draw(found, storage.join(self.output.path, GAIN), self._ranker.name)
        self.output.finish()


class Progress:
    """Shows how far the drawing is: rows of codes, told as pictures."""

    def __init__(self, models: "Models", candidates: int, captions: int, given: int) -> None:
        from gesso.generation.sampler import tile_for

        tile = tile_for(models, candidates)
        self._pictures = captions * candidates
        self._rows = -(-captions // tile.captions) * -(-candidates // tile.candidates) * (models.grid - given)
        self._done, self._display = 0, progress.Display()

    def __enter__(self) -> "Progress":
        self._display.__enter__()
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._show(last=True)
        self._display.__exit__()

    def row(self, row: int, codes: "torch.Tensor") -> None:
        """A tile has drawn a row of the grid."""
        self._done += 1
        self._show()

    def _show(self, last: bool = False) -> None:
        each = self._pictures / max(1, self._rows)
        done = int(self._done * each)

        def line(rate: float | None) -> str:
            return progress.line(done, self._pictures, "pictures", rate * each if rate else None)

        self._display.show(progress.State(self._done, self._rows, line), last)


def open_drawing(job: Job, output: str, captions: str) -> Drawing:
    """Raises UserError where something is missing or damaged, or does not fit."""
    from gesso.generation.models import open_models
    from gesso.generation.output import Output
    from gesso.training.encoding import device_of

    device = device_of(job.compute.device)
    models = open_models(job.prior, job.dvae, device, job.compute.precision, job.tokenizer)
    tell_of_cut(models, job.captions)
    ranker = ranker_of(models, job.ranker, job.pretrained)
    image, prefix = prefix_of(job, models)
    settings = {
        "models": models.identity,
        "ranker": ranker.identity if ranker else None,
        "sampling": asdict(job.sampling),
        "n": job.candidates.n,
        "keep": job.candidates.kept,
        "image": image,
    }
    if output:
        return Drawing(job, Output(output, job.captions, settings), models, ranker, prefix)
    base = default_output(job.captions[0], captions)
    paths = (base if number == 1 else f"{base}-{number}" for number in count(1))
    found = (Output(path, job.captions, settings) for path in paths)
    return Drawing(job, next(each for each in found if each.is_free), models, ranker, prefix)


def ranker_of(models: "Models", given: str, pretrained: str) -> "Ranker | None":
    """The one that is given, else the bundle's own, if it has one. Raises UserError."""
    own = models.bundle if models.bundle and storage.exists(storage.join(models.bundle, RANKER_WEIGHTS)) else NO_RANKER
    name = given or own
    if name == NO_RANKER:
        return None
    from gesso.generation.ranker import open_ranker

    return open_ranker(name, pretrained, models.device)


def check_pretrained(ranker: str, pretrained: str) -> None:
    """Raises UserError where weights are named without their model."""
    if pretrained and ranker in ("", NO_RANKER):
        raise UserError(f"--pretrained is {pretrained} without --ranker: give the model of open_clip, too")


def prefix_of(job: Job, models: "Models") -> "tuple[Json | None, torch.Tensor | None]":
    """What is told of the picture whose first rows are given, and their codes. Raises UserError."""
    if not job.image:
        return None, None
    from gesso.generation.sampler import encode_picture

    rows = job.rows or round(GIVEN_ROWS * models.grid)
    if not 1 <= rows < models.grid:
        raise UserError(f"--rows is {rows}: give 1 to {models.grid - 1}, of the grid's {models.grid}")
    body, pixels = read_picture(job.image, models.dvae.config.image_size)
    about = {"path": job.image, "sha256": sha256(body).hexdigest(), "rows": rows}
    return about, encode_picture(models, pixels)[: rows * models.grid]


def read_picture(path: str, size: int) -> "tuple[bytes, Pixels]":
    """The bytes and pixels of a picture. Raises UserError where it is damaged, or smaller than `size`."""
    from gesso import images
    from gesso.training.data.samples import decode

    if not storage.exists(path):
        raise UserError(f"--image {path} is not there: give a picture ({', '.join(images.FORMATS)})")
    body = storage.read(path)
    try:
        pixels = decode(body, size)
    except Rejected as rejected:
        raise UserError(f"--image {path} is damaged or no picture ({rejected.message}): give another") from rejected
    if min(pixels.shape[:2]) < size:
        shape = f"{pixels.shape[1]}×{pixels.shape[0]}"
        raise UserError(f"--image {path} is {shape} pixels: give one with {size} or more each way")
    return body, pixels


def tell_of_cut(models: "Models", captions: Sequence[str]) -> None:
    """Says on stderr which captions are longer than the prior reads."""
    from gesso.generation.sampler import is_cut

    cut = [caption for caption in captions if is_cut(models, caption)]
    if cut:
        most = models.prior.config.text_positions - 1
        more = f" and of {len(cut) - 1:,} more" if len(cut) > 1 else ""
        told = f"only the first {most} tokens are read of {texts.short(cut[0])!r}{more}"
        print(told, file=sys.stderr, flush=True)


def default_output(caption: str, captions: str) -> str:
    """`generated/a-red-apple`: a name that tells what was asked for."""
    stem = os.path.splitext(captions.rpartition("/")[2])[0] if captions else caption
    name = re.sub(r"\W+", "-", stem.lower()).strip("-")[:NAME].rstrip("-")
    return storage.join(OUTPUTS, name or "picture")
