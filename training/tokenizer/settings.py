"""Settings of a tokenizer, and its constants. Light: the standard library alone."""

from dataclasses import dataclass

from gesso import storage
from gesso.errors import UserError
from gesso.flags import at_least, flag

FILE = "tokenizer.json"
POSITIONS = 256  # of a caption, start-of-text in the first (DALL-E paper, 2.2)
DROPOUT = 0.1  # probability of leaving out a merge, in training alone (DALL-E paper, 2.2)
BYTES = 256  # tokens of single bytes, in which every text can be written
TOKEN_BYTES = 32  # length of the longest token, so that the text of 255 tokens is bounded
IDS = 1 << 16  # uint16


def file_of(path: str) -> str:
    """The tokenizer.json of a path that is one, or is the folder that holds one."""
    return path if path.endswith(".json") else storage.join(path, FILE)


def copy(path: str, folder: str) -> None:
    """Puts the tokenizer of a path into a folder, for what was trained with it."""
    with storage.write_whole(storage.join(folder, FILE)) as stream:
        stream.write(storage.read(file_of(path)))


@dataclass(frozen=True)
class TokenizerSettings:
    """How a tokenizer is trained."""

    vocabulary: int = flag(16_384, "number of BPE tokens, the 256 single bytes included")
    captions: int = flag(1_000_000, "number of captions of the train split to read, from randomly chosen whole shards")
    seed: int = flag(0, "seed of the choice of shards")

    def __post_init__(self) -> None:
        if not BYTES <= self.vocabulary <= IDS - POSITIONS:
            most = f"{IDS - POSITIONS:,}, so that ids fit 16 bits"
            raise UserError(f"--vocabulary is {self.vocabulary:,}: give {BYTES} to {most}")
        at_least(1, captions=self.captions)
        at_least(0, seed=self.seed)
