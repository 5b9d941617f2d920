"""The `gesso` command: finds a subcommand's module by its name, runs it, turns errors into one line and a code.

0  done          2  a mistake that the user can mend, or a fault of this machine such as a full disk
1  a bug         130  interrupted
"""

import errno
import gc
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from tempfile import gettempdir
from typing import NamedTuple

from gesso.errors import UserError
from gesso.flags import Parser, suggestion
from gesso.machine import ADVICE


class Command(NamedTuple):
    """A subcommand: its module, which has `build_parser()` and `main(argv)`, and what it does in a line."""

    module: str
    text: str
    extra: str = ""  # of the distribution, with what it needs


# In the order of the work.
COMMANDS = {
    "collect": Command("gesso.pipelines.collect.job", "tables of links → filtered webdataset shards", "collect"),
    "index": Command("gesso.pipelines.index.job", "tars of others → a collection, uncopied", "collect"),
    "status": Command("gesso.pipelines.status", "how far a job is, from its output directory"),
    "verify": Command("gesso.pipelines.verify", "check every file of a dataset against its manifest"),
    "report": Command("gesso.pipelines.report", "what a dataset holds, or how a training goes, as a page", "collect"),
    "train detector": Command("gesso.dedup.train", "pictures → a near-duplicate detector", "dedup"),
    "embed": Command("gesso.pipelines.embed.job", "shards or pictures → contrastive embeddings", "dedup"),
    "match": Command(
        "gesso.pipelines.match.job", "for every reference picture its nearest training pictures, exactly", "dedup"
    ),
    "review": Command("gesso.dedup.review", "the page on which a person chooses the threshold", "dedup"),
    "repeats": Command("gesso.pipelines.match.repeats", "repeats within a dataset, as drop lists", "dedup"),
    "export": Command(
        "gesso.pipelines.export.job", "shards less drop lists → clean, shuffled shards and a validation set", "dedup"
    ),
    "train tokenizer": Command("gesso.training.tokenizer.train", "captions → a byte-level BPE tokenizer", "train"),
    "train dvae": Command("gesso.training.dvae.train", "clean shards → a discrete VAE", "train"),
    "train prior": Command("gesso.training.prior.train", "captions and grids of codes → a prior over both", "train"),
    "train contrastive": Command(
        "gesso.training.contrastive.train", "captions and pictures → a contrastive model that ranks pictures", "train"
    ),
    "encode": Command("gesso.pipelines.encode.job", "clean shards → captions and grids of codes", "train,collect"),
    "plan": Command("gesso.training.prior.plan", "memory, communication and time of training a prior", "train"),
    "generate": Command("gesso.generation.generate", "captions → pictures, the best of many", "train"),
    "bundle": Command("gesso.generation.bundle", "a prior, its dVAE, a ranker → one folder to generate with", "train"),
    "evaluate": Command("gesso.evaluation.evaluate", "generated pictures against real ones: FID and others", "train"),
    "studio": Command("gesso.studio", "a page: captions → pictures as they are drawn, and folders of them", "train"),
}
SHELLS = ("bash", "zsh")
USAGE = """\
usage: gesso [--version] [--debug] COMMAND …

Collect, deduplicate and train on pictures with captions.

commands, in the order of the work:
{commands}

`gesso COMMAND --help` lists a command's flags; `gesso completion bash` prints a script that completes them.
--debug shows the log and the traceback of an error."""
LOG = os.path.join(gettempdir(), "gesso.{pid}.log")
# What Beam adds to an exception of this process, and its text of a worker's: the last line of a traceback.
BEHIND = re.compile(r" \[while running '[^']*'\](?s:.*)$")
FROM_WORKER = re.compile(r"gesso\.errors\.UserError: (.*?)(?: \[while running|\n|$)")
OSERROR_FROM_WORKER = re.compile(r"^(?:RuntimeError: )?(?:\w+Error): \[Errno (\d+)\] (.*?)(?: \[while running|$)", re.M)
# What the machine refuses, and what the user can do about it.
WAYS_OUT = {
    **ADVICE,
    errno.EPERM: ADVICE[errno.EACCES],
    errno.ENOTDIR: "a part of that path is a file: give a directory",
    errno.EISDIR: "that is a directory: give a file",
    errno.EEXIST: "a file of that name is there: give another directory",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EADDRINUSE: "give another --port",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `gesso COMMAND …` and returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    given = [arg for arg in given if arg != "--debug"]
    try:
        code = run_command(given, debug)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        place = "from its last checkpoint" if given[:1] == ["train"] else "where it stopped"
        complain(f"interrupted; the same command goes on {place}")
        sys.stdout.flush()
        os._exit(130)  # threads that wait for the network are not worth waiting for, and every file is whole
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, `head` say, has seen enough
        return 0


def run_command(given: list[str], debug: bool) -> int:
    """Finds and runs a command; errors but for interrupts become a line and a code."""
    log = start_log(debug)
    name = ""
    try:
        name, rest = find_command(given)
        return int(import_module(COMMANDS[name].module).main(rest)) if name else show(rest)
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "gesso":
            raise
        return complain(needs(name, str(error.name)))
    except Exception as error:
        if debug:
            traceback.print_exc()
        message = explain(error)
        if message:
            return complain(message)
        logging.getLogger("gesso").error("", exc_info=error)
        first = str(error).strip().split("\n")[0]
        complain(f"a bug: {type(error).__name__}: {first}: see {log}, or run it with --debug")
        return 1


def find_command(given: list[str]) -> tuple[str, list[str]]:
    """The command's name and its arguments; an empty name for what `show` prints. Raises UserError."""
    words = 2 if " ".join(given[:2]) in COMMANDS else 1
    name = " ".join(given[:words])
    if name in COMMANDS:
        return name, given[words:]
    if not given or name in ("-h", "--help", "help", "--version", "completion"):
        return "", given
    group = [command for command in COMMANDS if command.startswith(f"{name} ")]
    if group and (len(given) == 1 or given[1].startswith("-")):
        return "", ["group", name]
    unknown = " ".join(given[:2]) if group else name
    raise UserError(f"unknown command {unknown!r}{suggestion(unknown, COMMANDS)}: `gesso --help` lists them")


def show(given: list[str]) -> int:
    """`gesso`, `gesso help [COMMAND]`, `gesso train`, `gesso --version`, `gesso completion SHELL`."""
    match given:
        case ["--version", *_]:
            print(f"gesso {version('gesso')}")
        case ["completion", *rest]:
            print(completion(rest))
        case ["group", group]:
            print(f"usage: gesso {group} WHAT …\n\n{listing(group)}")
        case ["help", *words] if " ".join(words) in COMMANDS:
            import_module(COMMANDS[" ".join(words)].module).build_parser().print_help()
        case ["help", word, *_]:
            return show(find_command([word])[1])
        case _:
            print(USAGE.format(commands=listing()))
    return 0 if given else 2


def listing(group: str = "") -> str:
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(f"  {name:{width}}{command.text}" for name, command in COMMANDS.items() if name.startswith(group))


def completion(given: list[str]) -> str:
    """A script that has a shell complete commands and flags, for `eval` or its folder of completions."""
    shell = given[0] if given else ""
    if shell not in SHELLS:
        raise UserError(f"completion of {shell!r}: give one of {', '.join(SHELLS)}, as in `gesso completion bash`")
    import shtab

    parser = Parser("gesso")
    commands = parser.add_subparsers()
    trains = commands.add_parser("train", help="train a model").add_subparsers()
    for name, command in COMMANDS.items():
        made = import_module(command.module).build_parser()
        to, word = (trains, name.removeprefix("train ")) if name.startswith("train ") else (commands, name)
        to.add_parser(word, help=command.text, parents=[made], add_help=False, conflict_handler="resolve")
    return str(shtab.complete(parser, shell))


def needs(command: str, module: str) -> str:
    """What to install where a library is missing."""
    extra = COMMANDS[command].extra if command in COMMANDS else ""
    way = f"pip install '.[{extra}]' in gesso's checkout" if extra else f"pip install {module}"
    return f"gesso {command} needs {module}, which is not installed: {way}"


def explain(error: BaseException) -> str | None:
    """The message for an error that is no bug: a user's mistake, or what the machine refuses. None for a bug."""
    text = str(error)
    if isinstance(error, UserError):
        return BEHIND.sub("", FROM_WORKER.sub(r"\1", text))
    if found := FROM_WORKER.search(text):
        return found[1]
    if isinstance(error, MemoryError):
        return "this machine has no memory left: free some, or lower the flags that say how much is done at once"
    if isinstance(error, OSError) and error.errno in WAYS_OUT:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}: {WAYS_OUT[error.errno]}"
    found = OSERROR_FROM_WORKER.search(text)
    return f"{found[2]}: {WAYS_OUT[int(found[1])]}" if found and int(found[1]) in WAYS_OUT else None


def start_log(debug: bool) -> str:
    """Has libraries log to a file, which is made by its first line, or to stderr with --debug; returns its path."""
    path = LOG.format(pid=os.getpid())
    handler = logging.StreamHandler() if debug else logging.FileHandler(path, delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().handlers = [handler]
    return path


def complain(message: str) -> int:
    line = " ".join(message.split("\n"))
    print(f"gesso: {line}", file=sys.stderr)
    return 2


def run() -> None:
    """The console command: `main`, and an end that does not search half a million objects for garbage (0.4 s).

    Not with torch: its parts complain of every object that is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without `→` must not fail a finished run
    code = main()
    if "torch" not in sys.modules:
        gc.freeze()
    sys.exit(code)
