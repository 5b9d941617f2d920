"""The processes of a job: a single one, agreement, stopping on SIGTERM."""

import os
import signal
import socket

import pytest
import torch

from gesso.errors import UserError
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


@pytest.fixture
def as_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the only process of a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("as_torchrun")
@pytest.mark.parametrize("told", ["Connection closed by peer [127.0.0.1]:1", "Read error: Connection reset by peer"])
def test_a_process_that_is_gone_is_told_in_one_line(told: str) -> None:
    """To the user by the others, unless torchrun ends them first."""
    with pytest.raises(UserError, match="another process of this job has ended"), processes():
        raise RuntimeError(told)


@pytest.mark.usefixtures("as_torchrun")
def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="no such kernel"), processes():
        raise RuntimeError("no such kernel")
    assert not torch.distributed.is_initialized()
