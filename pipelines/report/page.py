"""A dataset's survey and pictures → what the page's template shows, in words and charts. No Beam, reads no files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import SequenceMatcher
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gesso.dataset.reasons import PENDING, STAGES, meaning, stage_of
from gesso.dataset.records import ROWS_READ, SUCCESS, is_fetched
from gesso.pipelines.report import charts
from gesso.pipelines.report.charts import Part, number, share
from gesso.pipelines.report.samples import Picture, host_of
from gesso.pipelines.report.survey import Survey
from gesso.progress import seconds

Json = dict[str, Any]

TOP_HOSTS, TOP_WORDS, TOP_CAPTIONS = 20, 40, 12
LONGEST = 1_000  # characters of a caption that the page carries
# Words that tell nothing about pictures: articles, prepositions, pronouns, forms of to be.
STOP_TEXT = """
a about above after all also am an and are around as at be been before behind being below beside between but by can
close do does down each few for from front had has have he her here his how i if in inside into is it its just me more
most my near next no not of off on one or other our out outside over several she so some such than that the their them
then there these they this those through to too top two under up upon very was we were what when where which while who
will with you your
"""
STOP_WORDS = frozenset(STOP_TEXT.split())


@dataclass(frozen=True)
class Holding:
    """What the report knows of a dataset."""

    name: str
    foreign: bool  # img2dataset's own
    finished: bool
    plan: Json
    markers: dict[int, Json]
    versions: dict[str, str]
    bytes: int  # of the kept samples' tars
    funnel: Json  # rows_read, success, every reason
    survey: Survey
    kept: list[Picture]
    rejected: dict[str, list[Picture]]

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


def render(holding: Holding) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("gesso.pipelines.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "size": size, "href": safe_href, "host": host_of, "brief": brief}
    return environment.get_template("page.html.j2").render(
        it=holding,
        state=state(holding),
        when=when(holding.markers),
        facts=facts(holding),
        steps=steps(holding),
        funnel_line=funnel_line(holding),
        groups=groups(holding),
        hosts=hosts(holding.survey),
        sizes=sizes(holding),
        captions=captions(holding.survey),
        cards=cards(holding),
    )


# ── numbers and links for people ──


def size(value: float) -> str:
    """Bytes in decimal units: 347 MB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 100 or unit == "bytes" else f"{value:.3g} {unit}"


def safe_href(url: str | None) -> str:
    """The link where it is http or https; else an empty text, which the page makes no link of."""
    try:
        return url if url and urlsplit(url).scheme in ("http", "https") else ""
    except ValueError:
        return ""


def brief(text: str | None) -> str:
    """A caption of bounded length."""
    whole = text or ""
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"


# ── head ──


def state(holding: Holding) -> str:
    """What is missing of an unfinished collection; an empty text for a whole one."""
    if holding.finished or holding.foreign:
        return ""
    return f"Not finished: {number(len(holding.markers))} of {number(holding.plan['shards'])} shards are done."


def busy(markers: Mapping[int, Json]) -> float:
    """Seconds in which at least one shard was under way: pauses between two runs do not count."""
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


def facts(holding: Holding) -> list[tuple[str, str]]:
    """The figures of the head, each with its name."""
    fetched = sum(count for reason, count in holding.reasons.items() if is_fetched(reason) and is_link(reason))
    passed = busy(holding.markers)
    rate = (fetched + holding.samples) / passed if passed else 0
    return [
        (number(holding.samples), "pictures with captions"),
        (
            share(holding.samples, holding.rows),
            f"of {number(holding.rows)} rows read" + (", so far" if state(holding) else ""),
        ),
        (size(holding.bytes), "in the tars of kept samples"),
        (number(len(holding.markers)), "shard" if len(holding.markers) == 1 else "shards"),
        (seconds(passed), "of work" + (f" at {rate:,.{0 if rate >= 10 else 1}f} links a second" if rate else "")),
    ]


def is_link(reason: str) -> bool:
    return stage_of(reason) not in ("rows", "repeats")


# ── funnel and reasons ──


def by_stage(holding: Holding) -> Counter[str]:
    """Rows lost on each stage; `pending` are those of shards that are not done."""
    lost = Counter[str]()
    for reason, count in holding.reasons.items():
        lost[stage_of(reason)] += count
    lost[PENDING] = holding.rows - holding.samples - lost.total()
    return lost


def steps(holding: Holding) -> list[Json]:
    """The funnel's rows: what is left, and what the stage before has taken."""
    lost, left = by_stage(holding), holding.rows
    rows: list[Json] = [step("Rows read", "", left, 0, holding.rows, "")]
    for stage in STAGES:
        gone = lost[stage.name]
        left -= gone
        if gone or stage.name not in ("rows", "repeats", PENDING):
            rows.append(step(stage.survivors, stage.name, left, gone, holding.rows, stage.title))
    return rows


def step(label: str, kind: str, left: int, gone: int, rows: int, title: str) -> Json:
    parts = [Part("kept", left, f"{label}: {number(left)}"), Part(kind, gone, f"{title}: {number(gone)}")]
    lost = f"− {number(gone)} {title} ({share(gone, rows)})" if gone else ""
    drawn = charts.bar(parts if gone else parts[:1], rows)
    return {"label": label, "kind": kind, "count": number(left), "share": share(left, rows), "bar": drawn, "lost": lost}


def funnel_line(holding: Holding) -> str:
    """Where most rows are lost, in a sentence."""
    lost = by_stage(holding)
    lost.pop(PENDING)
    titles = {stage.name: stage.title for stage in STAGES}
    worst, count = max(lost.items(), key=lambda item: item[1], default=("", 0))
    if not count:
        return "No row that was looked at is lost."
    return f"The largest loss is {number(count)} rows ({share(count, holding.rows)}): {titles[worst]}."


def groups(holding: Holding) -> list[Json]:
    """The reasons by stage, the frequent ones first."""
    most = max(holding.reasons.values(), default=0)
    found = []
    for stage in STAGES:
        rows = [item for item in holding.reasons.most_common() if item[1] and stage_of(item[0]) == stage.name]
        if rows:
            total = sum(count for _, count in rows)
            lines = [reason_line(holding, stage.name, reason, count, most) for reason, count in rows]
            title = stage.title[0].upper() + stage.title[1:]
            summary = f"{number(total)} · {share(total, holding.rows)}"
            found.append({"kind": stage.name, "title": title, "summary": summary, "lines": lines})
    return found


def reason_line(holding: Holding, kind: str, reason: str, count: int, most: int) -> Json:
    shown = len(holding.rejected.get(reason, [])) or len(holding.survey.examples.get(reason, []))
    drawn = charts.bar([Part(kind, count, f"{reason}: {number(count)}")], most)
    part = share(count, holding.rows)
    return {
        "reason": reason,
        "count": number(count),
        "share": part,
        "bar": drawn,
        "meaning": meaning(reason),
        "shown": shown,
    }


# ── hosts ──


def hosts(survey: Survey) -> Json:
    """The hosts with the most links, and how concentrated the links are."""
    links, causes = Counter[str](), dict[str, Counter[str]]()
    for (host, cause), count in survey.hosts.counts.items():
        links[host] += count
        causes.setdefault(host, Counter())[cause] += count
    top = links.most_common(TOP_HOSTS)
    most = top[0][1] if top else 0
    seen = {stage_of(cause) for counts in causes.values() for cause in counts if cause != SUCCESS}
    return {
        "key": [("kept", "kept"), *((stage.name, stage.title) for stage in STAGES if stage.name in seen)],
        "rows": [host_line(host, count, causes[host], most) for host, count in top],
        "line": hosts_line(links, survey.hosts.error),
        "note": f"Counts of rare hosts may miss up to {number(survey.hosts.error)}." if survey.hosts.error else "",
    }


def hosts_line(links: Counter[str], error: int) -> str:
    half, reached = 0, 0
    for half, (_, count) in enumerate(links.most_common(), 1):  # noqa: B007 - read behind the loop
        reached += count
        if 2 * reached >= links.total():
            break
    single = sum(count == 1 for count in links.values())
    least = "at least " if error else ""
    holds = "host holds" if half == 1 else "hosts hold"
    return (
        f"The links lie on {least}{number(len(links))} {'host' if len(links) == 1 else 'hosts'}. "
        f"{number(half)} {holds} half of them; {number(single)} {'has' if single == 1 else 'have'} a single one."
    )


def host_line(host: str, count: int, causes: Counter[str], most: int) -> Json:
    stages = Counter[str]()
    for cause, number_of in causes.items():
        if cause != SUCCESS:
            stages[stage_of(cause)] += number_of
    parts = [Part("kept", causes[SUCCESS], f"kept: {number(causes[SUCCESS])}")]
    parts += [
        Part(stage.name, stages[stage.name], f"{stage.title}: {number(stages[stage.name])}")
        for stage in STAGES
        if stages[stage.name]
    ]
    failures = [(cause, times) for cause, times in causes.most_common() if cause != SUCCESS]
    worst = f"{failures[0][0]} {share(failures[0][1], count)}" if failures else ""
    return {
        "host": host,
        "count": number(count),
        "kept": share(causes[SUCCESS], count),
        "bar": charts.bar(parts, most),
        "worst": worst,
    }


# ── sizes ──


def sizes(holding: Holding) -> Json:
    """Charts of the pictures' sizes, and the shares of formats and of untouched bytes."""
    survey, settings = holding.survey, holding.settings
    untouched, again = survey.reencoded[False], survey.reencoded[True]
    line = f"{share(untouched, untouched + again)} of the kept pictures keep their bytes as they came; "
    line += f"{number(again)} were made smaller, turned upright or converted, and encoded again."
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
    label = "Original widths and heights of all pictures whose header was read, as a map"
    limits = settings.get("min_side"), settings.get("max_aspect_ratio")
    return charts.size_map(survey.size_map, survey.size_edges, label, *limits)


def size_charts(survey: Survey, settings: Json) -> list[Json]:
    """Histograms of short sides, bytes and aspect ratios, with the rules' limits."""
    ratio = settings.get("max_aspect_ratio")
    sides = [(settings[name], f"{text} {settings[name]}") for name, text in SIDE_MARKS if settings.get(name)]
    ratios = [(1 / ratio, ratio_name(1 / ratio)), (ratio, ratio_name(ratio))] if ratio else []
    every = [
        ("Short side as it came, pixels", survey.short_side, number, None, sides),
        ("Short side as kept, pixels", survey.kept_side, number, None, []),
        ("Width to height", survey.aspect, ratio_name, [0.125, 0.25, 0.5, 1, 2, 4, 8], ratios),
        ("Bytes as they came", survey.bytes, binary_size, BYTE_TICKS, []),
    ]
    return [
        {"title": title, "svg": charts.histogram(counts, title, value, ticks, marks)}
        for title, counts, value, ticks, marks in every
        if counts.total
    ]


SIDE_MARKS = (("min_side", "at least"), ("image_size", "resized to"))
BYTE_TICKS = [2.0**octave for octave in range(8, 27, 3)]


def ratio_name(value: float) -> str:
    """Width to height as people say it: 2:1, 1:1, 1:2."""
    return f"{value:.3g}:1" if value >= 1 else f"1:{1 / value:.3g}"


def binary_size(value: float) -> str:
    """A power of two bytes and what lies between, for an axis: 256 B, 2 KiB, 1 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024 or unit == "MiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"


# ── captions ──


def captions(survey: Survey) -> Json:
    """Lengths, frequent words and captions, and what the rules cut off."""
    words = [item for item in survey.words.counts.most_common(10 * TOP_WORDS) if item[0] not in STOP_WORDS]
    words = [item for item in words if len(item[0]) > 1 and not item[0].isnumeric()][:TOP_WORDS]
    repeated = [(text, count) for text, count in survey.captions.counts.most_common(TOP_CAPTIONS) if count > 1]
    kept = survey.causes[SUCCESS]
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
        "note": f"Counts may miss up to {number(survey.captions.error)}." if survey.captions.error else "",
    }


def bar_of_word(word: str, count: int, most: int) -> Markup:
    return charts.bar([Part("kept", count, f"{word}: {number(count)}")], most)


def edited(before: str, after: str) -> Markup:
    """The caption as it came, with what was taken out and put in marked word by word."""
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
    return f"{line} {share(again, survey.captions.counts.total())} of them stand at more than one picture."


# ── contact sheets ──


def cards(holding: Holding) -> list[Json]:
    """For every reason that has them: pictures, or else the rows as text."""
    found = []
    for reason, count in holding.reasons.most_common():
        shown, rows = holding.rejected.get(reason, []), holding.survey.examples.get(reason, [])
        if shown or rows:
            entry = {"reason": reason, "kind": stage_of(reason), "count": number(count), "meaning": meaning(reason)}
            found.append({**entry, "pictures": shown, "rows": [] if shown else rows})
    return found
