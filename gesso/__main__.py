"""`python -m gesso`, which is the `gesso` command; `torchrun … -m gesso train dvae` starts it in every process."""

from gesso.cli import run

run()
