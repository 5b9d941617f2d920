"""One picture's bytes → a training picture, by the image rules: check, decode, resize, encode. No Beam, no network."""

from typing import NamedTuple

from gesso.errors import Rejected
from gesso.images import Header, decode, encode, fitted, in_srgb, perceptual_hash, render, with_end
from gesso.pipelines.collect.settings import ImageRules


class Picture(NamedTuple):
    """A picture as it goes into a shard: always an 8-bit RGB JPEG in sRGB."""

    body: bytes
    width: int
    height: int
    reencoded: bool
    phash: str


def check(header: Header, rules: ImageRules) -> None:
    """Raises Rejected with the first rule that the picture's size breaks."""
    short, long = sorted((header.width, header.height))
    size = f"{header.width}×{header.height}"
    if short < max(rules.min_side, 1):
        raise Rejected("too_small", f"{size}: short side under {rules.min_side}")
    if long > rules.max_aspect_ratio * short:
        raise Rejected("aspect_ratio", f"{size}: {long / short:.2f} over {rules.max_aspect_ratio:g}")
    if short * long > rules.max_pixels:
        raise Rejected("too_many_pixels", f"{size}: over {rules.max_pixels:,} pixels")


def prepare(body: bytes, header: Header, rules: ImageRules) -> Picture:
    """The picture as it is kept: short side at most `image_size`. Raises Rejected(undecodable).

    A JPEG without its end marker is encoded again: what is not has the bytes whose `sha256` its record tells.
    """
    if fits_as_it_is(header, rules):
        pixels = decode(body, header, 1)
        if with_end(body, header) is body:
            return Picture(body, header.width, header.height, False, perceptual_hash(pixels))
    width, height = fitted(header, rules.image_size, min(header.width, header.height))
    pixels = render(body, header, width, height)
    encoded = encode(pixels, rules.jpeg_quality)
    return Picture(encoded, width, height, True, perceptual_hash(pixels))


def fits_as_it_is(header: Header, rules: ImageRules) -> bool:
    """Whether the bytes may stay: nothing is lost to a second encoding then."""
    plain = header.format == "jpeg" and header.mode == "RGB" and header.orientation == 1 and in_srgb(header)
    return plain and min(header.width, header.height) <= rules.image_size
