"""The `gesso` command: finds the module of a subcommand, runs it, and turns a user's mistake into one line."""

import gc
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from gesso.errors import UserError

# In the order of the work.
COMMANDS = {
    "collect": ("gesso.pipelines.collect.job", "tables of links → filtered webdataset shards"),
    "status": ("gesso.pipelines.status", "how far a collection is"),
    "verify": ("gesso.pipelines.verify", "check every file of a dataset against its manifest"),
    "report": ("gesso.pipelines.report", "what a dataset holds, or how a training goes, as a page"),
    "train detector": ("gesso.dedup.train", "pictures → a near-duplicate detector"),
    "embed": ("gesso.pipelines.embed.job", "shards or pictures → contrastive embeddings"),
    "match": ("gesso.pipelines.match.job", "for every reference picture its nearest training pictures, exactly"),
    "review": ("gesso.dedup.review", "the page on which a person chooses the threshold"),
    "repeats": ("gesso.pipelines.match.repeats", "repeats within a dataset, as drop lists"),
    "export": ("gesso.pipelines.export.job", "shards less drop lists → clean, shuffled shards and a validation set"),
    "train tokenizer": ("gesso.training.tokenizer.train", "captions → a byte-level BPE tokenizer"),
    "train dvae": ("gesso.training.dvae.train", "clean shards → a discrete VAE"),
    "encode": ("gesso.pipelines.encode.job", "clean shards → captions and grids of codes"),
}
USAGE = """\
usage: gesso COMMAND …

The ground under text-to-image models.

commands, in the order of the work:
{commands}

`gesso COMMAND --help` lists a command's flags."""
# What Beam adds to an exception of this process.
BEHIND = re.compile(r" \[while running '[^']*'\]$")
# A worker's exception reaches the launcher as the text of its traceback.
FROM_WORKER = re.compile(r"gesso\.errors\.UserError: (.*?)(?: \[while running|\n|$)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `gesso COMMAND …`; 2 for a user's mistake, 130 where the user interrupts."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0 if given else 2
    words = 2 if " ".join(given[:2]) in COMMANDS else 1
    name = " ".join(given[:words])
    if name not in COMMANDS:
        return complain(f"unknown command {name!r}: `gesso --help` lists them")
    try:
        return int(import_module(COMMANDS[name][0]).main(given[words:]))
    except UserError as error:
        return complain(BEHIND.sub("", FROM_WORKER.sub(r"\1", str(error))))
    except RuntimeError as error:
        found = FROM_WORKER.search(str(error))
        if not found:
            raise
        return complain(found[1])
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on where it stopped")
        sys.stdout.flush()
        os._exit(130)  # threads that wait for the network are not worth waiting for, and every file is whole


def usage() -> str:
    lines = "\n".join(f"  {name:16}{text}" for name, (_, text) in COMMANDS.items())
    return USAGE.format(commands=lines)


def complain(message: str) -> int:
    print(f"gesso: {message}", file=sys.stderr)
    return 2


def run() -> None:
    """The console command: `main`, and an end that does not search half a million objects for garbage (0.4 s).

    Not with torch: its parts complain of every object that is left.
    """
    code = main()
    if "torch" not in sys.modules:
        gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    run()
