"""What a user may set: frozen dataclasses that check themselves, and the flags made of them. Standard library only.

A field that has a text is a flag of the same name. Light, so that `--help` answers at once.
"""

import os
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from pipelines.errors import UserError

T = TypeVar("T")

JPEG_SIDE = 65_500


def flag(default: Any, text: str) -> Any:
    """A field that is a flag: its default (a function is called for it) and its text, the unit in it."""
    if callable(default):
        return field(default_factory=default, metadata={"text": text})
    return field(default=default, metadata={"text": text})


def default_of(item: "Field[Any]") -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def add_flags(parser: ArgumentParser, title: str, settings: type) -> None:
    """A group of flags, one for each field of the dataclass that has a text."""
    group = parser.add_argument_group(title)
    for item in fields(settings):
        if "text" not in item.metadata:
            continue
        default = default_of(item)
        kind: dict[str, Any] = {"type": type(default), "metavar": type(default).__name__.upper()}
        if isinstance(default, bool):
            kind = {"action": BooleanOptionalAction}
        group.add_argument(f"--{item.name}", default=default, help=item.metadata["text"], **kind)


def read_flags(given: Namespace, settings: Callable[..., T], **others: Any) -> T:
    """The dataclass of the parsed flags; raises UserError where a value is out of its range."""
    names = [item.name for item in fields(settings) if "text" in item.metadata]  # type: ignore[arg-type]
    return settings(**{name: getattr(given, name) for name in names}, **others)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`name was 1, is 2` for each setting that is not what it was."""
    return [f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in new if old.get(name) != new[name]]


def one_of(allowed: Sequence[str], **values: str) -> None:
    """Raises UserError for the first value that is not allowed."""
    for name, value in values.items():
        if value not in allowed:
            raise UserError(f"--{name} is {value!r}: give one of {', '.join(allowed)}")


def at_least(least: float, **values: float) -> None:
    """Raises UserError for the first value below `least`."""
    for name, value in values.items():
        if value < least:
            raise UserError(f"--{name} is {value}: give {least:g} or more")


@dataclass(frozen=True)
class CaptionRules:
    """What a caption must be. The paper gives no threshold for "too short": one word names a class, not a picture."""

    min_words: int = flag(2, "words below which a caption is rejected")
    max_chars: int = flag(1000, "characters above which a caption is rejected")
    english: bool = flag(True, "reject captions that are not English")

    def __post_init__(self) -> None:
        at_least(0, min_words=self.min_words)
        at_least(1, max_chars=self.max_chars)


@dataclass(frozen=True)
class ImageRules:
    """Which pictures are kept and how large (paper section 1)."""

    # The paper's listing 1 resizes up to 12/8 · 256, and its square crop must hold 256.
    image_size: int = flag(384, "short side of a kept picture at most, pixels")
    min_side: int = flag(256, "short side below which a picture is rejected, pixels")
    max_aspect_ratio: float = flag(2.0, "long side over short side above which a picture is rejected")
    max_pixels: int = flag(50_000_000, "width times height above which a picture is rejected undecoded, pixels")
    jpeg_quality: int = flag(95, "quality of pictures that are encoded again, 1 to 100")

    def __post_init__(self) -> None:
        at_least(1, image_size=self.image_size, max_pixels=self.max_pixels, jpeg_quality=self.jpeg_quality)
        at_least(1, max_aspect_ratio=self.max_aspect_ratio)
        at_least(0, min_side=self.min_side)
        if self.image_size * self.max_aspect_ratio > JPEG_SIDE:
            raise UserError(
                f"--image_size {self.image_size} times --max_aspect_ratio {self.max_aspect_ratio:g} is more than "
                f"{JPEG_SIDE:,} pixels, the longest side of a JPEG: lower one of them"
            )
        if self.jpeg_quality > 100:
            raise UserError(f"--jpeg_quality is {self.jpeg_quality}: give 100 or less")


@dataclass(frozen=True)
class FetchLimits:
    """What one link may cost."""

    deadline: float = flag(20.0, "time for a link, its redirects, attempts and pauses together, seconds")
    max_bytes: int = flag(20 << 20, "size above which a body is given up, bytes")
    retries: int = flag(2, "further attempts after a failure that may pass")
    max_redirects: int = flag(5, "redirects that are followed")
    user_agent: str = flag("gesso/0.1", "how the requests introduce themselves")

    def __post_init__(self) -> None:
        at_least(0, retries=self.retries, max_redirects=self.max_redirects)
        at_least(1, max_bytes=self.max_bytes)
        at_least(0.1, deadline=self.deadline)


@dataclass(frozen=True)
class EngineSettings:
    """How much a process does at once, within which limits and by which rules."""

    concurrency: int = flag(256, "requests in flight in a process")
    decode_threads: int = flag(lambda: os.cpu_count() or 1, "decoding threads in a process")
    limits: FetchLimits = field(default_factory=FetchLimits)
    rules: ImageRules = field(default_factory=ImageRules)

    def __post_init__(self) -> None:
        at_least(1, concurrency=self.concurrency, decode_threads=self.decode_threads)


@dataclass(frozen=True)
class PlanSettings:
    """How the pairs are cut into shards."""

    shard_size: int = flag(10_000, "links to fetch in a shard, about")

    def __post_init__(self) -> None:
        at_least(1, shard_size=self.shard_size)


DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")


@dataclass(frozen=True)
class ModelSettings:
    """Which model embeds pictures, and on what."""

    model: str = flag("detector", "`detector`, a file or run of `gesso train detector`, or a name of open_clip's")
    pretrained: str = flag("", "open_clip's weights: a tag, the path of a checkpoint, or `random`")
    device: str = flag("auto", "auto (CUDA where there is one), cpu or cuda")
    precision: str = flag("auto", "auto (fp32 on a CPU, fp16 on CUDA), fp32, fp16 or bf16")

    def __post_init__(self) -> None:
        one_of(DEVICES, device=self.device)
        one_of(PRECISIONS, precision=self.precision)


@dataclass(frozen=True)
class EmbedSettings:
    """How much an embedding process does at once."""

    batch_size: int = flag(32, "pictures of one forward pass")
    threads: int = flag(lambda: os.cpu_count() or 1, "decoding threads, and on a CPU forward passes at a time")

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, threads=self.threads)


@dataclass(frozen=True)
class ExportSettings:
    """How the kept samples are dealt out."""

    validation_size: int = flag(606_000, "samples of the validation split, exactly (paper section 1: about 606,000)")
    shard_size: int = flag(10_000, "samples in a shard, about")
    seed: int = flag(0, "decides the order within each split, but not which samples are for validation")

    def __post_init__(self) -> None:
        at_least(0, validation_size=self.validation_size, seed=self.seed)
        at_least(1, shard_size=self.shard_size)
