"""A folder of outputs, of one project → their chapters in the order of the work. No torch.

A chapter says in a line what a command made, and shows a few of its pictures; what is unfinished is left out.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gesso import storage
from gesso.dataset import kinds, manifest
from gesso.dataset.layout import MANIFEST, SPLITS
from gesso.dataset.manifest import read_object
from gesso.dataset.reasons import meaning
from gesso.dataset.records import ROWS_READ, SUCCESS
from gesso.pipelines.report import export_page, page, samples
from gesso.pipelines.report.charts import number, share
from gesso.training.report.pictures import uri
from gesso.training.report.run import Run, read_run

if TYPE_CHECKING:
    from gesso.dedup.review.listing import Listing

Json = dict[str, Any]

PICTURES = 12  # of a data set
PAIRS = 6
DRAWN = 8  # best pictures of a generation
REASONS = 4  # most frequent
PAGE = "report.html"
NOTHING = "Nothing is finished yet: run `gesso report` again later."


class Picture(NamedTuple):
    """A picture of a chapter: a data URI and what stands under it."""

    uri: str
    caption: str
    note: str = ""


class Chapter(NamedTuple):
    """What one output shows."""

    name: str  # of its folder
    title: str
    line: str
    pictures: Sequence[Picture] = ()
    wide: Sequence[Picture] = ()  # over the whole width
    table: Sequence[Sequence[str]] = ()  # the head first
    page: str = ""  # relative link


def outputs(folder: str) -> list[tuple[str, kinds.Kind]]:
    """The outputs in a folder with their kinds, in the order of the work, then of their names."""
    found = [(path, kinds.recognise(path)) for path in storage.folders(folder)]
    order = list(CHAPTERS)
    known = [(path, kind) for path, kind in found if kind and kind.name in CHAPTERS]
    return sorted(known, key=lambda each: (order.index(each[1].name), each[0]))


def render(folder: str) -> str:
    """The page. Raises UserError where a file of an output is damaged."""
    chapters = [chapter for path, kind in outputs(folder) if (chapter := CHAPTERS[kind.name](path))]
    return page.render_template(
        "project.html.j2", name=name_of(folder), state="" if chapters else NOTHING, facts=[], chapters=chapters
    )


def link(path: str, page: str = PAGE) -> str:
    """To an output's own page, where it has been made."""
    return f"{name_of(path)}/{page}" if storage.exists(storage.join(path, page)) else ""


def name_of(path: str) -> str:
    return storage.absolute(path).rpartition("/")[2]


def finished(path: str) -> Json | None:
    return read_object(storage.join(path, MANIFEST)) if storage.exists(storage.join(path, MANIFEST)) else None


def png(path: str, caption: str, note: str = "") -> Iterator[Picture]:
    """The picture of a file, if there is one."""
    if storage.exists(path):
        yield Picture(uri(storage.read(path), path), caption, note)


# ── data sets ──


def collection(path: str) -> Chapter | None:
    described = finished(path)
    if not described:
        return None
    funnel = described["funnel"]
    lost = sorted(((count, name) for name, count in funnel.items() if name not in (ROWS_READ, SUCCESS)), reverse=True)
    reasons = [[meaning(name), number(count)] for count, name in lost[:REASONS]]
    kept = samples.kept_pictures(path, list(manifest.committed(path)), PICTURES)
    return Chapter(
        name_of(path),
        "Links",
        f"{number(funnel[ROWS_READ])} rows of a table of links became {number(funnel[SUCCESS])} pictures with "
        f"captions, {share(funnel[SUCCESS], funnel[ROWS_READ])} of them."
        + " What took most of the others:"
        * bool(lost),
        [Picture(each.uri, each.row["caption"]) for each in kept],
        table=[["Reason", "Links"], *reasons] if lost else (),
        page=link(path),
    )


def index(path: str) -> Chapter | None:
    described = finished(path)
    if not described:
        return None
    read, taken = described["funnel"][ROWS_READ], described["funnel"][SUCCESS]
    kept = samples.kept_pictures(path, list(manifest.committed(path)), PICTURES)
    return Chapter(
        name_of(path),
        "Tars of others",
        f"{number(taken)} of {number(read)} samples in {number(len(described['shards']))} tars are taken.",
        [Picture(each.uri, each.row["caption"]) for each in kept],
        page=link(path),
    )


def export(path: str) -> Chapter | None:
    described = finished(path)
    if not described:
        return None
    funnel, splits = described["funnel"], export_page.committed(path)
    dropped = sum(export_page.dropped(funnel).values())
    shown = export_page.pictures(path, splits, PICTURES)
    return Chapter(
        name_of(path),
        "Shards",
        f"{number(dropped)} of {number(funnel['samples_read'])} samples were dropped as overlaps and repeats; the "
        f"others were shuffled into {number(funnel.get(SPLITS[0], 0))} for training and "
        f"{number(funnel.get(SPLITS[1], 0))} for validation.",
        [Picture(each.uri, each.row["caption"], split) for split, found in shown.items() for each in found],
        page=link(path),
    )


def overlap(path: str) -> Chapter | None:
    """The nearest pairs and what was decided; its pictures are the review's thumbnails."""
    from gesso.dedup import decision
    from gesso.dedup.overlap import read
    from gesso.dedup.review.listing import sort_matches

    if not finished(path):
        return None
    matches = read(path)
    listing, decided = sort_matches(matches.matches), decision.read_latest(matches)
    said = "Nobody has decided yet which of them are the same picture."
    if decided:
        same = int((listing.similarity[listing.starts] >= decided.threshold).sum())
        said = f"{number(same)} of them have a nearest picture at or above the threshold of {decided.threshold:.3g}."
    chosen = samples.spread(range(len(listing.references)), PAIRS)
    shown = [picture for reference in chosen for picture in pair(path, reference, listing)]
    return Chapter(
        name_of(path),
        "Overlaps",
        f"For each of {number(len(listing.references))} pictures of the validation set its nearest training picture. "
        + f"Each was searched in {matches.views} views, the whole and crops. " * (matches.views > 1)
        + said,
        shown,
        page=link(path, "review/index.html"),
    )


def pair(path: str, reference: int, listing: "Listing") -> Iterator[Picture]:
    """A reference and its nearest sample, where the review has made their thumbnails."""
    from gesso.dedup.review.folder import FOLDER, REFERENCES, SAMPLES
    from gesso.dedup.review.thumbnails import thumbnail_name

    start = listing.starts[reference]
    of = ((REFERENCES, reference, "validation"), (SAMPLES, int(listing.samples[start]), "training"))
    for series, place, text in of:
        file = storage.join(path, FOLDER, "thumbs", series, thumbnail_name(place))
        if storage.exists(file):
            body = base64.b64encode(storage.read(file)).decode()
            yield Picture(f"data:image/jpeg;base64,{body}", text, f"similarity {listing.similarity[start]:.3f}")


def tokens(path: str) -> Chapter | None:
    described = finished(path)
    if not described:
        return None
    codes, splits = described["codes"], described["splits"]
    return Chapter(
        name_of(path),
        "Image tokens",
        f"{number(sum(splits.values()))} captions with {codes['views']} grids each of {codes['grid']}×{codes['grid']} "
        f"codes of {number(codes['vocabulary'])}.",
        page=link(path),
    )


# ── trainings ──


def last(run: Run, name: str) -> str:
    """The last value of a metric."""
    points = run.finite(name)
    return f"{points[-1][1]:.4g}" if points else "not known yet"


def training(title: str, line: Callable[[Run], str], caption: str) -> Callable[[str], Chapter | None]:
    """A chapter of a training: a line, and the pictures of its last evaluation."""

    def chapter(path: str) -> Chapter | None:
        run = read_run(path, 2)
        drawn = [Picture(uri(grid.body, path), caption) for grid in run.grids[-1:]]
        done = f"{number(run.step)} updates{'' if run.step == run.steps else ', not finished'}. "
        return Chapter(name_of(path), title, done + line(run), wide=drawn, page=link(path))

    return chapter


def of_dvae(run: Run) -> str:
    return f"Validation: a squared error of {last(run, 'val_mse')} a subpixel, {last(run, 'val_nats_per_dim')} nats."


def of_prior(run: Run) -> str:
    return (
        f"Validation: {last(run, 'val_image_loss')} nats an image token, {last(run, 'val_text_loss')} a caption token."
    )


# ── pictures that were drawn ──


def generated(path: str) -> Chapter | None:
    described = read_object(storage.join(path, "generated.json"))
    if not described:
        return None
    entries = sorted(described["pictures"], key=lambda entry: (entry["rank"], entry["caption_index"]))[:DRAWN]
    shown = [
        picture
        for entry in entries
        for picture in png(storage.join(path, entry["file"]), entry["caption"], score_of(entry))
    ]
    captions = len({entry["caption_index"] for entry in described["pictures"]})
    return Chapter(
        name_of(path),
        "Pictures",
        f"{number(captions)} captions, {number(described['n'])} candidates each; the best are shown.",
        shown,
        page=link(path, "contact_sheet.png"),
    )


def score_of(entry: Json) -> str:
    return f"seed {entry['seed']}" + ("" if entry["score"] is None else f", score {entry['score']:.3f}")


def evaluation(path: str) -> Chapter | None:
    from gesso.evaluation import report

    record = read_object(storage.join(path, report.RECORD)) if storage.exists(path) else None
    if not record:
        return None
    names = {name: text for name, text in report.names_of(record).items() if record["rows"][0][name]}
    head = ["Pictures", "Blur", *(report.heading(*each) for each in names.items())]
    rows = [
        [row["pictures"], f"{row['blur']:g}", *(report.shown(name, row[name]) for name in names)]
        for row in record["rows"]
    ]
    sides = (f"{number(record[side]['pictures'])} of {record[side]['name']}" for side in ("generated", "reference"))
    line = f"{' against '.join(sides)}, each figure with its 95% interval."
    chart = png(storage.join(path, report.CHART), "Figures against the radius of the blur on both sides")
    return Chapter(name_of(path), "Evaluation", line, wide=[*chart], table=[head, *rows])


# By kind, in the order of the work.
CHAPTERS: dict[str, Callable[[str], Chapter | None]] = {
    "collection": collection,
    "index": index,
    "matches": overlap,
    "export": export,
    "dvae": training("Reconstructions", of_dvae, "Validation pictures above, what the dVAE's codes give back below"),
    "tokens": tokens,
    "prior": training("Samples", of_prior, "Validation pictures above, what was drawn from their captions below"),
    "generated": generated,
    "evaluation": evaluation,
}
