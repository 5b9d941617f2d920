"""`gesso report`: what a dataset holds, or how a training goes, as one page that needs nothing else. No torch.

No Beam for local paths.
"""

import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence

from gesso import storage
from gesso.dataset import export, layout, manifest
from gesso.dataset.records import ROWS_READ, SUCCESS
from gesso.errors import UserError
from gesso.flags import at_least, path
from gesso.pipelines.report import page, samples
from gesso.pipelines.report.survey import Survey, batches

PICTURES = 60


def main(argv: Sequence[str]) -> int:
    """`gesso report DIR`."""
    parser = ArgumentParser(
        "gesso report",
        description="What a dataset holds, or how a training goes, as a page.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser)
    given = parser.parse_args(argv)
    at_least(0, pictures=given.pictures)
    print(write(given.directory, given.output, given.pictures))
    return 0


def write(directory: str, output: str | None, pictures: int) -> str:
    """Writes the page and returns where it is; that of a training is made by `gesso.training.report`."""
    from gesso.training import report as of_training

    if of_training.is_run(directory):
        return of_training.report(directory, output)
    target = output or storage.join(directory, "report.html")
    text = page.render(examine(directory, pictures))
    with storage.write_whole(target) as stream:
        stream.write(text.encode("utf-8", "replace"))
    return target


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("directory", type=path, help="--output of `gesso collect` or `gesso train`, or img2dataset's")
    parser.add_argument("--output", type=path, metavar="FILE", help="where the page goes, or DIR/report.html")
    parser.add_argument("--pictures", type=int, default=PICTURES, metavar="INT", help="kept pictures that are shown")


def examine(output: str, pictures: int) -> page.Holding:
    """All that the page tells. Raises UserError where the directory holds no dataset."""
    plan, markers = manifest.read_plan(output), manifest.committed(output)
    if plan and plan.get("kind") == export.KIND:
        raise UserError(f"{output} is an export: its {layout.CARD} tells what it holds; report on the shards before it")
    sizes = manifest.sizes(output)
    with_rows = [index for index in markers if layout.rows_name(index) in sizes]
    if plan is None and not with_rows:
        raise UserError(f"{output} holds no dataset: give the --output of a `gesso collect` that is planned")
    finished = storage.exists(storage.join(output, layout.MANIFEST))
    survey = look_through(output, with_rows, plan is None)
    return page.Holding(
        name=name_of(output),
        foreign=plan is None,
        finished=finished,
        plan=plan or {},
        markers=markers,
        versions=storage.read_json(storage.join(output, layout.MANIFEST))["versions"] if finished else {},
        bytes=sum(sizes.get(layout.tar_name(index), 0) for index in markers),
        funnel=manifest.funnel(plan, markers.values()) if plan else foreign_funnel(survey),
        survey=survey,
        kept=samples.kept_pictures(output, list(markers), pictures),
        rejected=samples.rejected_pictures(output, list(markers)),
    )


def name_of(output: str) -> str:
    """The directory's own name, also where it was given as `.`."""
    return storage.absolute(output).split("/")[-1]


def foreign_funnel(survey: Survey) -> manifest.Json:
    """Where each row ended, by the rows themselves: img2dataset's markers count messages, and only the frequent."""
    return {ROWS_READ: survey.rows, SUCCESS: 0, **survey.causes}


def look_through(output: str, indexes: Sequence[int], foreign: bool) -> Survey:
    """Every row of the given shards, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    survey, console = Survey(foreign), Console(stderr=True)
    for index in track(indexes, "reading rows", console=console, transient=True, disable=not sys.stderr.isatty()):
        for batch in batches(storage.join(output, layout.rows_name(index))):
            survey.add(batch)
    return survey
