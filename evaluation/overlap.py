"""Which pictures the overlap with the training data leaves out of an evaluation. No torch.

`gesso export` lists the references to leave out in coco_overlap.json. A generated picture is left out with them where
its caption describes one of them, so that both sides lose the same scenes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gesso import storage
from gesso.dataset.layout import LEFT_OUT
from gesso.errors import UserError
from gesso.evaluation.pictures import Side, normal

Mask = npt.NDArray[np.bool_]

WAY_OUT = f"give the {LEFT_OUT} of a `gesso export`"


class Kept(NamedTuple):
    """The pictures of each side that stay, (n,) each."""

    generated: Mask
    reference: Mask


def read_exclusions(path: str) -> frozenset[str]:
    """The keys that an overlap's file leaves out. Raises UserError where it is none."""
    try:
        value: Any = storage.read_json(path)
    except OSError as error:
        raise UserError(f"--exclude {path} cannot be read ({error.strerror or error}): {WAY_OUT}") from error
    except ValueError as error:
        raise UserError(f"--exclude {path} is not JSON ({error}): {WAY_OUT}") from error
    keys = value.get("leave_out") if isinstance(value, dict) and value.get("kind") == "left_out" else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"--exclude {path} lists no references to leave out: {WAY_OUT}")
    return frozenset(keys)


def exclude(keys: frozenset[str], generated: Side, reference: Side, path: str) -> Kept:
    """What stays without the overlap. Raises UserError where no reference has one of the keys; there may be none."""
    out = left_out(keys, reference)
    if keys and not out.any():
        example = reference.pictures[0].key
        raise UserError(
            f"--exclude {path} names none of the {len(out):,} references (it has {min(keys)}, they have {example}): "
            "give the list of this reference"
        )
    described = {
        normal(caption) for picture in reference.pictures if picture.key in keys for caption in picture.captions
    }
    prompted = generated.kind == "generated"
    stay = [
        not (prompted and any(normal(caption) in described for caption in picture.captions))
        for picture in generated.pictures
    ]
    return Kept(np.array(stay), ~out)


def everything(generated: Side, reference: Side) -> Kept:
    return Kept(np.ones(len(generated.pictures), bool), np.ones(len(reference.pictures), bool))


def left_out(keys: frozenset[str], reference: Side) -> Mask:
    return np.array([picture.key in keys for picture in reference.pictures])


def notes(keys: frozenset[str], generated: Side, reference: Side) -> Iterator[str]:
    """What the exclusion could not do, a sentence each."""
    unknown = len(keys - {picture.key for picture in reference.pictures})
    if unknown:
        yield f"{unknown:,} of the {len(keys):,} references that --exclude names are not in {reference.path}."
    if generated.kind != "generated" or not any(picture.captions for picture in reference.pictures):
        yield (
            "The overlap is left out of the references alone: no captions tell which generated pictures belong to it "
            "(--annotations names a reference's captions)."
        )


def check_captions(generated: Side, reference: Side) -> None:
    """Raises UserError where pictures were generated for captions that describe none of the references.

    Says nothing where the captions of the references are not known.
    """
    known = {normal(caption) for picture in reference.pictures for caption in picture.captions}
    if generated.kind != "generated" or not known:
        return
    strange = [one for picture in generated.pictures for one in picture.captions if normal(one) not in known]
    if strange:
        raise UserError(
            f"{len(strange):,} of {len(generated.pictures):,} generated pictures have captions of no reference, as "
            f"{strange[0]!r}: generate for the captions of {reference.path}, or give the reference of these captions"
        )
