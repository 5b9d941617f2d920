"""The models that tell something of pictures: Inception, or a contrastive model, which also tells how captions match.

torch. n pictures, S side.
"""

from concurrent.futures import Executor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

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


def of_embeddings(ranker: "Ranker") -> Model:
    """Rows are a contrastive model's embeddings of pictures, (n, D)."""

    def rows(pictures: list[Pixels], _captions: list[str]) -> Floats:
        return np.asarray(ranker.embed_pictures(pictures).cpu().numpy())

    return Model({"embeddings_of": ranker.identity}, rows)


def of_ranker(ranker: "Ranker") -> Model:
    """Rows are the cosine similarity of each picture and its caption, (n, 1)."""

    def rows(pictures: list[Pixels], captions: list[str]) -> Floats:
        products = ranker.embed_pictures(pictures) * ranker.embed_captions(captions)
        return np.asarray(products.sum(1, keepdim=True).cpu().numpy())

    return Model({"ranker": ranker.identity}, rows, takes_captions=True)
