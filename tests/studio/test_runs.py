"""Runs: a queue, previews row by row, scores, stops and faults."""

import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from gesso.errors import UserError
from gesso.generation.settings import Sampling
from gesso.studio import runs
from gesso.studio.request import DrawRequest
from gesso.studio.runs import KEPT, Pace, Prefix, Run, Runs
from tests.studios import GRID, Fake, Gate, codes_of, runs_of


def asked(caption: str = "a red apple", n: int = 2, seed: int = 5) -> DrawRequest:
    return DrawRequest(caption, n, Sampling(seed=seed))


def ended(run: Run) -> Run:
    """Once the run has ended and has said so."""
    assert run.future
    told = threading.Event()
    run.future.add_done_callback(lambda _: told.set())  # runs behind the studio's own
    assert told.wait(20)
    return run


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def held(gate: Gate) -> Iterator[Runs]:
    """Runs whose rows wait at the gate."""
    with closing(runs_of(Fake(gate=gate))) as made:
        yield made
        gate.open()


@pytest.fixture
def free() -> Iterator[Runs]:
    with closing(runs_of(Fake())) as made:
        yield made


class TestDrawing:
    def test_pictures_and_scores(self, free: Runs) -> None:
        run = ended(free.add(asked(n=6), None))
        assert run.state == runs.DONE
        assert [each.seed for each in run.candidates] == [5, 6, 7, 8, 9, 10]
        for each in run.candidates:
            assert each.codes is not None
            assert each.codes.tolist() == codes_of("a red apple", each.seed).tolist()
            assert (np.asarray(each.pixels) == free.generator.decode(each.codes[None])[0]).all()
            assert each.score == round(float(np.asarray(each.pixels).mean()) / 255, 4)

    def test_some_at_a_time(self, free: Runs) -> None:
        ended(free.add(asked(n=6), None))
        assert isinstance(free.generator, Fake)
        assert [seeds for _, seeds, _ in free.generator.drawn] == [[5, 6, 7, 8], [9, 10]]

    def test_without_a_ranker(self) -> None:
        with closing(runs_of(Fake(ranker=""))) as made:
            run = ended(made.add(asked(), None))
        assert [each.score for each in run.candidates] == [None, None]
        assert run.state == runs.DONE

    def test_rows_as_they_come(self, held: Runs, gate: Gate) -> None:
        run = held.add(asked(n=5), None)
        gate.reached()
        assert (run.state, [each.rows for each in run.candidates]) == (runs.DRAWING, [0] * 5)
        for row in range(1, GRID):
            gate.step()
            assert [each.rows for each in run.candidates] == [row, row, row, row, 0]
            assert run.candidates[0].codes is None
            shown = np.asarray(run.candidates[1].pixels)[: row * 8 : 8, ::8]
            whole = held.generator.decode(codes_of("a red apple", 6)[None])[0, : row * 8 : 8, ::8]
            assert (shown == whole).all()
        gate.step()
        assert run.candidates[3].score is not None
        assert [each.rows for each in run.candidates] == [GRID, GRID, GRID, GRID, 0]
        assert (run.state, run.candidates[4].score) == (runs.DRAWING, None)

    def test_from_the_first_rows_of_another(self, held: Runs, gate: Gate) -> None:
        codes = codes_of("another", 1)[: 3 * GRID]
        run = held.add(asked(), Prefix(codes, 3, "seed 1"))
        gate.reached()
        assert [each.rows for each in run.candidates] == [3, 3]
        gate.open()
        ended(run)
        for each in run.candidates:
            expected = [*codes, *codes_of("a red apple", each.seed)[3 * GRID :]]
            assert np.asarray(each.codes).tolist() == expected
        assert run.to_json()["start"] == {"rows": 3, "text": "seed 1"}


class TestQueue:
    def test_one_after_the_other(self, held: Runs, gate: Gate) -> None:
        first, second = held.add(asked(), None), held.add(asked(), None)
        gate.reached()
        assert (first.state, second.state) == (runs.DRAWING, runs.WAITING)
        gate.open()
        ended(second)
        assert (first.state, second.state) == (runs.DONE, runs.DONE)

    def test_a_run_that_is_stopped_keeps_what_is_drawn(self, held: Runs, gate: Gate) -> None:
        run = held.add(asked(n=5), None)
        gate.reached()
        gate.step(GRID + 2)
        held.stop(run)
        gate.open()
        ended(run)
        assert run.state == runs.STOPPED
        assert [each.rows for each in run.candidates] == [GRID, GRID, GRID, GRID, 2]
        assert run.error == ""

    def test_a_run_that_waits_leaves_the_queue(self, held: Runs) -> None:
        first, second, third = (held.add(asked(seed=seed), None) for seed in (1, 2, 3))
        held.stop(second)
        assert held.get(second.id) is None
        assert held.changes(-1)["order"] == [first.id, third.id]

    def test_a_fault_is_told_and_the_next_run_is_drawn(self, free: Runs) -> None:
        broken, whole = ended(free.add(asked("out of memory"), None)), ended(free.add(asked(), None))
        assert (broken.state, broken.error) == (runs.FAILED, "a bug: RuntimeError: the device has no memory left")
        assert whole.state == runs.DONE

    def test_the_oldest_is_forgotten(self, free: Runs) -> None:
        made = [ended(free.add(asked(n=1, seed=seed), None)) for seed in range(KEPT + 1)]
        assert free.get(made[0].id) is None
        assert free.changes(-1)["order"] == [run.id for run in made[1:]]

    def test_too_many_wait(self, held: Runs) -> None:
        for seed in range(KEPT):
            held.add(asked(n=1, seed=seed), None)
        with pytest.raises(UserError, match=f"{KEPT} runs are waiting: stop one first"):
            held.add(asked(), None)

    def test_it_closes_while_it_draws(self, gate: Gate) -> None:
        made = runs_of(Fake(gate=gate))
        first, second = made.add(asked(), None), made.add(asked(), None)
        gate.reached()
        closing_it = threading.Thread(target=made.close)
        closing_it.start()
        assert first.stopping.wait(20)
        gate.open()
        closing_it.join()
        assert (first.state, second.state) == (runs.STOPPED, runs.STOPPED)


class TestChanges:
    def test_since_a_version(self, free: Runs) -> None:
        first = ended(free.add(asked(), None))
        before = free.changes(-1)
        assert [run["id"] for run in before["runs"]] == [first.id]
        assert free.changes(before["version"])["runs"] == []
        second = ended(free.add(asked(), None))
        after = free.changes(before["version"])
        assert [run["id"] for run in after["runs"]] == [second.id]
        assert after["order"] == [first.id, second.id]

    def test_what_the_page_is_told(self, free: Runs) -> None:
        run = ended(free.add(asked(n=1), None))
        assert free.changes(-1)["runs"] == [
            {
                "id": run.id,
                "caption": "a red apple",
                "state": "done",
                "error": "",
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
                "start": None,
                "seeds": ["5"],
                "rows": [GRID],
                "scores": [run.candidates[0].score],
            }
        ]


class TestPace:
    def test_a_fifth_of_the_time_at_most(self) -> None:
        now, made = [100.0], []

        def preview() -> None:
            made.append(now[0])
            now[0] += 1

        pace = Pace(0.3, lambda: now[0])
        pace.preview(preview)
        for now[0] in (101.0, 104.9, 105.0, 106.0):
            pace.preview(preview)
        assert made == [100.0, 105.0]

    def test_not_too_often(self) -> None:
        now, made = [100.0], []
        pace = Pace(0.3, lambda: now[0])
        for now[0] in (100.0, 100.25, 100.31, 100.5):
            pace.preview(lambda: made.append(now[0]))
        assert made == [100.0, 100.31]
