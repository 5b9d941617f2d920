"""Images a second and MFU by a clock of the test's; memory; peaks by a GPU's name."""

import sys

import pytest
import torch

from gesso.processes import Group
from gesso.training import throughput
from gesso.training.throughput import Throughput, memory, peak_flops

CPU = torch.device("cpu")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(throughput, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_images_since_the_last_measurement(clock: Clock) -> None:
    speed = Throughput(Group(0, 1, CPU), step=10, items=8)
    clock.now += 4
    assert speed.measure(15)["images_per_second"] == 10
    clock.now += 2
    assert speed.measure(20)["images_per_second"] == 20


def test_a_pause_does_not_count(clock: Clock) -> None:
    speed = Throughput(Group(0, 1, CPU), step=0, items=8)
    clock.now += 2
    with speed.pause():
        clock.now += 1000
    assert speed.measure(1)["images_per_second"] == 4


def test_mfu_is_of_all_processes_peaks(clock: Clock) -> None:
    speed = Throughput(Group(0, 4, CPU), step=0, items=100, flops=2e9, peak=1e12)
    clock.now += 1
    assert speed.measure(10)["mfu"] == pytest.approx(1000 * 2e9 / 4e12)


def test_without_a_known_peak_there_is_no_mfu(clock: Clock) -> None:
    speed = Throughput(Group(0, 1, CPU), step=0, items=100, flops=2e9, peak=0.0)
    clock.now += 1
    assert set(speed.measure(1)) == {"images_per_second", "memory_mib"}


def test_no_time_passed(clock: Clock) -> None:
    assert Throughput(Group(0, 1, CPU), 0, 1).measure(0)["images_per_second"] == 0


def test_memory_of_the_process_in_mib() -> None:
    held = bytearray(64 << 20)
    assert 64 < memory(CPU) < 1 << 20, sys.getsizeof(held)


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 80GB HBM3", "fp32", 494e12),
        ("NVIDIA L40S", "fp16", 362e12),
        ("NVIDIA L4", "fp16", 121e12),
        ("Another GPU", "fp16", 0.0),
    ],
)
def test_peaks_by_name(name: str, precision: str, peak: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0), precision) == peak


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(CPU, "fp32") == 0


def test_the_unit_is_in_the_name() -> None:
    assert set(Throughput(Group(0, 1, CPU), 0, 1, unit="tokens").measure(1)) == {"tokens_per_second", "memory_mib"}
