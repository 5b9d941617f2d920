"""A network that is down, told from hosts that are dead."""

import random

import pytest

from gesso.errors import UserError
from gesso.pipelines.collect.outage import LEAST_HOSTS, WINDOW, OutageDetector


def run(ends: list[tuple[str, bool | None]]) -> int:
    """How many of the links, which end one after the other, are taken before the run is ended."""
    detector = OutageDetector()
    for number, (host, reached) in enumerate(ends):
        try:
            detector.end(detector.start(f"http://{host}/{number}.jpg"), reached)
        except UserError:
            return number + 1
    return len(ends) + 1


def hosts(count: int, reached: bool | None = False, first: int = 0) -> list[tuple[str, bool | None]]:
    return [(f"h{number}.example", reached) for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("ends", "stopped_at"),
    [
        (hosts(29), 30),
        (hosts(30), 30),
        (hosts(29) * 20, 581),
        ([("h.example", False)] * 1_000, 1_001),
        (hosts(1, reached=True) + hosts(98, first=1), 100),
        (hosts(1, reached=True) + hosts(150, first=1), 100),
        (hosts(WINDOW, reached=True) + hosts(1_000, first=WINDOW), WINDOW + 297),
        ((hosts(10) + hosts(1, reached=True)) * 100, 1_101),
        (hosts(100, reached=None) + hosts(29), 130),
    ],
    ids=[
        "few hosts",
        "many hosts",
        "few hosts, many links",
        "one host",
        "one was reached",
        "one of a hundred was reached",
        "after all were reached",
        "one of eleven is reached",
        "links that were not sent",
    ],
)
def test_when_a_run_is_ended(ends: list[tuple[str, bool | None]], stopped_at: int) -> None:
    assert run(ends) == stopped_at


def test_hosts_are_told_apart_by_their_names() -> None:
    same = [("H.example", False), ("h.EXAMPLE", False)] * 50
    assert run(same) == 101


@pytest.mark.parametrize("seed", range(20))
def test_half_of_all_hosts_may_be_dead(seed: int) -> None:
    chance = random.Random(seed)
    assert run([(f"h{number}.example", chance.random() < 0.5) for number in range(3_000)]) == 3_001


def test_dead_hosts_that_fail_first_do_not_count_before_the_slower_ones() -> None:
    detector = OutageDetector()
    slow = [detector.start(f"http://alive{number}.example/") for number in range(10)]
    for number in range(200):
        detector.end(detector.start(f"http://dead{number}.example/"), False)
    for request in slow[1:]:
        detector.end(request, True)
    detector.end(slow[0], True)


def test_what_it_says_and_that_it_starts_anew() -> None:
    detector = OutageDetector()
    requests = [detector.start(f"http://h{number}.example/") for number in range(2 * LEAST_HOSTS - 1)]
    for request in requests[: LEAST_HOSTS - 1]:
        detector.end(request, False)
    with pytest.raises(UserError, match=r"^no network: 30 of the last 30 links, of 30 different hosts, could not"):
        detector.end(requests[LEAST_HOSTS - 1], False)
    for request in requests[LEAST_HOSTS:]:
        detector.end(request, False)
