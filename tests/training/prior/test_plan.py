import pytest

from gesso import cli
from gesso.training.prior import advice, memory, plan, traffic
from gesso.training.prior.sizes import Size, shown, size

PAPER = ["--preset", "12b", "--machines", "128", "--gpus", "8", "--bandwidth", "8Gbit"]
GB, GIB = 10**9, 2**30


def setup_of(*argv: str) -> memory.Setup:
    return plan.setup_of(plan.parse(argv))


def lines_of(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert cli.main(["plan", *argv]) == 0
    return capsys.readouterr().out.splitlines()


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("16GB", Size(16e9, False)),
            ("16 GiB", Size(16 * GIB, True)),
            ("8Gbit", Size(1e9, False)),
            ("1.5MB/s", Size(1.5e6, False)),
            ("512B", Size(512, False)),
        ],
    )
    def test_parsed(self, text: str, expected: Size) -> None:
        assert size(text) == expected

    @pytest.mark.parametrize("text", ["16", "GB", "0GB", "-1GB", "16GBit", "1e3GB"])
    def test_what_is_none(self, text: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["plan", f"--memory={text}"]) == 2
        error = capsys.readouterr().err
        assert f"it is '{text}': give a number above 0 with its unit, as in 16GB, 16GiB or 8Gbit" in error

    def test_shown(self) -> None:
        assert [shown(3.02e9, False), shown(3 * GIB, True), shown(2.5e6, False)] == ["3.02 GB", "3.00 GiB", "2.50 MB"]


class TestThePapers:
    def test_states_of_a_gpu(self) -> None:
        """A 1,024th of the batch, an eighth of the matrices; 200,630,016 parameters in float32 are on every GPU."""
        matrices, others = 12 * 64 * 3968**2 // 8, 200_630_016
        found = memory.estimate(setup_of(*PAPER))
        assert found.states.weights == 2 * matrices + 4 * others
        assert found.states.gradients == 4 * others
        assert found.states.moments == 4 * matrices + 8 * others
        assert found.states.error_buffers == 2 * matrices
        assert found.backward.streams == 129 * 4 * 1280 * 3968
        assert found.backward.gathered == 2 * 12 * 3968**2

    def test_total(self) -> None:
        """Above 16 GiB, for all that is float32 is on every GPU: shared by eight, it would fit."""
        found = memory.estimate(setup_of(*PAPER)).total
        assert round(found / GB, 2) == 18.97
        assert found - 7 / 8 * 4 * 4 * 200_630_016 < 16 * GIB < found

    @pytest.mark.parametrize(("preset", "saving"), [("2.8b", 0.83), ("5.6b", 0.85), ("12b", 0.86)])
    def test_saving_of_compression(self, preset: str, saving: float) -> None:
        setup = setup_of(*PAPER, "--preset", preset)
        found = traffic.traffic(setup)
        assert found.plain == 2 * 12 * 64 * setup.config.width**2 / 8
        assert found.saving == pytest.approx(1 - 5 * setup.training.compression_rank / (8 * setup.config.width))
        assert round(found.saving, 2) == saving

    def test_times(self) -> None:
        """The rings of eight ordinals share a machine's network of 1 GB/s, and the bucket's passes it once."""
        setup, given = setup_of(*PAPER), plan.parse(PAPER)
        found, sent = traffic.times(setup, plan.cluster_of(given)), traffic.traffic(setup)
        assert found.between == pytest.approx(8 * 2 * 127 / 128 * sent.compressed / 1e9)
        assert found.bucket == pytest.approx(2 * 1023 / 1024 * 4 * 200_630_016 / 1e9)
        assert found.within == pytest.approx(7 / 8 * 6 * 12 * 64 * 3968**2 / 130e9)
        assert found.within < found.compute
        assert found.update == pytest.approx(found.compute + found.between + found.bucket)

    def test_plain_all_reduce_runs_beside_backward(self) -> None:
        argv = [*PAPER, "--compression_rank", "0"]
        found = traffic.times(setup_of(*argv), plan.cluster_of(plan.parse(argv)))
        assert found.exposed == pytest.approx(found.between - 3 / 4 * found.compute + found.bucket)


class TestAdvice:
    def test_single_changes_that_fit_come_first(self) -> None:
        setup = setup_of("--preset", "base", "--gpus", "1")
        ways = advice.ways(setup, 1, 8 * GIB)
        assert [way.flags for way in ways] == ["--accumulate 32", "--recompute", "--precision fp16"]
        assert [way.total <= 8 * GIB for way in ways] == [True, False, False]

    def test_a_way_takes_what_it_says(self) -> None:
        argv = ["--preset", "1b", "--gpus", "8", "--no-recompute", "--precision", "fp32", "--moments", "32"]
        for way in advice.ways(setup_of(*argv), 8, 2 * GB):
            assert memory.estimate(setup_of(*argv, *way.flags.split())).total == way.total, way

    def test_changes_are_combined_where_none_is_enough(self) -> None:
        argv = ["--preset", "1b", "--gpus", "8", "--no-recompute", "--moments", "32"]
        *singles, last = advice.ways(setup_of(*argv), 8, 8 * GB)
        assert min(way.total for way in singles) > 8 * GB >= last.total
        assert last.flags.count("--") > 1

    def test_nothing_helps_a_single_gpu_with_12b(self, capsys: pytest.CaptureFixture[str]) -> None:
        argv = ["--gpus", "1", "--batch_size", "1", "--compression_rank", "0", "--memory", "1GB"]
        assert lines_of(capsys, *argv)[-1].endswith("GB of 1.00 GB of a GPU; only a smaller model would")


class TestText:
    def test_does_not_fit(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = lines_of(capsys, *PAPER, "--memory", "16GB")
        assert lines[1] == "machines × GPUs: 128 × 8; 128 replicas of weights in 8 shards"
        assert "does not fit: 18.97 GB of 16.00 GB of a GPU; what would take less:" in lines
        assert lines[-1].split() == ["--shards", "16", "12.78", "GB", "fits"]
        assert any("PowerSGD" in line and "0.43 GB  85.9% less, rank 112 of a shard" in line for line in lines)

    def test_fits_in_the_unit_that_was_given(self, capsys: pytest.CaptureFixture[str]) -> None:
        last = lines_of(capsys, *PAPER, "--memory", "32GiB")[-1]
        assert last == "fits: 17.66 GiB of 32.00 GiB of a GPU; CUDA and NCCL take about 1 GiB besides"

    def test_a_gpu_sold_by_gb(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = lines_of(capsys, *PAPER, "--memory", "18GB")
        assert lines[-2].split()[-3:] == ["19.33", "GB", "fits"]

    def test_numbers_are_in_one_column(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = lines_of(capsys, *PAPER, "--memory", "32GB")
        assert {line.index(" GB") for line in lines if line.startswith("  ") and " GB" in line[:78]} == {72}

    def test_one_gpu_sends_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = lines_of(capsys, "--preset", "tiny", "--gpus", "1", "--peak", "1")
        assert "communication: none, there is one GPU" in lines
        assert not any("all-reduce" in line for line in lines)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--device", "v1001"], "--device is 'v1001': give one of H200, "),
        (["--preset", "13b"], "--preset is '13b': give one of 12b, "),
        (["--mfu", "1.5"], "--mfu is 1.5: give a share above 0, up to 1"),
        (["--machines", "0"], "--machines is 0: give 1 or more"),
        (["--batch_size", "1001"], "--batch_size is 1001: give a multiple of 8, 8 processes times --accumulate 1"),
    ],
)
def test_mistakes(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"gesso: {message}")
