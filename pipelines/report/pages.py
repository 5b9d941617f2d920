"""A directory → the text of its page, by its kind: collections, exports, tokens. No Beam for local paths, no torch."""

import sys
from collections.abc import Sequence

from gesso import storage
from gesso.dataset import index, layout, manifest
from gesso.dataset.records import ROWS_READ, SUCCESS
from gesso.errors import UserError
from gesso.pipelines.report import export_page, page, samples, tokens_page
from gesso.pipelines.report.survey import Survey, batches


def collection(output: str, pictures: int) -> str:
    return page.render(summarize(output, pictures))


def export(output: str, pictures: int) -> str:
    if manifest.read_plan(output) is None:
        raise UserError(f"{output} has no {layout.PLAN}: `gesso verify {output}` shows what is damaged")
    splits = export_page.committed(output)
    survey = survey_rows(export_page.row_files(output, splits), False)
    return export_page.render(directory_name(output), output, survey, splits, pictures)


def tokens(output: str, pictures: int) -> str:
    """Tokens have no pictures: their codes are counted."""
    described = tokens_page.read_manifest(output)
    entries = tokens_page.chosen_shards(described)
    survey = survey_rows([tokens_page.row_file(output, entry) for entry in entries], False)
    usage = tokens_page.survey_codes(output, described, entries)
    return tokens_page.render(directory_name(output), described, survey, usage, len(entries))


def summarize(output: str, pictures: int) -> page.DatasetSummary:
    """The content of the page. Raises UserError where the directory holds no dataset."""
    plan, markers = manifest.read_plan(output), manifest.committed(output)
    sizes = manifest.sizes(output)
    with_rows = [number for number in markers if layout.rows_name(number) in sizes]
    if plan is None and not with_rows:
        raise UserError(
            f"{output} holds no dataset: give the --output of a `gesso collect` that has at least written its plan"
        )
    finished = storage.exists(storage.join(output, layout.MANIFEST))
    indexed = (plan or {}).get("kind") == index.KIND
    survey = survey_rows([storage.join(output, layout.rows_name(number)) for number in with_rows], plan is None)
    return page.DatasetSummary(
        name=directory_name(output),
        by_img2dataset=plan is None,
        finished=finished,
        plan=plan or {},
        markers=markers,
        versions=versions_of(output) if finished else {},
        bytes=sum(tar_bytes(sizes, number, marker) for number, marker in markers.items()),
        funnel=funnel_of(plan, markers, survey),
        survey=survey,
        kept=samples.kept_pictures(output, list(markers), pictures),
        rejected=samples.rejected_pictures(output, list(markers)),
        indexed=indexed,
    )


def tar_bytes(sizes: dict[str, int], number: int, marker: manifest.Json) -> int:
    """Of a shard; a marker of an index tells them."""
    return int(marker.get("tar", {}).get("bytes", 0)) or sizes.get(layout.tar_name(number), 0)


def funnel_of(plan: manifest.Json | None, markers: dict[int, manifest.Json], survey: Survey) -> manifest.Json:
    """The funnel so far; the plan of an index does not know how many samples there are."""
    if plan is None:
        return funnel_of_rows(survey)
    counted = {"rows_read": survey.rows, "counted_only": {}} | plan
    return manifest.funnel(counted, markers.values())


def versions_of(output: str) -> manifest.Json:
    """Those that the manifest states; none where it is damaged."""
    return dict((manifest.read_object(storage.join(output, layout.MANIFEST)) or {}).get("versions", {}))


def directory_name(output: str) -> str:
    """The directory's own name, also for `.`."""
    return storage.absolute(output).split("/")[-1]


def funnel_of_rows(survey: Survey) -> manifest.Json:
    """The funnel of img2dataset's rows; its markers count only the most frequent messages."""
    return {ROWS_READ: survey.rows, SUCCESS: 0, **survey.outcomes}


def survey_rows(paths: Sequence[str], by_img2dataset: bool) -> Survey:
    """The survey of all rows of the given files, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    survey, console = Survey(by_img2dataset), Console(stderr=True)
    for path in track(paths, "reading rows", console=console, transient=True, disable=not sys.stderr.isatty()):
        for batch in batches(path):
            survey.add(batch)
    return survey
