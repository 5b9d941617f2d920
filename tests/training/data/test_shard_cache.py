"""What is kept of shards: within bounds, the last used, loaded once though several threads ask."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from gesso.training.data.shard_cache import ShardCache


class TestShardCache:
    def test_the_last_used_are_kept_within_bounds(self) -> None:
        loaded = list[int]()

        def load(shard: int) -> int:
            loaded.append(shard)
            return shard * 11

        cache = ShardCache([10, 4, 10], load, cached=20)
        assert [cache[shard] for shard in (0, 0, 1, 0, 2, 0, 1, 1)] == [0, 0, 11, 0, 22, 0, 11, 11]
        assert loaded == [0, 1, 2, 1]

    def test_one_is_kept_however_large(self) -> None:
        loaded = list[int]()
        cache = ShardCache([10, 10], loaded.append, cached=1)
        for shard in (0, 0, 1, 1, 0):
            cache[shard]
        assert loaded == [0, 1, 0]

    def test_threads_wait_for_the_one_that_loads(self) -> None:
        begun, go_on, loaded = Event(), Event(), list[int]()

        def load(shard: int) -> int:
            loaded.append(shard)
            begun.set()
            assert go_on.wait(10)
            return shard + 7

        cache = ShardCache([1], load, 1)
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(cache.__getitem__, 0) for _ in range(3)]
            begun.wait(10)
            go_on.set()
            assert [each.result() for each in waiting] == [7, 7, 7]
        assert loaded == [0]

    def test_what_could_not_be_loaded_is_tried_again(self) -> None:
        answers = iter([OSError("gone"), 5])

        def load(shard: int) -> int:
            answer = next(answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

        cache = ShardCache([1], load, 1)
        with pytest.raises(OSError, match="gone"):
            cache[0]
        assert cache[0] == 5
