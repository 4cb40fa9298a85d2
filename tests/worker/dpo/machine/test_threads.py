"""The number of threads: found by trying beside other programs, recorded, and taken from a record."""

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from worker.dpo.ground.values import read_threads, thread_changes
from worker.dpo.machine.threads import SPINS, Chooser, Others, Threads, usable_cores

# Work a second of 1 and of 2 threads on 2 cores, by the number of busy programs beside them.
RATES = {0: {1: 1.0, 2: 1.8}, 1: {1: 0.98, 2: 0.85}, 2: {1: 0.65, 2: 0.85}}


def taken(busy: int, count: int) -> float:
    """Cores that so many busy programs get of two."""
    return min(float(busy), 2 * busy / (busy + count))


def walk(chooser: Chooser, busy: int, steps: int) -> list[int]:
    """The counts of so many steps beside so many busy programs."""
    counts = []
    for _ in range(steps):
        counts.append(chooser.count)
        chooser.next(taken(busy, chooser.count), RATES[busy][chooser.count])
    return counts


@pytest.mark.parametrize("busy", RATES)
def test_the_better_number_is_found_within_a_few_steps_and_mostly_kept(busy):
    best = max(RATES[busy], key=lambda count: RATES[busy][count])
    chooser = Chooser(2)
    chooser.begin(taken(busy, 1))
    counts = walk(chooser, busy, 40)
    assert counts[3:].count(best) >= 0.9 * len(counts[3:])


def test_a_program_that_comes_or_goes_is_noticed():
    chooser = Chooser(2)
    chooser.begin(0.0)
    assert set(walk(chooser, 0, 10)) == {2}
    assert walk(chooser, 1, 6)[3:] == [1, 1, 1]
    assert walk(chooser, 2, 6)[3:] == [2, 2, 2]
    assert walk(chooser, 0, 4)[1:] == [2, 2, 2]


def test_with_one_core_there_is_nothing_to_choose():
    chooser = Chooser(1)
    chooser.begin(1.0)
    assert {chooser.next(1.0, 1.0) for _ in range(30)} == {1}


class Beside(Others):
    """So many cores of others, always."""

    def __init__(self, cores: float) -> None:
        self.cores = cores

    def since_last(self) -> float:
        return self.cores


def ticking() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.0


def make(setting: str, *, most: int | None = 2, others: float = 0.0) -> tuple[Threads, list[int]]:
    counts: list[int] = []
    clock = ticking()
    threads = Threads(
        setting, most=most, set_count=counts.append, original=2, others=Beside(others), clock=lambda: next(clock)
    )
    return threads, counts


def test_a_given_number_is_taken_whatever_runs_beside():
    threads, counts = make("2", others=2.0)
    for step in (1, 2, 3):
        assert threads.before("training", step) == 2
        threads.after(1.0)
    assert counts == [2, 2, 2]
    assert threads.record == "2"


def test_a_record_gives_the_same_counts_again_and_is_its_own_record():
    record = "2, 1@3; 1, 2@4, 1@6"
    threads, counts = make(record, others=2.0)
    for _ in range(4):
        threads.before("reference")
    for step in range(1, 8):
        threads.before("training", step)
    assert counts == [2, 2, 1, 1, 1, 1, 1, 2, 2, 1, 1]
    assert threads.record == record == read_threads(record)


def test_a_resumed_run_goes_on_with_the_recorded_count():
    threads, counts = make("auto", others=1.0)
    threads.resume("2; 2, 1@3, 2@9", step=5)
    assert threads.before("training", 6) == 1
    assert threads.record == "2; 2, 1@3"
    assert counts == [1]


def test_what_others_do_decides_nothing_on_a_gpu_or_in_one_of_several_processes():
    threads, counts = make("auto", most=None, others=2.0)
    assert threads.before("training", 1) is None
    threads.after(1.0)
    assert (threads.record, threads.count, counts) == (None, None, [])


@pytest.mark.parametrize("wrong", ["0", "-1", "2048", "many", "1@3", "1, 2", "1, 2@3, 1@2", "1;2;3", "", "1.5", True])
def test_what_is_no_record_is_refused(wrong):
    with pytest.raises(ValueError):
        read_threads(wrong)
    assert thread_changes("3") == [(1, 3)] and read_threads(4) == "4"


def test_others_are_what_the_machine_does_beside_this_process(monkeypatch):
    machine, own, now = [10.0], [4.0], [100.0]
    monkeypatch.setattr("psutil.cpu_times", lambda: SimpleNamespace(user=machine[0], system=1.0, idle=5.0, steal=3.0))
    monkeypatch.setattr("psutil.Process.cpu_times", lambda process: SimpleNamespace(user=own[0], system=0.5))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    others = Others()
    machine[0], own[0], now[0] = 25.0, 14.0, 110.0
    assert others.since_last() == pytest.approx(0.5)
    own[0], now[0] = 16.0, 111.0
    assert others.since_last() == 0.0


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["100000 100000"], 1), (["max 100000"], 2), (["100000", "100000"], 1), (["-1", "100000"], 2)],
)
def test_a_container_s_limit_counts(texts, expected, tmp_path, monkeypatch):
    files = [tmp_path / str(number) for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    monkeypatch.setattr("worker.dpo.machine.threads.CPU_QUOTA", (tuple(map(str, files)), ("/nowhere",)))
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("given", "expected"), [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "")]
)
def test_threads_spin_briefly_unless_the_environment_says_how_to_wait(given, expected):
    code = (
        "import os, sys, runpy; sys.argv = ['engine', '--help']\n"
        "try: runpy.run_module('worker.dpo', run_name='__main__')\n"
        "except SystemExit: print('spins', os.environ.get('GOMP_SPINCOUNT', ''))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].removeprefix("spins").strip() == expected
