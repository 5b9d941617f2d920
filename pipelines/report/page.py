"""A dataset's survey and pictures → the texts and charts of the page's template. No Beam, reads no files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import SequenceMatcher
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gesso.dataset.reasons import PENDING, PICTURE, RULES, STAGES, Stage, meaning, stage_of
from gesso.dataset.records import ROWS_READ, SUCCESS, is_fetched
from gesso.pipelines.report import charts
from gesso.pipelines.report.charts import Segment, number, share
from gesso.pipelines.report.samples import Picture, host_of
from gesso.pipelines.report.survey import Survey
from gesso.progress import seconds

Json = dict[str, Any]

TOP_HOSTS, TOP_WORDS, TOP_CAPTIONS = 20, 40, 12
LONGEST = 1_000  # maximum characters of a caption on the page
# Words that do not describe pictures: articles, prepositions, pronouns, forms of to be.
STOP_TEXT = """
a about above after all also am an and are around as at be been before behind being below beside between but by can
close do does down each few for from front had has have he her here his how i if in inside into is it its just me more
most my near next no not of off on one or other our out outside over several she so some such than that the their them
then there these they this those through to too top two under up upon very was we were what when where which while who
will with you your
"""
STOP_WORDS = frozenset(STOP_TEXT.split())


# Of an index, where nothing is fetched.
INDEX_STAGES = (
    Stage(RULES, "without a picture or a caption, or of a key that came before", "With picture and caption"),
    Stage(PICTURE, "pictures refused", "Taken"),
)
LEFT_OUT = {  # in the markers of an index
    "members_dropped": "Files of samples that are not carried, by their endings",
    "members_skipped": "Members of no sample",
    "values_dropped": "Values of another type than their column's",
}


@dataclass(frozen=True)
class DatasetSummary:
    """The input of the page."""

    name: str
    by_img2dataset: bool  # shards of img2dataset's own
    finished: bool
    plan: Json
    markers: dict[int, Json]
    versions: dict[str, str]
    bytes: int  # of the kept samples' tars
    funnel: Json  # rows_read, success, every reason
    survey: Survey
    kept: list[Picture]
    rejected: dict[str, list[Picture]]
    indexed: bool = False

    @property
    def noun(self) -> str:
        return "samples" if self.indexed else "rows"

    @property
    def stages(self) -> tuple[Stage, ...]:
        return INDEX_STAGES if self.indexed else STAGES

    @property
    def settings(self) -> Json:
        return self.plan.get("settings", {})

    @property
    def reasons(self) -> Counter[str]:
        return Counter({name: count for name, count in self.funnel.items() if name not in (ROWS_READ, SUCCESS)})

    @property
    def rows(self) -> int:
        return int(self.funnel[ROWS_READ])

    @property
    def samples(self) -> int:
        return int(self.funnel[SUCCESS])


def render(dataset: DatasetSummary) -> str:
    """The whole page."""
    return render_template(
        "page.html.j2",
        name=dataset.name,
        dataset=dataset,
        state=state(dataset),
        when=when(dataset.markers),
        facts=facts(dataset),
        steps=steps(dataset),
        funnel_line=funnel_line(dataset),
        groups=groups(dataset),
        hosts=hosts(dataset.survey),
        sizes=sizes(dataset),
        captions=captions(dataset.survey),
        cards=cards(dataset),
        left_out=left_out(dataset),
    )


def render_template(template: str, **values: Any) -> str:
    """A page of this package, with what the templates share: filters, and no variable that is not given."""
    environment = Environment(
        loader=PackageLoader("gesso.pipelines.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "size": size, "href": safe_href, "host": host_of, "brief": brief}
    return environment.get_template(template).render(**values)


# ── numbers and links for people ──


def size(value: float) -> str:
    """Bytes in decimal units: 347 MB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 100 or unit == "bytes" else f"{value:.3g} {unit}"


def safe_href(url: str | None) -> str:
    """The link if it is http or https; else an empty string, which the page shows without a link."""
    try:
        return url if url and urlsplit(url).scheme in ("http", "https") else ""
    except ValueError:
        return ""


def brief(text: str | None) -> str:
    """A caption, shortened to LONGEST characters."""
    whole = text or ""
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"


# ── head ──


def state(dataset: DatasetSummary) -> str:
    """How much of an unfinished collection is done; an empty string for a finished one."""
    if dataset.finished or dataset.by_img2dataset:
        return ""
    return f"Not finished: {number(len(dataset.markers))} of {number(dataset.plan['shards'])} shards are done."


def busy(markers: Mapping[int, Json]) -> float:
    """Seconds in which at least one shard was being written, without pauses between runs."""
    total, reached = 0.0, 0.0
    for start, end in sorted((marker["start_time"], marker["end_time"]) for marker in markers.values()):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def when(markers: Mapping[int, Json]) -> str:
    """From the first shard's start to the last one's end."""
    if not markers:
        return "no shard is done yet"
    start = datetime.fromtimestamp(min(marker["start_time"] for marker in markers.values()), UTC)
    end = datetime.fromtimestamp(max(marker["end_time"] for marker in markers.values()), UTC)
    day, other = f"{start.day} {start:%B %Y}, {start:%H:%M}", f"{end.day} {end:%B %Y}, {end:%H:%M}"
    return f"{day} to {f'{end:%H:%M}' if start.date() == end.date() else other} UTC"


def facts(dataset: DatasetSummary) -> list[tuple[str, str]]:
    """The numbers at the top of the page, each with its label."""
    fetched = sum(count for reason, count in dataset.reasons.items() if is_fetched(reason) and is_link(reason))
    done, unit = (dataset.rows, "samples") if dataset.indexed else (fetched + dataset.samples, "links")
    passed = busy(dataset.markers)
    rate = done / passed if passed else 0
    return [
        (number(dataset.samples), "pictures with captions"),
        (
            share(dataset.samples, dataset.rows),
            f"of {number(dataset.rows)} {dataset.noun} read" + (", so far" if state(dataset) else ""),
        ),
        (size(dataset.bytes), "in the tars" if dataset.indexed else "in the tars of kept samples"),
        (number(len(dataset.markers)), "shard" if len(dataset.markers) == 1 else "shards"),
        (seconds(passed), "of work" + (f" at {rate:,.{0 if rate >= 10 else 1}f} {unit} a second" if rate else "")),
    ]


def is_link(reason: str) -> bool:
    return stage_of(reason) not in ("rows", "repeats")


# ── funnel and reasons ──


def by_stage(dataset: DatasetSummary) -> Counter[str]:
    """Rows lost at each stage; `pending` are those of unfinished shards."""
    lost = Counter[str]()
    for reason, count in dataset.reasons.items():
        lost[stage_of(reason)] += count
    lost[PENDING] = dataset.rows - dataset.samples - lost.total()
    return lost


def steps(dataset: DatasetSummary) -> list[Json]:
    """The steps of the funnel: the rows that are left, and those lost before."""
    lost, left = by_stage(dataset), dataset.rows
    rows: list[Json] = [step(f"{dataset.noun.capitalize()} read", "", left, 0, dataset.rows, "")]
    for stage in dataset.stages:
        gone = lost[stage.name]
        left -= gone
        if gone or stage.name not in ("rows", "repeats", PENDING):
            rows.append(step(stage.survivors, stage.name, left, gone, dataset.rows, stage.title))
    return rows


def step(label: str, kind: str, left: int, gone: int, rows: int, title: str) -> Json:
    parts = [Segment("kept", left, f"{label}: {number(left)}"), Segment(kind, gone, f"{title}: {number(gone)}")]
    lost = f"− {number(gone)} {title} ({share(gone, rows)})" if gone else ""
    drawn = charts.bar(parts if gone else parts[:1], rows)
    return {"label": label, "kind": kind, "count": number(left), "share": share(left, rows), "bar": drawn, "lost": lost}


def funnel_line(dataset: DatasetSummary) -> str:
    """A sentence about the stage at which most rows are lost."""
    lost = by_stage(dataset)
    lost.pop(PENDING)
    titles = {stage.name: stage.title for stage in dataset.stages}
    worst, count = max(lost.items(), key=lambda item: item[1], default=("", 0))
    if not count:
        return f"No {dataset.noun[:-1]} of the finished shards is lost."
    return f"The largest loss is {number(count)} {dataset.noun} ({share(count, dataset.rows)}): {titles[worst]}."


def groups(dataset: DatasetSummary) -> list[Json]:
    """The reasons by stage, the frequent ones first."""
    most = max(dataset.reasons.values(), default=0)
    found = []
    for stage in dataset.stages:
        rows = [item for item in dataset.reasons.most_common() if item[1] and stage_of(item[0]) == stage.name]
        if rows:
            total = sum(count for _, count in rows)
            lines = [reason_line(dataset, stage.name, reason, count, most) for reason, count in rows]
            title = stage.title[0].upper() + stage.title[1:]
            summary = f"{number(total)} · {share(total, dataset.rows)}"
            found.append({"kind": stage.name, "title": title, "summary": summary, "lines": lines})
    return found


def reason_line(dataset: DatasetSummary, kind: str, reason: str, count: int, most: int) -> Json:
    shown = len(dataset.rejected.get(reason, [])) or len(dataset.survey.examples.get(reason, []))
    drawn = charts.bar([Segment(kind, count, f"{reason}: {number(count)}")], most)
    part = share(count, dataset.rows)
    return {
        "reason": reason,
        "count": number(count),
        "share": part,
        "bar": drawn,
        "meaning": meaning(reason),
        "shown": shown,
    }


# ── what an index leaves in its tars ──


def left_out(dataset: DatasetSummary) -> list[tuple[str, list[tuple[str, str]]]]:
    """The counts of what does not travel, the frequent first, under a title each."""
    found = []
    for name, title in LEFT_OUT.items():
        counts = Counter[str]()
        for marker in dataset.markers.values():
            counts.update(marker.get(name, {}))
        if counts:
            found.append((title, [(item, number(count)) for item, count in counts.most_common(TOP_HOSTS)]))
    return found


# ── hosts ──


def hosts(survey: Survey) -> Json:
    """The hosts with the most links, and a sentence on their distribution."""
    links, outcomes = Counter[str](), dict[str, Counter[str]]()
    for (host, outcome), count in survey.hosts.counts.items():
        links[host] += count
        outcomes.setdefault(host, Counter())[outcome] += count
    top = links.most_common(TOP_HOSTS)
    most = top[0][1] if top else 0
    seen = {stage_of(outcome) for counts in outcomes.values() for outcome in counts if outcome != SUCCESS}
    return {
        "key": [("kept", "kept"), *((stage.name, stage.title) for stage in STAGES if stage.name in seen)],
        "rows": [host_line(host, count, outcomes[host], most) for host, count in top],
        "line": hosts_line(links, survey.hosts.error),
        "note": f"Counts of rare hosts may be too low by up to {number(survey.hosts.error)}."
        if survey.hosts.error
        else "",
    }


def hosts_line(links: Counter[str], error: int) -> str:
    half, reached = 0, 0
    for half, (_, count) in enumerate(links.most_common(), 1):  # noqa: B007 - read after the loop
        reached += count
        if 2 * reached >= links.total():
            break
    single = sum(count == 1 for count in links.values())
    least = "at least " if error else ""
    holds = "host has" if half == 1 else "hosts have"
    return (
        f"The links are on {least}{number(len(links))} {'host' if len(links) == 1 else 'hosts'}. "
        f"{number(half)} {holds} half of them; {number(single)} {'has' if single == 1 else 'have'} a single link."
    )


def host_line(host: str, count: int, outcomes: Counter[str], most: int) -> Json:
    stages = Counter[str]()
    for outcome, number_of in outcomes.items():
        if outcome != SUCCESS:
            stages[stage_of(outcome)] += number_of
    parts = [Segment("kept", outcomes[SUCCESS], f"kept: {number(outcomes[SUCCESS])}")]
    parts += [
        Segment(stage.name, stages[stage.name], f"{stage.title}: {number(stages[stage.name])}")
        for stage in STAGES
        if stages[stage.name]
    ]
    failures = [(outcome, times) for outcome, times in outcomes.most_common() if outcome != SUCCESS]
    worst = f"{failures[0][0]} {share(failures[0][1], count)}" if failures else ""
    return {
        "host": host,
        "count": number(count),
        "kept": share(outcomes[SUCCESS], count),
        "bar": charts.bar(parts, most),
        "worst": worst,
    }


# ── sizes ──


def sizes(dataset: DatasetSummary) -> Json:
    """Charts of the pictures' sizes, and the shares of formats and of unchanged files."""
    survey, settings = dataset.survey, dataset.settings
    untouched, again = survey.reencoded[False], survey.reencoded[True]
    line = f"{share(untouched, untouched + again)} of the kept pictures are stored as downloaded; "
    line += f"{number(again)} were resized, rotated or converted, and re-encoded."
    formats = survey.formats.most_common()
    known = sum(count for _, count in formats)
    return {
        "line": line if untouched + again else "",
        "formats": [(name, number(count), share(count, known)) for name, count in formats],
        "downloaded": size(survey.downloaded) if survey.downloaded else "",
        "map": size_map(survey, settings),
        "charts": [chart for chart in size_charts(survey, settings) if chart],
    }


def size_map(survey: Survey, settings: Json) -> Markup:
    if not survey.size_map.any():
        return Markup()
    label = "Original widths and heights of all pictures whose header was read"
    limits = settings.get("min_side"), settings.get("max_aspect_ratio")
    return charts.size_map(survey.size_map, survey.size_edges, label, *limits)


def size_charts(survey: Survey, settings: Json) -> list[Json]:
    """Histograms of short sides, bytes and aspect ratios, with the rules' limits."""
    ratio = settings.get("max_aspect_ratio")
    sides = [(settings[name], f"{text} {settings[name]}") for name, text in SIDE_MARKS if settings.get(name)]
    ratios = [(1 / ratio, ratio_name(1 / ratio)), (ratio, ratio_name(ratio))] if ratio else []
    every = [
        ("Original short side, pixels", survey.short_side, number, None, sides),
        ("Stored short side, pixels", survey.kept_side, number, None, []),
        ("Aspect ratio (width to height)", survey.aspect, ratio_name, [0.125, 0.25, 0.5, 1, 2, 4, 8], ratios),
        ("Original file size", survey.bytes, binary_size, BYTE_TICKS, []),
    ]
    return [
        {"title": title, "svg": charts.histogram(counts, title, value, ticks, marks)}
        for title, counts, value, ticks, marks in every
        if counts.total
    ]


SIDE_MARKS = (("min_side", "at least"), ("image_size", "resized to"))
BYTE_TICKS = [2.0**octave for octave in range(8, 27, 3)]


def ratio_name(value: float) -> str:
    """An aspect ratio for an axis: 2:1, 1:1, 1:2."""
    return f"{value:.3g}:1" if value >= 1 else f"1:{1 / value:.3g}"


def binary_size(value: float) -> str:
    """Bytes in binary units for an axis: 256 B, 2 KiB, 1 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024 or unit == "MiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"


# ── captions ──


def captions(survey: Survey) -> Json:
    """Lengths, frequent words and captions, and what cleaning removed."""
    words = [item for item in survey.words.counts.most_common(10 * TOP_WORDS) if item[0] not in STOP_WORDS]
    words = [item for item in words if len(item[0]) > 1 and not item[0].isnumeric()][:TOP_WORDS]
    repeated = [(text, count) for text, count in survey.captions.counts.most_common(TOP_CAPTIONS) if count > 1]
    kept = survey.outcomes[SUCCESS]
    return {
        "line": captions_line(survey),
        "charts": [
            {"title": title, "svg": charts.histogram(counts, title, number)}
            for title, counts in (("Words", survey.caption_words), ("Characters", survey.caption_chars))
            if counts.total
        ],
        "words": [(word, number(count), bar_of_word(word, count, words[0][1])) for word, count in words],
        "repeated": [(brief(text), number(count), share(count, kept)) for text, count in repeated],
        "cut": f"{number(survey.cut)} of the kept captions ({share(survey.cut, kept)}) were cleaned.",
        "examples": [edited(brief(before), brief(after)) for before, after in survey.cut_examples.items()],
        "note": f"Counts may be too low by up to {number(survey.captions.error)}." if survey.captions.error else "",
    }


def bar_of_word(word: str, count: int, most: int) -> Markup:
    return charts.bar([Segment("kept", count, f"{word}: {number(count)}")], most)


def edited(before: str, after: str) -> Markup:
    """The original caption with removed and inserted words marked."""
    old, new = before.split(), after.split()
    pieces = []
    for _, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if old[i:j] == new[k:m]:
            pieces.append(Markup("{}").format(" ".join(old[i:j])))
            continue
        marked = (("del", old[i:j]), ("ins", new[k:m]))
        pieces += [Markup(f"<{tag}>{{}}</{tag}>").format(" ".join(words)) for tag, words in marked if words]
    return Markup(" ").join(pieces)


def captions_line(survey: Survey) -> str:
    if not survey.caption_words.total:
        return "There is no caption yet."
    line = f"Half of the kept captions have {number(survey.caption_words.median())} words or fewer."
    again = sum(count for count in survey.captions.counts.values() if count > 1)
    if survey.captions.error or not again:
        return line
    return f"{line} {share(again, survey.captions.counts.total())} of them belong to more than one picture."


# ── contact sheets ──


def cards(dataset: DatasetSummary) -> list[Json]:
    """For every reason its example pictures, or else example rows as text."""
    found = []
    for reason, count in dataset.reasons.most_common():
        shown, rows = dataset.rejected.get(reason, []), dataset.survey.examples.get(reason, [])
        if shown or rows:
            entry = {"reason": reason, "kind": stage_of(reason), "count": number(count), "meaning": meaning(reason)}
            found.append({**entry, "pictures": shown, "rows": [] if shown else rows})
    return found
