"""`gesso report`: a dataset's content, or a training's progress, as one self-contained page. No torch.

No Beam for local paths.
"""

import sys
from collections.abc import Sequence

from gesso import storage
from gesso.dataset import export, layout, manifest
from gesso.dataset.records import ROWS_READ, SUCCESS
from gesso.errors import UserError
from gesso.flags import Parser, at_least, path
from gesso.pipelines.report import page, samples
from gesso.pipelines.report.survey import Survey, batches

PICTURES = 60


def main(argv: Sequence[str]) -> int:
    """`gesso report DIR`."""
    given = build_parser().parse_args(argv)
    at_least(0, pictures=given.pictures)
    print(write(given.directory, given.output, given.pictures))
    return 0


def write(directory: str, output: str | None, pictures: int) -> str:
    """Writes the page and returns its path; a training's page is made by gesso.training.report."""
    from gesso.training import report as training_report

    if training_report.is_run(directory):
        return training_report.report(directory, output)
    target = output or storage.join(directory, "report.html")
    text = page.render(summarize(directory, pictures))
    with storage.write_whole(target) as stream:
        stream.write(text.encode("utf-8", "replace"))
    return target


def build_parser() -> Parser:
    parser = Parser(
        "gesso report", "Writes a self-contained HTML page about a dataset's content or a training's progress."
    )
    parser.add_argument(
        "directory", type=path, help="the --output of `gesso collect` or `gesso train`, or img2dataset's folder"
    )
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="file to write the page to; DIR/report.html if not given"
    )
    parser.add_argument("--pictures", type=int, default=PICTURES, metavar="INT", help="number of kept pictures to show")
    return parser


def summarize(output: str, pictures: int) -> page.DatasetSummary:
    """The content of the page. Raises UserError where the directory holds no dataset."""
    plan, markers = manifest.read_plan(output), manifest.committed(output)
    if plan and plan.get("kind") == export.KIND:
        raise UserError(
            f"{output} is an export, which its {layout.CARD} describes: give the shards that it was made of"
        )
    sizes = manifest.sizes(output)
    with_rows = [index for index in markers if layout.rows_name(index) in sizes]
    if plan is None and not with_rows:
        raise UserError(
            f"{output} holds no dataset: give the --output of a `gesso collect` that has at least written its plan"
        )
    finished = storage.exists(storage.join(output, layout.MANIFEST))
    survey = survey_rows(output, with_rows, plan is None)
    return page.DatasetSummary(
        name=directory_name(output),
        by_img2dataset=plan is None,
        finished=finished,
        plan=plan or {},
        markers=markers,
        versions=storage.read_json(storage.join(output, layout.MANIFEST))["versions"] if finished else {},
        bytes=sum(sizes.get(layout.tar_name(index), 0) for index in markers),
        funnel=manifest.funnel(plan, markers.values()) if plan else funnel_of_rows(survey),
        survey=survey,
        kept=samples.kept_pictures(output, list(markers), pictures),
        rejected=samples.rejected_pictures(output, list(markers)),
    )


def directory_name(output: str) -> str:
    """The directory's own name, also for `.`."""
    return storage.absolute(output).split("/")[-1]


def funnel_of_rows(survey: Survey) -> manifest.Json:
    """The funnel of img2dataset's rows; its markers count only the most frequent messages."""
    return {ROWS_READ: survey.rows, SUCCESS: 0, **survey.outcomes}


def survey_rows(output: str, indexes: Sequence[int], by_img2dataset: bool) -> Survey:
    """The survey of all rows of the given shards, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    survey, console = Survey(by_img2dataset), Console(stderr=True)
    for index in track(indexes, "reading rows", console=console, transient=True, disable=not sys.stderr.isatty()):
        for batch in batches(storage.join(output, layout.rows_name(index))):
            survey.add(batch)
    return survey
