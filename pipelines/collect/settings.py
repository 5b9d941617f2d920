"""Settings of a collection: caption and image rules, limits, sizes. Light: the standard library alone."""

import os
from dataclasses import dataclass, field

from gesso.errors import UserError
from gesso.flags import at_least, flag

JPEG_SIDE = 65_500


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
