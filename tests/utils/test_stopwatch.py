from __future__ import annotations

import pytest
import torch

from videoreasoner.utils import stopwatch as module
from videoreasoner.utils.stopwatch import Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def __call__(self) -> None:
        """The device is busy for two more seconds."""
        self.now += 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_a_stage_adds_up_and_stages_are_apart(clock: Clock) -> None:
    watch = Stopwatch()
    for name, seconds in [("a", 1.0), ("b", 5.0), ("a", 0.5)]:
        with watch.stage(name):
            clock.now += seconds
        clock.now += 7
    assert watch.seconds == {"a": 1.5, "b": 5.0}


def test_the_work_of_a_device_belongs_to_the_stage_that_started_it(clock: Clock) -> None:
    watch = Stopwatch(wait=clock)
    with watch.stage("encode"):
        clock.now += 1
    assert watch.seconds == {"encode": 3.0}


def test_a_stage_that_fails_is_counted_and_the_error_is_raised(clock: Clock) -> None:
    watch = Stopwatch()

    def fail() -> None:
        with watch.stage("decode"):
            clock.now += 4
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert watch.seconds == {"decode": 4.0}


def test_a_stage_that_never_ran_took_no_time() -> None:
    watch = Stopwatch()
    assert watch.seconds["retrieve"] == 0.0


def test_stages_of_a_gpu_wait_for_its_work_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, too, takes its times with this: without waiting, a GPU's step would end before its work does."""
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert module.device_wait(torch.device("cpu")) is None
    stopwatch = module.Stopwatch(module.device_wait(torch.device("cuda", 1)))
    with stopwatch.stage("update"):
        assert waited == []
    assert waited == [torch.device("cuda", 1)]
