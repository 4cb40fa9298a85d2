"""What the statistics under a verdict do where the truth is known: they find what was planted, and stay quiet where nothing was.

    python -m bench.loop_simulation [--repeats 200] [--seed 1] [--only sequence decisions …]

Each part draws its own data from one seed, so the figures are the same on every machine. tests/stats/loop/test_simulation.py runs
a small part of each. Writes OUT.json and OUT.md and prints the tables.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median

import numpy as np

from app.stats.loop import forecast, sequential
from app.stats.loop.arms import worth
from app.stats.loop.decision import Goal, Plan, Word, decide
from app.stats.loop.equal_length import Compared, equal_length
from app.stats.loop.estimate import Estimate, tally
from app.stats.loop.flips import Planting, list_quality, strongest
from app.stats.loop.people import shrunken, sides
from app.stats.loop.ranking import Match, ranking
from app.stats.loop.unblinding import Guess, unblinding
from app.stats.loop.win_rate import Vote, win_rate

Random = np.random.Generator
Draw = Callable[[Random, float, int], np.ndarray]
THRESHOLD = math.log(20)  # of a wealth at 95 %


@dataclass(frozen=True)
class Row:
    """One figure: `value` of `name`, from `repeats` simulations; `wanted` is what issue and documentation promise of it."""

    part: str
    name: str
    value: float
    repeats: int
    wanted: str = ""


# What a batch can look like: (prompts) win rates with the named mean.
def coins(random: Random, rate: float, prompts: int) -> np.ndarray:
    return (random.random(prompts) < rate).astype(float)


def with_ties(random: Random, rate: float, prompts: int, ties: float = 0.3) -> np.ndarray:
    return random.choice([0.0, 0.5, 1.0], size=prompts, p=[1 - rate - ties / 2, ties, rate - ties / 2])


def three_votes(random: Random, rate: float, prompts: int) -> np.ndarray:
    """Means of three votes, where people agree on some prompts and not on others."""
    own = random.beta(2 * rate, 2 * (1 - rate), size=prompts)
    return random.binomial(3, own) / 3


BATCHES: dict[str, Draw] = {
    "coins": coins,
    "30 % ties": with_ties,
    "means of three votes": three_votes,
}


def sequence(random: Random, repeats: int, prompts: int = 400) -> list[Row]:
    """Whether the sequence covers the truth after every single prompt, and how wide it is beside the fixed-look interval."""
    rows = []
    for name, draw in BATCHES.items():
        for rate in (0.5, 0.6, 0.8):
            covered = sum(never_excluded(draw(random, rate, prompts), rate) for _ in range(repeats))
            label = f"covers {rate:.0%} after each of {prompts} prompts, {name}"
            rows.append(Row("sequence", label, covered / repeats, repeats, "at least 0.95"))
    for count in (50, 100, 200, 400, 1000, 5000):
        multiples = [width_multiple(coins(random, 0.6, count)) for _ in range(20)]
        rows.append(
            Row(
                "sequence", f"width at {count} prompts, of the fixed-look interval's", fmean(multiples), 20, "below 1.9"
            )
        )
    return rows


def never_excluded(values: np.ndarray, rate: float) -> bool:
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
        if sequential.excludes(counts, rate):
            return False
    return True


def width_multiple(values: np.ndarray) -> float:
    outcomes = tally(values)
    one, other = sequential.interval(outcomes), win_rate(outcomes)
    return (one.high - one.low) / (other.high - other.low)


def useless(random: Random, repeats: int, prompts: int = 2000) -> list[Row]:
    """A checkpoint that isn't better, looked at after every prompt: how often it is called better at any of them."""
    rows = []
    for rate, goal, bar in (
        (0.5, "better", 0.5),
        (0.48, "better", 0.5),
        (0.45, "not worse by 5 points", 0.45),
    ):
        draws = random.random((repeats, prompts)) < rate
        won = draws.cumsum(axis=1)
        counts = np.stack([np.arange(1, prompts + 1) - won, won], axis=-1)
        above = (forecast.log_wealth(counts, [0.0, 1.0], bar) >= THRESHOLD) & (won > bar * counts.sum(axis=-1))
        name = f"true {rate:.0%} is called {goal} at any of {prompts} looks"
        rows.append(Row("useless", name, float(above.any(axis=1).mean()), repeats, "at most 0.05"))
        n = counts.sum(axis=-1)
        z = (won - bar * n) / np.sqrt(n * bar * (1 - bar))
        peeking = (z[:, 19:] > 1.96).any(axis=1).mean()
        rows.append(
            Row(
                "useless",
                f"… by a fixed-size test that is looked at as often, true {rate:.0%}",
                float(peeking),
                repeats,
            )
        )
    return rows


def decisions(random: Random, repeats: int, maximum: int = 3000) -> list[Row]:
    """Prompts until the goal "better" is decided, beside a test of a size fixed before, and the plug-in bettor of the paper."""
    rows = []
    for rate in (0.5, 0.55, 0.6, 0.7):
        values = random.random((repeats, maximum)) < rate
        won = values.cumsum(axis=1)
        counts = np.stack([np.arange(1, maximum + 1) - won, won], axis=-1)
        ours = first(forecast.log_wealth(counts, [0.0, 1.0], 0.5) >= THRESHOLD)
        plug_in = first(hedged_capital(values.astype(float), 0.5) >= THRESHOLD)
        name = f"at a true {rate:.0%}"
        rows += [
            Row("decisions", f"mean prompts until decided, at most {maximum}, {name}", float(ours.mean()), repeats),
            Row("decisions", f"prompts within which 80 % are decided {name}", float(np.quantile(ours, 0.8)), repeats),
            Row("decisions", f"decided at all {name}", float((ours < maximum).mean()), repeats),
            Row("decisions", f"mean prompts of the predictable plug-in {name}", float(plug_in.mean()), repeats),
        ]
        if rate > 0.5:
            rows.append(Row("decisions", f"prompts of a fixed-size test with 80 % power {name}", fixed_size(rate), 1))
    return rows


def first(stops: np.ndarray) -> np.ndarray:
    """(repeats,) the first prompt at which each stops, else the last. stops: (repeats, prompts)."""
    return np.where(stops.any(axis=1), stops.argmax(axis=1) + 1, stops.shape[1])


def hedged_capital(values: np.ndarray, mean: float) -> np.ndarray:
    """(repeats, prompts) log of the hedged capital with predictable plug-in bets (Waudby-Smith & Ramdas 2023, sections 3 and 4)."""
    seen = np.arange(1, values.shape[1] + 1)
    centers = (0.5 + values.cumsum(axis=1)) / (seen + 1)
    spreads = (0.25 + ((values - centers) ** 2).cumsum(axis=1)) / (seen + 1)
    before = np.concatenate([np.full((len(values), 1), 0.25), spreads[:, :-1]], axis=1)
    bets = np.sqrt(2 * math.log(2 / 0.05) / (before * seen * np.log1p(seen)))
    up = np.log1p(np.minimum(bets, 0.5 / mean) * (values - mean)).cumsum(axis=1)
    down = np.log1p(-np.minimum(bets, 0.5 / (1 - mean)) * (values - mean)).cumsum(axis=1)
    return np.maximum(up, down) - math.log(2)


def fixed_size(rate: float) -> float:
    """Prompts of a two-sided 5 % test of one half with a power of 80 %."""
    reach = 1.959964 * 0.5 + 0.841621 * math.sqrt(rate * (1 - rate))
    return math.ceil((reach / (rate - 0.5)) ** 2)


def looks(random: Random, repeats: int) -> list[Row]:
    """How often the intervals of one look cover the truth."""
    wanted, rows = "0.93 to 0.97", []

    def covered(name: str, truth: float, estimate: Callable[[], Estimate], times: int = repeats) -> None:
        hits = sum(not estimate().excludes(truth) for _ in range(times))
        rows.append(Row("looks", name, hits / times, times, wanted))

    for name, draw in BATCHES.items():
        for rate, prompts in ((0.5, 60), (0.6, 120), (0.8, 300)):
            label = f"win rate, {name}, {rate:.0%}, {prompts} prompts"
            covered(label, rate, partial(one_look, draw, random, rate, prompts))
    covered("win rate at equal length, 300 prompts", 0.55, lambda: length_estimate(random, 300, 0.55, 1.2))
    covered("… 120 prompts", 0.45, lambda: length_estimate(random, 120, 0.45, 0.0))
    covered("a person's win rate after shrinkage, 8 people", 0.0, lambda: shrunken_error(random))
    covered("Bradley–Terry, the newest of 4 against the first", 1 / (1 + math.exp(-0.6)), lambda: newest(random))
    covered("accuracy of guesses given their own choice", 0.6, lambda: two_sided(random, 0.6))
    wanted = "at least 0.93"
    covered("an arm's worth, 3 seeds", 2.0, lambda: arm(random, 2.0, seeds=3))
    covered("… 5 seeds", 0.0, lambda: arm(random, 0.0, seeds=5))
    return rows


def one_look(draw: Draw, random: Random, rate: float, prompts: int) -> Estimate:
    return win_rate(tally(draw(random, rate, prompts)))


def length_estimate(random: Random, prompts: int, rate: float, slope: float) -> Estimate:
    """The new answers are longer in most prompts; `rate` is what they win at equal length."""
    longer_by = random.normal(40, 60, size=prompts)
    logit = math.log(rate / (1 - rate)) + slope * np.tanh(longer_by / 60)
    values = random.random(prompts) < 1 / (1 + np.exp(-logit))
    rows = [Compared(i, float(value), float(d)) for i, (value, d) in enumerate(zip(values, longer_by, strict=True))]
    result = equal_length(rows, seed=int(random.integers(2**32)), draws=400)
    assert result is not None
    return result.win_rate


def shrunken_error(random: Random) -> Estimate:
    """One person of eight, drawn at random: the interval less their true win rate."""
    rates = random.beta(6, 5, size=8)
    votes = [
        Vote((person, i), person, float(random.random() < rate))
        for person, rate in enumerate(rates)
        for i in range(int(random.integers(5, 80)))
    ]
    chosen = random.choice(shrunken(votes))
    error, truth = chosen.win_rate, rates[chosen.person]
    return Estimate(0.0, error.low - truth, error.high - truth, error.count)


def newest(random: Random) -> Estimate:
    """Four rounds; the same 100 prompts serve in each, and some prompts suit newer checkpoints."""
    strengths, suits = (0.0, 0.2, 0.5, 0.6), random.normal(0, 0.4, size=100)
    matches = []
    for one, other in ((1, 0), (2, 1), (3, 2), (3, 0)):
        chance = 1 / (1 + np.exp(-(strengths[one] - strengths[other] + suits * 0.5)))
        matches += [Match(one, other, float(random.random() < p), i) for i, p in enumerate(chance)]
    return ranking(matches, order=[0, 1, 2, 3])[3].win_rate


def guesses(random: Random, count: int, taste: float, know: float, people: int = 4) -> list[Guess]:
    """`know`: the chance of a right guess; 0 for people who know nothing and guess what they chose, nine times in ten."""
    made = []
    for i in range(count):
        chose_new = random.random() < taste
        right = random.random() < know if know else (random.random() < 0.9) == chose_new
        made.append(Guess(i % people, bool(chose_new), bool(right)))
    return made


def two_sided(random: Random, know: float) -> Estimate:
    """Both one-sided 95 % bounds make an interval of 90 %; moved to a nominal 95 % by asking for one side at a time."""
    accuracy = unblinding(guesses(random, 120, 0.6, know)).accuracy
    return Estimate(accuracy.value, accuracy.low if random.random() < 0.5 else 0.0, accuracy.high, accuracy.count)


def arm(random: Random, gain: float, seeds: int, prompts: int = 300) -> Estimate:
    """Differences of correctness with seed, prompt and rest, of an arm of 200 judgments; gain in points per 100 judgments."""
    d = 2 * gain + random.normal(0, 1.5, size=(seeds, 1)) + random.normal(0, 25, size=(1, prompts))
    return worth(d + random.normal(0, 35, size=(seeds, prompts)), judgments=200).per_hundred


def length_bias(random: Random, repeats: int) -> list[Row]:
    """New answers that are only longer, before people who like length; and better ones that are only shorter."""
    raw = equal = missed = 0
    for _ in range(repeats):
        longer_by = random.normal(60, 40, size=500)
        values = random.random(500) < 1 / (1 + np.exp(-1.2 * np.tanh(longer_by / 40)))
        rows = [Compared(i, float(value), float(d)) for i, (value, d) in enumerate(zip(values, longer_by, strict=True))]
        raw += decide(Plan(Goal.SUPERIORITY, 500), tally(values.astype(float))).word is Word.BETTER
        result = equal_length(rows, seed=int(random.integers(2**32)), draws=300)
        assert result is not None
        equal += result.win_rate.low > 0.5
        missed += length_estimate(random, 500, 0.6, -0.8).low > 0.5
    return [
        Row("length", "only longer: the raw verdict says better", raw / repeats, repeats, "at least 0.95"),
        Row("length", "only longer: at equal length above one half", equal / repeats, repeats, "at most 0.05"),
        Row("length", "60 % at equal length, 500 prompts: found", missed / repeats, repeats),
    ]


def side_clickers(random: Random, repeats: int) -> list[Row]:
    """Eight people with 60 judgments each, one of whom clicks left in 85 % of them."""
    named = wrong = quiet = 0
    for _ in range(repeats):
        clicks = [
            (person, bool(random.random() < (0.85 if person == 0 else 0.5))) for person in range(8) for _ in range(60)
        ]
        by_person = {result.person: result.clicks_a_side for result in sides(clicks)}
        named += by_person[0]
        wrong += any(by_person[person] for person in range(1, 8))
        honest = sides([(person, bool(random.random() < 0.5)) for person in range(8) for _ in range(60)])
        quiet += any(result.clicks_a_side for result in honest)
    return [
        Row("sides", "who clicks left in 85 % of 60 judgments is named", named / repeats, repeats, "at least 0.95"),
        Row("sides", "anybody else is named beside", wrong / repeats, repeats, "at most 0.01"),
        Row("sides", "anybody is named where all are honest", quiet / repeats, repeats, "at most 0.01"),
    ]


def telling(random: Random, repeats: int) -> list[Row]:
    """60 guesses of four people who like the new answers in 70 % of pairs."""
    signs = {
        name: sum(unblinding(guesses(random, 60, 0.7, know)).sign for _ in range(repeats)) / repeats
        for name, know in (
            ("a true guess rate of 70 %: a sign", 0.7),
            ("taste alone: a sign", 0.0),
            ("coins: a sign", 0.5),
        )
    }
    mixed = sum(unblinding(two_tastes(random)).sign for _ in range(repeats)) / repeats
    naive = sum(fmean(guess.right for guess in guesses(random, 60, 0.7, 0.0)) > 0.6 for _ in range(repeats)) / repeats
    wanted = ("at least 0.80", "at most 0.06", "at most 0.06")
    rows = [
        Row("unblinding", name, share, repeats, want) for (name, share), want in zip(signs.items(), wanted, strict=True)
    ]
    rows.append(Row("unblinding", "people of two tastes who guess by them: a sign", mixed, repeats, "at most 0.06"))
    rows.append(Row("unblinding", "taste alone: more than 60 % of plain guesses are right", naive, repeats))
    return rows


def two_tastes(random: Random) -> list[Guess]:
    """Half of them like the new answers and guess by taste, half like the old ones and guess against it: no one knows."""
    made = []
    for i in range(120):
        person = i % 4
        chose_new = random.random() < (0.85 if person < 2 else 0.25)
        same = random.random() < (0.95 if person < 2 else 0.4)
        made.append(Guess(person, bool(chose_new), bool(same == chose_new)))
    return made


def planted_flips(random: Random, repeats: int, pairs: int = 500) -> list[Row]:
    """Flips planted in data whose models are really trained: five folds of a reward model, the strongest contradictions listed.

    The truth is the mean precision in fresh data of the same kind.
    """
    rows = []
    for taste, clear in (("clear taste", 2.0), ("unclear taste", 0.7)):
        for rate in (0.1, 0.2, 0.3):
            fresh = [planting(random, *preferences(random, pairs, clear), rate) for _ in range(max(200, repeats))]
            truth, hits, reliable = fmean(precision_of(planted) for planted in fresh), 0, 0
            for _ in range(repeats):
                features, labels = preferences(random, pairs, clear)
                quality = list_quality([planting(random, features, labels, rate) for _ in range(3)])
                hits += not quality.precision.excludes(truth)
                reliable += quality.reliable
            name = f"{rate:.0%} planted, {taste}"
            rows += [
                Row("flips", f"true precision, {name}", truth, len(fresh)),
                Row("flips", f"the stated interval covers it, {name}", hits / repeats, repeats, "at least 0.90"),
                Row("flips", f"called reliable, {name}", reliable / repeats, repeats),
            ]
    invented = sum(list_quality([blind_list(random, pairs, 0.1) for _ in range(3)]).reliable for _ in range(repeats))
    return [*rows, Row("flips", "a list drawn by lot is called reliable", invented / repeats, repeats, "at most 0.05")]


def preferences(random: Random, pairs: int, clear: float) -> tuple[np.ndarray, np.ndarray]:
    """(pairs, 6) differences of two answers, (pairs,) 1 where the first is chosen: by a taste that is more or less clear."""
    features = random.normal(size=(pairs, 6))
    logits = clear * features @ np.array([2.0, -1.5, 1.0, 0.5, 0.0, 0.0])
    return features, (random.random(pairs) < 1 / (1 + np.exp(-logits))).astype(float)


def planting(random: Random, features: np.ndarray, labels: np.ndarray, rate: float) -> Planting:
    pairs = len(labels)
    flipped = random.choice(pairs, size=round(rate * pairs), replace=False)
    labels = labels.copy()
    labels[flipped] = 1 - labels[flipped]
    folds, margins = random.permutation(pairs) % 5, np.zeros(pairs)
    for fold in range(5):
        inside = folds != fold
        margins[~inside] = (features @ reward(features[inside], labels[inside]) * (2 * labels - 1))[~inside]
    listed = strongest(dict(enumerate(margins.tolist())))
    return Planting(frozenset(range(pairs)), frozenset(flipped.tolist()), frozenset(listed))


def reward(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression with a weak ridge."""
    weights = np.zeros(features.shape[1])
    for _ in range(12):
        p = 1 / (1 + np.exp(-features @ weights))
        curvature = features.T @ (features * (p * (1 - p))[:, None]) + np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, features.T @ (labels - p) - weights)
    return weights


def precision_of(planted: Planting) -> float:
    return len(planted.listed & planted.flipped) / len(planted.listed)


def blind_list(random: Random, pairs: int, rate: float) -> Planting:
    flipped, listed = (random.choice(pairs, size=round(rate * pairs), replace=False).tolist() for _ in range(2))
    return Planting(frozenset(range(pairs)), frozenset(flipped), frozenset(listed))


def arms(random: Random, repeats: int) -> list[Row]:
    """Four arms over three seeds: one that buys 4 points per 100 judgments, and none that does."""
    noticed = invented = 0
    for _ in range(repeats):
        noticed += compare_arms(random, 4.0)
        invented += any(compare_arms(random, 0.0) for _ in range(4))
    return [
        Row(
            "arms", "an arm that buys 4 points per 100 judgments is found", noticed / repeats, repeats, "at least 0.80"
        ),
        Row("arms", "any of four arms that buy nothing is found", invented / repeats, repeats, "at most 0.05"),
    ]


def compare_arms(random: Random, gain: float) -> bool:
    d = 2 * gain + random.normal(0, 0.5, size=(3, 1)) + random.normal(0, 15, size=(1, 400))
    return worth(d + random.normal(0, 25, size=(3, 400)), judgments=200, arms=4).differs


def outlook(random: Random, repeats: int) -> list[Row]:
    """Whether the range of "about 200 more judgments" holds what comes, asked after 50 prompts, and the power said before the start."""
    plan, held, errors = Plan(Goal.SUPERIORITY, 1500), 0, []
    for _ in range(repeats):
        rate = random.uniform(0.3, 0.7)
        values = coins(random, rate, plan.maximum)
        said = forecast.remaining(plan, tally(values[:50]), paths=300, seed=int(random.integers(2**32)))
        assert said is not None
        won = values.cumsum()
        counts = np.stack([np.arange(1, len(won) + 1) - won, won], axis=-1)
        stops = forecast.log_wealth(counts, [0.0, 1.0], 0.5) >= THRESHOLD
        at = first(stops[None, 49:])[0] - 1 if stops[49:].any() else math.inf
        low = math.inf if said.low is None else said.low
        high = math.inf if said.high is None else said.high
        held += low <= at <= high
        if said.median and math.isfinite(at) and at:
            errors.append(abs(math.log(at / said.median)))
    rows = [
        Row("outlook", "the 80 % range of prompts to go holds what comes", held / repeats, repeats, "0.75 to 0.90"),
        Row("outlook", "typical factor between the median and what comes", math.exp(median(errors)), len(errors)),
    ]
    for prompts in (120, 250, 500, 1000):
        lowest = forecast.decidable(Plan(Goal.SUPERIORITY, prompts))
        rows.append(
            Row("outlook", f"true win rate that {prompts} prompts decide in 80 % of cases", lowest or math.nan, 1000)
        )
    for rate in (0.55, 0.6, 0.7):
        needed = forecast.prompts_needed(Plan(Goal.SUPERIORITY, 1), rate)
        rows.append(Row("outlook", f"prompts that decide a true {rate:.0%} in 80 % of cases", needed or math.nan, 2000))
    return rows


def cost(random: Random, repeats: int) -> list[Row]:
    """CPU milliseconds of what a page asks for: the median of ten."""
    tied = tally(with_ties(random, 0.55, 5000))
    averaged = tally(random.integers(0, 13, size=5000) / 12)
    plan = Plan(Goal.SUPERIORITY, 1000)
    compared = [
        Compared(i, float(random.random() < 0.6), float(d)) for i, d in enumerate(random.normal(30, 60, size=1000))
    ]
    votes = [Vote(i, i % 40, float(random.random() < 0.55)) for i in range(4000)]
    calls: dict[str, Callable[[], object]] = {
        "interval of 5,000 prompts, with ties": lambda: sequential.interval(tied),
        "interval of 5,000 prompts, 13 values": lambda: sequential.interval(averaged),
        "decision on 5,000 prompts": lambda: decide(plan, tied),
        "prompts to go, from 150": lambda: forecast.remaining(plan, {1.0: 82, 0.5: 10, 0.0: 58}),
        "win rates that 1,000 prompts decide": lambda: forecast.decidable(plan),
        "equal length, 1,000 prompts": lambda: equal_length(compared),
        "40 people with 100 votes each": lambda: shrunken(votes),
    }
    return [Row("cost", f"CPU milliseconds: {name}", milliseconds(call), 10) for name, call in calls.items()]


def milliseconds(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(11):
        began = time.process_time()
        call()
        taken.append(1000 * (time.process_time() - began))
    return median(taken[1:])


PARTS: dict[str, tuple[Callable[[Random, int], list[Row]], float]] = {
    "sequence": (sequence, 1),
    "useless": (useless, 2),
    "decisions": (decisions, 1),
    "outlook": (outlook, 0.5),
    "looks": (looks, 2),
    "length": (length_bias, 0.2),
    "sides": (side_clickers, 0.5),
    "unblinding": (telling, 2),
    "flips": (planted_flips, 0.05),
    "arms": (arms, 1),
    "cost": (cost, 1),
}
"""Each part, and how many of the asked repeats it takes: some are dear, some need many."""


def main() -> None:
    args = arguments()
    from bench.machine import machine_facts, publish  # imports torch

    rows: list[Row] = []
    began = time.process_time()
    for name in args.only:
        part, share = PARTS[name]
        rows += part(np.random.default_rng([args.seed, list(PARTS).index(name)]), max(50, round(args.repeats * share)))
        print(f"{name}: {time.process_time() - began:.0f} CPU seconds so far", file=sys.stderr, flush=True)
    seconds = time.process_time() - began
    result = {"rows": [asdict(row) for row in rows], "cpu_seconds": round(seconds, 1), "machine": machine_facts()}
    publish(args.out, result, report(rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("bench/results/loop_simulation"))
    return parser.parse_args()


def report(rows: list[Row]) -> str:
    lines = ["| part | figure | value | simulations | wanted |", "|---|---|---|---|---|"]
    lines += [f"| {row.part} | {row.name} | {row.value:.4g} | {row.repeats} | {row.wanted} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
