"""The models that tell something of pictures: Inception, or a contrastive model, which also tells how captions match.

torch. n pictures, S side.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gesso.evaluation import prepare
from gesso.evaluation.features import Floats, Model
from gesso.evaluation.inception import Inception
from gesso.images import Pixels

if TYPE_CHECKING:
    from gesso.generation.ranker import Ranker


def of_inception(inception: Inception, resize: str, batch_size: int, threads: Executor) -> Model:
    """Rows are features, (n, 2048)."""

    def rows(pictures: list[Pixels], _captions: list[str]) -> Floats:
        starts = range(0, len(pictures), batch_size)
        resized = threads.map(partial(prepare.resize, how=resize), pictures)
        batches = (np.stack(list(islice(resized, batch_size))) for _ in starts)
        return np.concatenate([inception.features(batch) for batch in batches])

    return Model({"inception_sha256": inception.sha256, "resize": resize}, rows)


class Once:
    """Embeds a list once for as long as nothing else is asked for: radii and models ask for a block's in a row."""

    def __init__(self, embed: Callable[[list[Any]], Tensor]) -> None:
        self._embed = embed
        self._last: tuple[list[Any], Tensor] | None = None

    def __call__(self, items: list[Any]) -> Tensor:
        if self._last is None or self._last[0] is not items:
            self._last = items, self._embed(items)
        return self._last[1]


def of_ranker(ranker: "Ranker") -> tuple[Model, Model]:
    """Its embeddings of pictures, rows (n, D); and their cosine similarities to each one's caption, rows (n, 1)."""
    pictures, captions = Once(ranker.embed_pictures), Once(ranker.embed_captions)

    def embeddings(of: list[Pixels], _captions: list[str]) -> Floats:
        return np.asarray(pictures(of).cpu().numpy())

    def cosines(of: list[Pixels], texts: list[str]) -> Floats:
        return np.asarray((pictures(of) * captions(texts)).sum(1, keepdim=True).cpu().numpy())

    compared = Model({"embeddings_of": ranker.identity}, embeddings)
    return compared, Model({"ranker": ranker.identity}, cosines, takes_captions=True)
