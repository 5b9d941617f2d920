"""`gesso report` on a training run: curves, pictures and more as one self-contained page. No torch."""

from gesso import storage
from gesso.training.report import page
from gesso.training.report.run import is_run, read_run

__all__ = ["is_run", "report"]

GRIDS = 12  # evaluations whose grids the page shows, at most


def report(directory: str, output: str | None) -> str:
    """Writes the page of a run, finished or not, under `output` or DIR/report.html, and returns where.

    Raises UserError where a file of the run is damaged.
    """
    target = output or storage.join(directory, "report.html")
    text = page.render(read_run(directory, GRIDS))
    with storage.write_whole(target) as stream:
        stream.write(text.encode("utf-8", "replace"))
    return target
