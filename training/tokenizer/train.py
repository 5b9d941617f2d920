"""`gesso train tokenizer`: captions of an export → tokenizer.json. Reads whole shards, chosen by the seed.

run.json          written first: settings, data, versions
tokenizer.json    written last: the run is then finished
"""

from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING

from gesso.errors import UserError
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.lock import lock
from gesso.training import run_record
from gesso.training.layout import RECORD
from gesso.training.tokenizer.settings import FILE, POSITIONS, TokenizerSettings

if TYPE_CHECKING:
    from gesso.training.data.split import Split

KIND = "tokenizer"
VERSIONED = ("gesso", "tokenizers")
MEASURED = 10_000  # captions for the mean number of tokens
DESCRIPTION = """\
Trains a tokenizer on the captions of an export: byte-level BPE of lower-cased text, as in the DALL-E paper (arXiv
2102.12092, section 2.2).
"""


@dataclass(frozen=True)
class Run:
    """All settings of one training."""

    data: str
    output: str
    settings: TokenizerSettings


@dataclass
class CaptionCounts:
    """Counts of captions read so far."""

    captions: int = 0
    empty: int = 0


def build_parser() -> Parser:
    parser = Parser("gesso train tokenizer", DESCRIPTION)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--data", type=path, required=True, metavar="DIR", default=SUPPRESS, help="the --output of `gesso export`"
    )
    what.add_argument(
        "--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help=f"folder for {FILE} and {RECORD}"
    )
    add_flags(parser, "tokenizer", TokenizerSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso train tokenizer`: trains a tokenizer and prints what came out."""
    given = build_parser().parse_args(argv)
    run = Run(given.data, given.output, read_flags(given, TokenizerSettings))
    from gesso.dataset import kinds
    from gesso.training.data.split import open_split

    kinds.expect(run.data, "gesso train tokenizer", "export")
    kinds.check_output(run.output, "gesso train tokenizer", KIND)
    split = open_split(run.data, "train")
    with lock(run.output):
        if start(run, split):
            train(run, split)
        else:
            print(f"{run.output} is finished: nothing to do")
    return 0


def start(run: Run, split: "Split") -> bool:
    """Writes run.json, or checks that an existing one has the same settings and data; whether there is work left."""
    from gesso import storage

    settings, data = asdict(run.settings), split.identity()
    finished = storage.exists(storage.join(run.output, FILE))
    old = run_record.read(run.output, KIND)
    if old:
        was = {**old["settings"], "data": old.get("data")}
        run_record.check_settings(run.output, was, {**settings, "data": data})
        return not finished
    if finished:
        raise UserError(f"{run.output} already holds a {FILE} without {RECORD}: give another --output")
    run_record.write(run.output, KIND, settings=settings, data=data, versions=run_record.versions(VERSIONED))
    return True


def train(run: Run, split: "Split") -> None:
    from gesso import storage
    from gesso.training.tokenizer import bpe

    read = CaptionCounts()
    body = bpe.train(sample_captions(split, run.settings, read), run.settings.vocabulary)
    if read.captions == read.empty:
        raise UserError(f"{run.data} holds no caption of the train split that is not empty: nothing to train on")
    with storage.write_whole(storage.join(run.output, FILE)) as stream:
        stream.write(body.encode())
    tokenizer = bpe.Tokenizer.open(run.output)
    tokens = tokenizer.size - POSITIONS
    print(f"{read.captions:,} captions read, {read.empty:,} of them empty and skipped")
    if tokens < run.settings.vocabulary:
        print(f"they hold {tokens:,} tokens, fewer than the {run.settings.vocabulary:,} of --vocabulary")
    measured = islice(sample_captions(split, run.settings, CaptionCounts()), MEASURED)
    counts = [tokenizer.length(caption) for caption in measured]
    print(f"{tokens:,} tokens and {POSITIONS} positions; {sum(counts) / len(counts):.1f} tokens per caption")
    print(f"tokenizer in {storage.join(run.output, FILE)}")


def sample_captions(split: "Split", settings: TokenizerSettings, read: CaptionCounts) -> Iterator[str]:
    """The captions of whole shards in random order, until there are enough; counts them in `read`."""
    from gesso.training.data.randomness import random_of

    for place in random_of("tokenizer", settings.seed, 0, "").permutation(len(split.shards)):
        captions = split.rows(split.shards[place], ["caption"])["caption"]
        for caption in captions.slice(0, settings.captions - read.captions).to_pylist():
            read.captions += 1
            read.empty += not caption
            if caption:
                yield caption
        if read.captions == settings.captions:
            return
