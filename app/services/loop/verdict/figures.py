"""From what was judged to the whole verdict. Pure, and a second of work for a thousand prompts: never within a transaction."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from app.services.loop.verdict import evidence
from app.services.loop.verdict.evidence import Ballot, Evidence, Pair
from app.services.loop.verdict.shape import (
    AtEqualLength,
    Guessed,
    Interval,
    Look,
    OfPerson,
    OfSides,
    OfSpeed,
    Part,
    Telling,
    ToGo,
    Verdict,
    Without,
)
from app.stats.loop import decision, equal_length, forecast, people, sequential, unblinding, win_rate
from app.stats.loop.decision import Decision, Goal, Plan
from app.stats.loop.equal_length import Compared
from app.stats.loop.estimate import tally
from app.stats.loop.people import Timing
from app.stats.loop.win_rate import Vote

LOOKS = 60  # of the chart over time
MOST_PARTS = 30


def plan_of(given: Evidence) -> Plan:
    """As it was fixed, its maximum being the prompts that can count."""
    row, prompts = given.evaluation, sum(not pair.left_out for pair in given.pairs)
    maximum = max(1, min(row.maximum, prompts))
    return Plan(goal=Goal(row.goal), maximum=maximum, margin=row.margin, confidence=row.confidence)


def compute(given: Evidence, *, as_of: datetime) -> Verdict:
    """The verdict on everything that counts by now. Raises ValueError for a plan that can't be carried out."""
    row, plan = given.evaluation, plan_of(given)
    counted = evidence.in_order(given.pairs)
    values = [_value(pair) for pair in counted]
    decided = decision.decide(plan, tally(values))
    counting = {pair.prompt_id for pair in counted}
    ballots = [ballot for ballot in given.ballots if ballot.prompt_id in counting]
    votes = [Vote(ballot.prompt_id, ballot.user_id, ballot.value) for ballot in ballots]
    parts = _parts(counted)
    return Verdict(
        word=decided.word,
        stop=decided.stop,
        goal=plan.goal,
        bar=plan.bar,
        margin=plan.margin,
        confidence=plan.confidence,
        maximum=plan.maximum,
        win_rate=Interval.of(decided.win_rate),
        below_half=decided.below_half,
        prompts=len(counted),
        planned=len(given.pairs),
        left_out=evidence.left_out(given.pairs),
        same=sum(pair.same for pair in counted),
        won=sum(value > 0.5 for value in values),
        lost=sum(value < 0.5 for value in values),
        tied=sum(value == 0.5 for value in values),
        judgments=len(given.ballots),
        people=len({ballot.user_id for ballot in given.ballots}),
        to_go=_to_go(given, plan, decided, values),
        equal_length=_equal_length(counted, seed=row.seed),
        longer_by=sum(pair.longer_by for pair in counted) / len(counted) if counted else None,
        parts_by="import" if parts else "",
        parts=parts,
        by_person=[
            OfPerson(user_id=_id(one.person), raw=one.raw, win_rate=Interval.of(one.win_rate))
            for one in people.shrunken(votes)
        ],
        without=[
            Without(user_id=_id(one.person), votes=one.votes, win_rate=Interval.of(one.win_rate), tips=one.tips)
            for one in _without(votes, counted)
        ],
        sides=_sides(given.ballots),
        speed=_speed(given.ballots),
        guessed=_guessed(given),
        telling=_telling(plan, counted),
        looks=_looks(values, plan.confidence),
        picked_by_eval=given.picks_best and any(pair.is_eval for pair in counted),
        basis=given.basis,
        as_of=as_of,
    )


def _to_go(given: Evidence, plan: Plan, decided: Decision, values: Sequence[float]) -> ToGo | None:
    """In judgments: prompts that identical answers settle cost none, each other one as many as the plan wants of it."""
    if decided.stop is not None or not values or not evidence.is_open(given.evaluation):
        return None
    remaining = forecast.remaining(plan, tally(values), seed=given.evaluation.seed % 2**32)
    if remaining is None:
        return None
    asked = [pair for pair in given.pairs if not pair.left_out]
    price = given.evaluation.votes * sum(not pair.same for pair in asked) / len(asked) if asked else 1.0

    def judgments(prompts: int | None) -> int | None:
        return None if prompts is None else round(prompts * price)

    return ToGo(
        median=judgments(remaining.median),
        low=judgments(remaining.low),
        high=judgments(remaining.high),
        goal=remaining.goal,
        worse=remaining.worse,
        maximum=max(0.0, remaining.maximum),
    )


def _equal_length(counted: Sequence[Pair], *, seed: int) -> AtEqualLength | None:
    rows = [Compared(pair.prompt_id, _value(pair), float(pair.longer_by)) for pair in counted]
    figure = equal_length.equal_length(rows, seed=seed % 2**32) if rows else None
    if figure is None:
        return None
    return AtEqualLength(win_rate=Interval.of(figure.win_rate), slope=Interval.of(figure.slope))


def _parts(counted: Sequence[Pair]) -> list[Part]:
    """Win rates by import; none where all prompts came with one."""
    named = win_rate.by_tag((part, _value(pair)) for pair in counted for part in pair.parts)
    if len(named) < 2:
        return []
    return [Part(name=str(name), win_rate=Interval.of(rate)) for name, rate in list(named.items())[:MOST_PARTS]]


def _without(votes: Sequence[Vote], counted: Sequence[Pair]) -> list[people.Without]:
    """Identical answers were nobody's vote, so they stay when anybody is left out."""
    if len({vote.person for vote in votes}) < 2:
        return []
    same = [Vote(pair.prompt_id, None, 0.5) for pair in counted if pair.same]
    return [one for one in people.without_each([*votes, *same]) if one.person is not None]


def _sides(ballots: Sequence[Ballot]) -> list[OfSides]:
    chosen = [(ballot.user_id, ballot.chose_left) for ballot in ballots if ballot.chose_left is not None]
    return [
        OfSides(
            user_id=_id(one.person),
            left=Interval(
                value=one.left.share, low=one.left.low or 0.0, high=one.left.high or 1.0, count=one.left.total
            ),
            clicks_a_side=one.clicks_a_side,
        )
        for one in people.sides(chosen)
    ]


def _speed(ballots: Sequence[Ballot]) -> list[OfSpeed]:
    timed = [
        Timing(ballot.user_id, ballot.seconds, ballot.words)
        for ballot in ballots
        if ballot.seconds is not None and ballot.seconds >= 0
    ]
    return [
        OfSpeed(user_id=_id(one.person), judgments=one.judgments, seconds=one.seconds, unread=one.unread)
        for one in people.speed(timed)
    ]


def _guessed(given: Evidence) -> Guessed | None:
    if not given.guesses:
        return None
    told = unblinding.unblinding(given.guesses)
    return Guessed(
        accuracy=Interval.of(told.accuracy),
        p_value=told.p_value,
        sign=told.sign,
        guesses=told.guesses,
        chose_new=told.chose_new,
        chose_old=told.chose_old,
    )


def _telling(plan: Plan, counted: Sequence[Pair]) -> Telling | None:
    telling = [pair for pair in counted if pair.tells and not pair.same]
    if not telling:
        return None
    rest = decision.decide(plan, tally(_value(pair) for pair in counted if pair.same or not pair.tells))
    kinds = Counter(kind for pair in telling for kind in pair.tells)
    return Telling(
        pairs=len(telling), kinds=dict(kinds.most_common()), word=rest.word, win_rate=Interval.of(rest.win_rate)
    )


def _looks(values: Sequence[float], confidence: float) -> list[Look]:
    return [
        Look(prompts=one.count, value=one.value, low=one.low, high=one.high)
        for one in sequential.trajectory(values, looks=LOOKS, confidence=confidence)
        if one.value is not None
    ]


def _value(pair: Pair) -> float:
    assert pair.value is not None  # of those that count
    return pair.value


def _id(person: object) -> int:
    assert isinstance(person, int)
    return person
