"""What all Beam jobs share: checking Beam's flags, running a pipeline to its end, printing the funnel."""

import os
import shlex
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from gesso import storage
from gesso.errors import UserError
from gesso.flags import Parser, suggestion
from gesso.progress import announce

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions


def parse(parser: Parser, argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """The command's flags, and the others, which are Beam's.

    Raises UserError for a flag that neither gesso nor Beam knows; Beam would drop it with a warning.
    """
    given, others = parser.parse_known_args(argv)
    check_beam_flags(parser, others)
    return given, others


def check_beam_flags(parser: Parser, flags: list[str]) -> None:
    """Raises UserError for the first flag that is not Beam's."""
    if not flags:
        return
    from apache_beam.options.pipeline_options import PipelineOptions

    beam_parser = ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beam_parser)
    _, unknown = beam_parser.parse_known_args(flags)
    if unknown:
        near = suggestion(unknown[0], [*parser.known_flags(), *beam_parser._option_string_actions])
        raise UserError(
            f"unknown flag {unknown[0]}{near}: `{parser.prog} --help` lists the flags; Beam has none of that name"
        )


def run(
    build: "Callable[[beam.Pipeline], None]", beam_flags: list[str], watching: AbstractContextManager[None]
) -> None:
    """Builds and runs a pipeline to its end inside `watching`, which shows the progress."""
    announce("loading Beam")
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    options = PipelineOptions(beam_flags)
    local = options.view_as(StandardOptions).runner in (None, "DirectRunner", "FnApiRunner")
    with watching:
        runner = FnApiRunner(worker_environment(options)) if local else None
        pipeline = beam.Pipeline(runner=runner, options=options)
        build(pipeline)
        run_interruptible(lambda: pipeline.run().wait_until_finish())


def worker_environment(options: "PipelineOptions") -> Any:
    """Where the local runner's workers live: None for this process, or processes that Ctrl-C does not reach.

    A terminal sends SIGINT to every process of the job, and each of Beam's own workers would print a traceback.
    """
    from apache_beam.options.pipeline_options import DirectOptions
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return None
    direct.direct_running_mode = None  # else the runner starts processes of its own
    worker = f"trap '' INT; exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    return SubprocessSDKEnvironment.from_command_string(worker)


def run_interruptible(work: Callable[[], object]) -> None:
    """Runs `work` in a thread; Ctrl-C ends the worker processes and is raised here at once, as KeyboardInterrupt."""
    done = Future[object]()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised by result()
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        done.result()
    except KeyboardInterrupt:
        threading.excepthook = lambda _: None  # Beam's threads would complain of the workers that are gone
        kill_children()
        raise


def kill_children() -> None:
    """Ends the processes that this one has started."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        child.kill()
    psutil.wait_procs(children)


def real_path(path: str) -> PurePath:
    """The path from the root, links followed."""
    return PurePath(os.path.realpath(storage.local(path)) if storage.is_local(path) else storage.absolute(path))


def print_funnel(funnel: Mapping[str, int]) -> None:
    """Prints each entry of a funnel with its share of the first, which is the number of records read."""
    read, width = next(iter(funnel.values())), max(map(len, funnel))
    for name, count in funnel.items():
        print(f"{name:{width}}  {count:>12,}  {100 * count / max(1, read):5.1f}%")
