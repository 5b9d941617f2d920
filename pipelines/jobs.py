"""What all Beam jobs share: checking Beam's flags, running a pipeline to its end, printing the funnel."""

from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from gesso.errors import UserError

if TYPE_CHECKING:
    import apache_beam as beam


def check_beam_flags(command: str, flags: list[str]) -> None:
    """Raises UserError for a flag that neither gesso nor Beam has; Beam itself only warns and ignores it."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(flags)
    if unknown:
        raise UserError(
            f"unknown flag {unknown[0]}: `gesso {command} --help` lists gesso's; Beam has none of that name"
        )


def run(
    build: "Callable[[beam.Pipeline], None]", beam_flags: list[str], watching: AbstractContextManager[None]
) -> None:
    """Builds and runs a pipeline to its end, inside the context manager `watching`, which shows the progress."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    options = PipelineOptions(beam_flags)
    local = options.view_as(StandardOptions).runner in (None, "DirectRunner", "FnApiRunner")
    with watching:
        pipeline = beam.Pipeline(runner=FnApiRunner() if local else None, options=options)
        build(pipeline)
        pipeline.run().wait_until_finish()


def print_funnel(funnel: Mapping[str, int]) -> None:
    """Prints each entry of a funnel with its share of the first, which is the number of records read."""
    read, width = next(iter(funnel.values())), max(map(len, funnel))
    for name, count in funnel.items():
        print(f"{name:{width}}  {count:>12,}  {100 * count / max(1, read):5.1f}%")
