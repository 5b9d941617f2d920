"""`gesso train tokenizer`: captions of an export → tokenizer.json. Whole shards, drawn by the seed, are read.

run.json          written first: settings, data, versions
tokenizer.json    written last: the run is finished
"""

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

from gesso.errors import UserError
from gesso.flags import Formatter, add_flags, differences, path, read_flags
from gesso.training.layout import RECORD
from gesso.training.tokenizer.settings import FILE, POSITIONS, TokenizerSettings

if TYPE_CHECKING:
    from gesso.training.data.split import Split

Json = dict[str, Any]

KIND = "tokenizer"
MEASURED = 10_000  # captions whose tokens are counted
DESCRIPTION = """\
Captions of an export → a tokenizer (paper section 3): byte-level BPE on lower case.
"""


@dataclass(frozen=True)
class Run:
    """All that one training is made of."""

    data: str
    output: str
    settings: TokenizerSettings


@dataclass
class Read:
    """What was read so far."""

    captions: int = 0
    empty: int = 0


def build_parser() -> ArgumentParser:
    parser = ArgumentParser("gesso train tokenizer", description=DESCRIPTION, formatter_class=Formatter)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--data", type=path, required=True, metavar="DIR", default=SUPPRESS, help="what `gesso export` wrote"
    )
    what.add_argument("--output", type=path, required=True, metavar="DIR", default=SUPPRESS, help=f"where {FILE} goes")
    add_flags(parser, "tokenizer", TokenizerSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso train tokenizer`: parses, draws the sample, trains, and prints what came out."""
    given = build_parser().parse_args(argv)
    run = Run(given.data, given.output, read_flags(given, TokenizerSettings))
    from gesso.training.data.split import open_split

    split = open_split(run.data, "train")
    if begin(run, split):
        train(run, split)
    else:
        print(f"{run.output} is finished: nothing to do")
    return 0


def begin(run: Run, split: "Split") -> bool:
    """Writes the record, or checks that the one which stands is this run's; whether there is something left to do."""
    from gesso import storage

    record: Json = {"format": 1, "kind": KIND, "settings": asdict(run.settings), "data": split.identity()}
    path = storage.join(run.output, RECORD)
    finished = storage.exists(storage.join(run.output, FILE))
    if storage.exists(path):
        check_record(storage.read_json(path), record, run.output)
        return not finished
    if finished:
        raise UserError(f"{run.output} already holds a {FILE} without {RECORD}: give another --output")
    versions = {name: version(name) for name in ("gesso", "tokenizers")}
    storage.write_json(path, {**record, "versions": versions})
    return True


def check_record(old: Json, new: Json, output: str) -> None:
    """Raises UserError with every difference where an output was begun as something else."""
    if old.get("kind") != KIND:
        raise UserError(f"{output} holds a run of another kind ({old.get('kind')}): give another --output")
    was, now = ({**told["settings"], "data": told["data"]} for told in (old, new))
    changed = differences(was, now)
    if changed:
        raise UserError(f"{output} was begun with other settings: {'; '.join(changed)}; give another --output")


def train(run: Run, split: "Split") -> None:
    from gesso import storage
    from gesso.training.tokenizer import bpe

    read = Read()
    body = bpe.train(sample(split, run.settings, read), run.settings.vocabulary)
    if read.captions == read.empty:
        raise UserError(f"{run.data} holds no caption of the train split that is not empty: nothing to learn from")
    with storage.write_whole(storage.join(run.output, FILE)) as stream:
        stream.write(body.encode())
    tokenizer = bpe.Tokenizer.open(run.output)
    tokens = tokenizer.size - POSITIONS
    print(f"{read.captions:,} captions read, {read.empty:,} of them empty and passed over")
    if tokens < run.settings.vocabulary:
        print(f"they hold {tokens:,} tokens, fewer than the {run.settings.vocabulary:,} of --vocabulary")
    measured = islice(sample(split, run.settings, Read()), MEASURED)
    counts = [tokenizer.length(caption) for caption in measured]
    print(f"{tokens:,} tokens and {POSITIONS} positions; {sum(counts) / len(counts):.1f} tokens a caption")
    print(f"tokenizer in {storage.join(run.output, FILE)}")


def sample(split: "Split", settings: TokenizerSettings, read: Read) -> Iterator[str]:
    """The captions of whole shards in an order that the seed draws, until there are enough; counts them in `read`."""
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
