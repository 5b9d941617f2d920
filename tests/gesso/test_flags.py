"""Flags: how they are spelled, made of settings, refused."""

from dataclasses import dataclass

import pytest

from gesso.errors import UserError
from gesso.flags import Parser, add_flags, at_least, differences, flag, one_of, read_flags


@dataclass(frozen=True)
class Settings:
    """As a job has them."""

    shard_size: int = flag(10, "samples in a shard")
    english: bool = flag(True, "reject what is not English")
    cores: int = flag(lambda: 4, "threads")
    kept: str = "no flag"

    def __post_init__(self) -> None:
        at_least(1, shard_size=self.shard_size)


def parser() -> Parser:
    made = Parser("gesso test", "A test.")
    made.add_argument("--no-serve", action="store_true", help="end")
    add_flags(made, "settings", Settings)
    return made


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], Settings(10, True, 4)),
        (["--shard_size", "3"], Settings(3, True, 4)),
        (["--shard-size", "3"], Settings(3, True, 4)),
        (["--shard-size=3", "--no_english"], Settings(3, False, 4)),
        (["--no-english", "--cores", "1"], Settings(10, False, 1)),
    ],
)
def test_hyphens_and_underscores_are_alike(argv: list[str], expected: Settings) -> None:
    assert read_flags(parser().parse_args(argv), Settings) == expected


def test_a_flag_defined_with_a_hyphen() -> None:
    assert [parser().parse_args([arg]).no_serve for arg in ("--no-serve", "--no_serve")] == [True, True]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cors", "3"], "unknown --cors (did you mean --cores?): `gesso test --help` lists the flags"),
        (["--shard", "3"], "unknown --shard: `gesso test --help` lists the flags"),
        (["--xyz"], "unknown --xyz: `gesso test --help` lists the flags"),
        (["stray"], "unknown stray: `gesso test --help` lists the flags"),
        (["--shard_size"], "argument --shard_size: expected one argument: `gesso test --help` lists the flags"),
        (["--cores", "x"], "argument --cores: invalid int value: 'x': `gesso test --help` lists the flags"),
    ],
)
def test_a_mistake_is_one_line_and_no_flag_is_abbreviated(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parser().parse_args(argv)
    assert str(refused.value) == message


def test_values_out_of_range() -> None:
    with pytest.raises(UserError, match=r"^--shard_size is 0: give 1 or more$"):
        read_flags(parser().parse_args(["--shard_size", "0"]), Settings)
    with pytest.raises(UserError, match=r"^--device is 'gpu': give one of cpu, cuda$"):
        one_of(("cpu", "cuda"), device="gpu")


def test_differences() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b was 2, is 3", "c was None, is 4"]


def test_differences_within_a_setting() -> None:
    old = {"model": {"name": "a", "sha256": "ab" * 32, "side": 32}}
    new = {"model": {"name": "a", "sha256": "cd" * 32, "side": 64}}
    told = ["model sha256 was 'abababababab…', is 'cdcdcdcdcdcd…'", "model side was 32, is 64"]
    assert differences(old, new) == told


def test_a_path_beside_the_same_checksum_may_differ() -> None:
    old = {"data": {"path": "/old/clean", "manifest_sha256": "ab" * 32}}
    moved = {"data": {"path": "clean", "manifest_sha256": "ab" * 32}}
    other = {"data": {"path": "clean", "manifest_sha256": "cd" * 32}}
    assert differences(old, moved) == []
    assert differences(old, other) == [
        "data path was '/old/clean', is 'clean'",
        "data manifest_sha256 was 'abababababab…', is 'cdcdcdcdcdcd…'",
    ]
