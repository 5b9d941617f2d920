"""Tokens → their page: funnel, splits, how often the codes are used, captions with their first codes. No torch.

At most SHARDS shards are read, evenly spread: their codes stand for all.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.layout import MANIFEST, SPLITS, rows_name
from gesso.dataset.manifest import read_object
from gesso.dataset.records import ROWS_READ, SUCCESS
from gesso.errors import UserError
from gesso.pipelines.report import charts, page
from gesso.pipelines.report.charts import Segment, number, share
from gesso.pipelines.report.samples import spread
from gesso.pipelines.report.survey import Survey

Json = dict[str, Any]
Codes = npt.NDArray[np.uint16]  # (n, views, g, g)

SHARDS = 64  # of each split that are read
TOP = 24  # most frequent codes that are listed
EXAMPLES = 12
FIRST = 8  # codes that an example shows


@dataclass
class Usage:
    """How often each code is used in the shards that were read."""

    counts: npt.NDArray[np.int64]  # (vocabulary,)
    grids: int = 0
    examples: list[Json] = field(default_factory=list)

    @property
    def used(self) -> int:
        return int(np.count_nonzero(self.counts))

    @property
    def perplexity(self) -> float:
        """The number of codes that would be as varied if all were used alike."""
        used = self.counts[self.counts > 0] / max(1, self.counts.sum())
        return float(np.exp(-(used * np.log(used)).sum()))

    def add(self, codes: Codes) -> None:
        self.counts += np.bincount(codes.ravel(), minlength=len(self.counts))
        self.grids += codes.shape[0] * codes.shape[1]


def read_manifest(output: str) -> Json:
    """Raises UserError where the tokens are unfinished: what they hold is written last."""
    path = storage.join(output, MANIFEST)
    if not storage.exists(path):
        raise UserError(
            f"{output} is not finished: run the same `gesso encode` again; `gesso status` shows how far it is"
        )
    described = read_object(path)
    if described is None:
        raise UserError(f"{path} is damaged: `gesso verify {output} --repair` removes it")
    return described


def chosen_shards(manifest: Json) -> list[Json]:
    """The entries of the shards to read."""
    of_splits = [[entry for entry in manifest["shards"] if entry["split"] == split] for split in SPLITS]
    return [entries[at] for entries in of_splits for at in spread(range(len(entries)), SHARDS)]


def row_file(output: str, entry: Json) -> str:
    return storage.join(output, entry["split"], rows_name(entry["index"]))


def survey_codes(output: str, manifest: Json, entries: list[Json]) -> Usage:
    """The codes of some shards. Raises UserError where a file is damaged."""
    usage = Usage(np.zeros(manifest["codes"]["vocabulary"], np.int64))
    each = -(-EXAMPLES // max(1, len(entries)))
    for entry in entries:
        path = storage.join(output, entry["split"], f"{entry['index']:05d}.npy")
        try:
            with storage.open_input(path) as stream:
                codes: Codes = np.load(stream, allow_pickle=False)
            usage.add(codes)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): `gesso verify {output}` shows what is damaged"
            ) from error
        usage.examples += examples(row_file(output, entry), codes, min(each, EXAMPLES - len(usage.examples)))
    return usage


def examples(rows: str, codes: Codes, count: int) -> list[Json]:
    """The first captions of a shard with the first codes of their first grids."""
    with storage.open_input(rows) as stream:
        captions = pq.read_table(stream, columns=["caption"]).slice(0, count)["caption"].to_pylist()
    return [
        {"caption": caption, "codes": " ".join(map(str, grids[0].ravel()[:FIRST].tolist()))}
        for caption, grids in zip(captions, codes[:count], strict=True)
    ]


def render(name: str, manifest: Json, survey: Survey, usage: Usage, read: int) -> str:
    """The whole page; `survey` is of the captions, `usage` of the codes of `read` shards."""
    codes, settings = manifest["codes"], dict(manifest["settings"])
    dvae = settings.pop("dvae", {})
    every = read == len(manifest["shards"])
    return page.render_template(
        "tokens.html.j2",
        name=name,
        state="",
        facts=facts(manifest),
        line=funnel_line(manifest["funnel"]),
        steps=steps(manifest["funnel"]),
        splits=split_rows(manifest),
        codes=codes,
        of="all codes" if every else f"the codes of {number(read)} of {number(len(manifest['shards']))} shards",
        usage_line=usage_line(usage, codes["vocabulary"]),
        curve=charts.share_curve(usage.counts, "Share of all codes that the most frequent ones make up"),
        top=top_codes(usage),
        captions=page.captions(survey),
        examples=usage.examples,
        settings=settings,
        dvae={name: value for name, value in dvae.items() if not isinstance(value, dict)},
        versions=manifest["versions"],
    )


def facts(manifest: Json) -> list[tuple[str, str]]:
    """The numbers at the top of the page, each with its label."""
    codes = manifest["codes"]
    sizes = [item["bytes"] for entry in manifest["shards"] for item in entry["files"].values()]
    return [
        (number(manifest["samples"]), "captions with codes"),
        (number(codes["views"]), "views of each picture"),
        (f"{codes['grid']} × {codes['grid']}", "codes in a grid"),
        (number(codes["vocabulary"]), "codes in the vocabulary"),
        (page.size(sum(sizes)), f"in {number(len(manifest['shards']))} shards"),
    ]


def funnel_line(funnel: Json) -> str:
    lost = funnel[ROWS_READ] - funnel[SUCCESS]
    if not lost:
        return "Every sample of the export was encoded."
    return (
        f"{number(lost)} samples ({share(lost, funnel[ROWS_READ])}) were left out: their pictures are damaged or small."
    )


def steps(funnel: Json) -> list[Json]:
    """The samples read, and what is left after each reason."""
    read = left = int(funnel[ROWS_READ])
    rows = [page.step("Samples read", "", left, 0, read, "")]
    for reason, gone in funnel.items():
        if reason not in (ROWS_READ, SUCCESS):
            left -= gone
            rows.append(page.step(f"Less {reason}", "picture", left, gone, read, reason))
    return [*rows, page.step("Encoded", "", left, 0, read, "")]


def split_rows(manifest: Json) -> list[tuple[str, ...]]:
    """Name, samples, grids and shards of each split."""
    views = manifest["codes"]["views"]
    shards = [entry["split"] for entry in manifest["shards"]]
    return [
        (split, number(count), number(count * views), number(shards.count(split)))
        for split, count in manifest["splits"].items()
    ]


def usage_line(usage: Usage, vocabulary: int) -> str:
    used = f"{number(usage.used)} of {number(vocabulary)} codes ({share(usage.used, vocabulary)}) are used"
    return f"{used}; their perplexity is {usage.perplexity:,.1f}."


def top_codes(usage: Usage) -> list[Json]:
    """The most frequent codes with their shares."""
    order = np.argsort(-usage.counts, kind="stable")[:TOP]
    total, most = int(usage.counts.sum()), int(usage.counts.max(initial=0))
    return [
        {
            "code": int(code),
            "bar": charts.bar([Segment("kept", int(count), f"code {code}: {number(count)}")], most),
            "share": share(int(count), total),
        }
        for code, count in zip(order, usage.counts[order], strict=True)
        if count
    ]
