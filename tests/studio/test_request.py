"""What the page asks, checked before anything is drawn."""

from math import inf
from typing import Any

import pytest

from gesso.errors import UserError
from gesso.generation.settings import Sampling
from gesso.studio.request import RANDOM_SEEDS, DrawRequest, Start, read_request

GRID = 8
ASKED = {"caption": " a red apple ", "n": 3, "temperature": 1, "top_k": 0, "top_p": 0.9, "seed": 17, "start": None}


def test_a_request() -> None:
    request = read_request(ASKED, GRID)
    assert request == DrawRequest("a red apple", 3, Sampling(1.0, 0, 0.9, 17))
    assert list(request.seeds) == [17, 18, 19]


def test_a_random_seed() -> None:
    seeds = {read_request({**ASKED, "seed": None}, GRID).sampling.seed for _ in range(20)}
    assert len(seeds) > 1
    assert max(seeds) < RANDOM_SEEDS


def test_a_start() -> None:
    asked = {**ASKED, "start": {"rows": 7, "run": "ab", "index": 2}}
    assert read_request(asked, GRID).start == Start(7, "ab", 2)
    asked = {**ASKED, "start": {"rows": 1, "picture": "aGk="}}
    assert read_request(asked, GRID).start == Start(1, picture="aGk=")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": "  "}, "the caption is empty: write what the picture shows"),
        ({"caption": None}, "caption is None: give a text"),
        ({"caption": "a" * 1001}, "the caption has 1,001 characters: give 1,000 at most"),
        ({"caption": "a\x00b"}, r"the caption is no text: it has '\x00' after 'a'"),
        ({"n": 0}, "n is 0: give an integer from 1 to 64"),
        ({"n": 65}, "n is 65: give an integer from 1 to 64"),
        ({"n": 2.0}, "n is 2.0: give an integer from 1 to 64"),
        ({"n": True}, "n is True: give an integer from 1 to 64"),
        ({"n": "many"}, "n is 'many': give an integer from 1 to 64"),
        ({"temperature": 0}, "temperature is 0.0: give more than 0"),
        ({"temperature": inf}, "temperature is inf: give more than 0"),
        ({"temperature": 10**400}, f"temperature is {10**400}: give a number"),
        ({"temperature": ""}, "temperature is '': give a number"),
        ({"top_p": 1.5}, "top_p is 1.5: give more than 0, and 1 at most"),
        ({"top_p": True}, "top_p is True: give a number"),
        ({"top_k": -1}, f"top_k is -1: give an integer from 0 to {1 << 53}"),
        ({"seed": -1}, f"seed is -1: give an integer from 0 to {(1 << 53) - 3}"),
        ({"seed": 1 << 53}, f"seed is {1 << 53}: give an integer from 0 to {(1 << 53) - 3}"),
        ({"seed": "x"}, f"seed is 'x': give an integer from 0 to {(1 << 53) - 3}"),
        ({"start": 3}, "start is no picture with rows: give run, index and rows, or picture and rows"),
        ({"start": {"rows": 3}}, "start is no picture with rows: give run, index and rows, or picture and rows"),
        ({"start": {"rows": 8, "picture": ""}}, "rows is 8: give an integer from 1 to 7"),
        ({"start": {"rows": 0, "picture": ""}}, "rows is 0: give an integer from 1 to 7"),
        ({"start": {"rows": 1, "picture": 3}}, "picture is 3: give a text"),
        ({"start": {"rows": 1, "run": "a", "index": -1}}, "index is -1: give an integer from 0 to 63"),
        ({"start": {"rows": 1, "index": 0}}, "run is None: give a text"),
        ({"steps": 5}, "steps is not known: give caption, n, seed, start, temperature, top_k, top_p"),
    ],
)
def test_what_cannot_be_drawn(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_request({**ASKED, **change}, GRID)
    assert str(caught.value) == message


def test_every_value_is_wanted() -> None:
    for name in ("caption", "n", "temperature", "top_k", "top_p"):
        with pytest.raises(UserError, match=f"{name} is None: give "):
            read_request({key: value for key, value in ASKED.items() if key != name}, GRID)
