"""What a tokenizer is made of. Light: the standard library alone."""

from dataclasses import dataclass

from gesso.errors import UserError
from gesso.flags import at_least, flag

FILE = "tokenizer.json"
POSITIONS = 256  # of a caption, start-of-text in the first (paper section 3)
DROPOUT = 0.1  # of the merges, in training alone (paper section 3)
BYTES = 256  # tokens that every text can be written in
TOKEN_BYTES = 32  # of the longest token: what 255 tokens can hold is bounded by it
IDS = 1 << 16  # uint16


@dataclass(frozen=True)
class TokenizerSettings:
    """How a tokenizer is trained."""

    vocabulary: int = flag(16_384, "tokens of the byte-pair encoding, the 256 bytes among them (paper section 3)")
    captions: int = flag(1_000_000, "captions of the train split that are read, drawn by whole shards")
    seed: int = flag(0, "decides which shards are read")

    def __post_init__(self) -> None:
        if not BYTES <= self.vocabulary <= IDS - POSITIONS:
            most = f"{IDS - POSITIONS:,}, so that ids fit 16 bits"
            raise UserError(f"--vocabulary is {self.vocabulary:,}: give {BYTES} to {most}")
        at_least(1, captions=self.captions)
        at_least(0, seed=self.seed)
