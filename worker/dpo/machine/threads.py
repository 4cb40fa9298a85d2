"""How many threads compute on a CPU, and how they wait for each other, on a machine that other programs use too.

Threads that share a product wait for the slowest. Where another program takes a core from one of them, the others wait with
it: then fewer threads may be faster, or not, which only a try shows. And threads that wait spin, by default for
milliseconds, which takes from the program beside them and from the thread that they wait for.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from worker.dpo.ground.values import changes_text, thread_changes

# How often a thread looks for its next work before it sleeps. GNU's OpenMP, which PyTorch brings on Linux, looks some 300,000
# times. Where to wake a thread is slow, as in a virtual machine, 800 make a step 1.4 times as long; where another program has a core,
# two threads that look longer lose more, and one thread is the faster (`bench.busy_machine --spins`).
SPINS = "10000"
# Cores that others may keep busy before they count: the system itself always takes something.
FREE = 0.25
# A load of others, in cores, or a rate of ours, as a factor, that has changed by so much calls for a new comparison.
LOAD_CHANGED, RATE_CHANGED = 0.4, 1.3
# What a number of threads must be better by before it is taken instead of the present one.
GAIN = 1.04
# Steps until the numbers are compared again beside others; it doubles each time that the comparison changes nothing.
AGAIN, SELDOM = 8, 64
# A container's limit, quota and period in microseconds, for control groups of version 2 and 1.
CPU_QUOTA = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def spin_briefly() -> None:
    """Have threads that wait sleep soon. Only before PyTorch is loaded, and unless the environment says how to wait."""
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if "torch" not in sys.modules and not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def usable_cores() -> int:
    """Cores that this process may use: the machine's, or fewer by affinity, by a container's limit, or by PyTorch's own setting."""
    import torch

    cores = min(torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1024)
    for files in CPU_QUOTA:
        with suppress(OSError, ValueError):
            # Without a limit the quota is `max`, or -1.
            quota, period = (int(number) for file in files for number in Path(file).read_text().split())
            if quota > 0:
                cores = min(cores, max(1, round(quota / period)))
    return max(1, cores)


class Others:
    """The cores that other programs keep busy."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._mark = self._now()

    def since_last(self) -> float:
        """Cores busy with other programs, on average since this was last asked."""
        (then, busy, own), (now, busy_now, own_now) = self._mark, self._now()
        self._mark = now, busy_now, own_now
        return max(0.0, (busy_now - busy) - (own_now - own)) / max(now - then, 0.01)

    def _now(self) -> tuple[float, float, float]:
        times, own = psutil.cpu_times(), self._process.cpu_times()
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        return time.monotonic(), busy, own.user + own.system


class Chooser:
    """Which number of threads does the most, found by trying. Beside nothing else it is all of `most`."""

    def __init__(self, most: int) -> None:
        self.count = self._most = most
        self._trials: list[int] = []
        # By count, since the last comparison: work a second, and the cores that others took meanwhile.
        self._seen: dict[int, tuple[float, float]] = {}
        self._present = most
        self._steps, self._again = 0, AGAIN

    def begin(self, others: float) -> int:
        """The number to begin with, beside others that keep so many cores busy."""
        if others >= FREE:
            self.count = self._beside(others)
        return self.count

    def next(self, others: float, rate: float) -> int:
        """The number for the next piece of work, after one that was done at `rate` beside `others`."""
        changed = self._has_changed(others, rate)
        self._seen[self.count] = rate, others
        self._steps += 1
        if others < FREE:
            self._trials, self._steps, self._again = [], 0, AGAIN
            self._seen = {self._most: self._seen[self._most]} if self._most in self._seen else {}
            self.count = self._most
        elif self._trials:
            self._go_on()
        elif changed or len(self._seen) == 1 or self._steps >= self._again:
            self._again = AGAIN if changed else min(SELDOM, 2 * self._again)
            self._steps, self._seen = 0, {self.count: (rate, others)}
            self._present = self.count
            self._trials = [count for count in (self._beside(others), self._most) if count != self.count][:2]
            self._go_on()
        return self.count

    def _go_on(self) -> None:
        """Try the next number, or after the last take the best."""
        untried = [count for count in self._trials if count not in self._seen]
        if untried:
            self.count = untried[0]
            return
        self._trials = []
        best = max(self._seen, key=lambda count: self._seen[count][0])
        present = self._seen[self._present][0]
        self.count = best if self._seen[best][0] > GAIN * present else self._present

    def _beside(self, others: float) -> int:
        """As many as others leave cores, but one less than all: that is what there is to compare."""
        return max(1, min(self._most - 1, self._most - math.ceil(others - FREE)))

    def _has_changed(self, others: float, rate: float) -> bool:
        if self.count not in self._seen:
            return False
        rate_then, others_then = self._seen[self.count]
        apart = max(rate, rate_then) / max(min(rate, rate_then), 1e-9)
        return abs(others - others_then) > LOAD_CHANGED or apart > RATE_CHANGED


class Threads:
    """The number of threads of a run, piece by piece of its work: given, as recorded, or chosen; and the record of it.

    setting: as `values.read_threads` gives it. most: the largest number to choose; None where there is nothing to choose, on a GPU or
    in one of several processes. set_count: sets it. original: what it was before the run.
    """

    def __init__(
        self,
        setting: str,
        *,
        most: int | None,
        set_count: Callable[[int], None],
        original: int,
        others: Others | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chooses = setting == "auto" and most is not None
        self._set, self._clock = set_count, clock
        parts = [] if setting == "auto" else [thread_changes(part) for part in setting.split(";")]
        self._given = {"reference": parts[0], "training": parts[-1]} if parts else {}
        self._record: dict[str, list[tuple[int, int]]] = {}
        self._others = (others or Others()) if self._chooses else None
        self._chooser = Chooser(most or 1)
        self._original = original
        self._done = {"reference": 0, "training": 0}
        self._begun = False
        self._started = 0.0

    @property
    def record(self) -> str | None:
        """What was used, as `threads` takes it again; None where nothing was chosen or given."""
        if not self._record:
            return None
        parts = [changes_text(self._record[part]) for part in ("reference", "training") if part in self._record]
        # One part alone is for both.
        return "; ".join(dict.fromkeys(parts))

    @property
    def count(self) -> int | None:
        """Threads at work now; None where nothing was chosen or given."""
        newest = self._record.get("training") or self._record.get("reference")
        return newest[-1][1] if newest else None

    def resume(self, record: str | None, step: int) -> None:
        """Go on after `step` from what a training state recorded: the reference's counts, and the last one of the steps."""
        if record is None or not self._chooses:
            return
        parts = [thread_changes(part) for part in record.split(";")]
        self._record = {"reference": parts[0]}
        self._record["training"] = [change for change in parts[-1] if change[0] <= max(1, step)]
        self._chooser.count = self._record["training"][-1][1]
        self._begun = True

    def before(self, part: str, number: int | None = None) -> int | None:
        """Set the count for piece `number` (from 1) of `part`, reference or training, and note it where it changes.

        number: the next of this part where it is None. Returns the count, or None where it is left as it is.
        """
        number = self._done[part] + 1 if number is None else number
        self._done[part] = number
        if part in self._given:
            count = [count for first, count in self._given[part] if first <= number][-1]
        elif self._others is None:
            return None
        else:
            if not self._begun:
                self._begun = True
                self._chooser.begin(self._others.since_last())
            count = self._chooser.count
        changes = self._record.setdefault(part, [])
        if not changes or changes[-1][1] != count:
            changes.append((number if changes else 1, count))
        self._set(count)
        self._started = self._clock()
        return count

    def release(self) -> None:
        """Set the number back to what it was before the run."""
        if self._record:
            self._set(self._original)

    def after(self, work: float) -> None:
        """Choose the count for the next piece, from how long the last one took: `work` of any unit."""
        if self._others is not None:
            self._chooser.next(self._others.since_last(), work / max(self._clock() - self._started, 1e-9))
