"""The processes of a job: a single one, agreement, stopping on SIGTERM."""

import os
import signal

import torch

from gesso.processes import Group, processes, stopping


def test_without_torchrun_a_process_is_alone() -> None:
    with processes() as group:
        assert group[:2] == (0, 1)
        assert group.agreed(True)
        assert not group.agreed(False)
        assert group.total(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
        assert isinstance(group, Group)


def test_a_signal_to_stop_is_remembered() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
