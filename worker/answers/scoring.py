"""What a checkpoint thinks of the answers (`python -m worker.dpo score`), each scored once beside another one to the same prompt.

The plan's `scoring` has `model` (the engine's arguments), `prompts` (a file of {id, prompt} a line), `known` (a file of answers that
were stored before: {prompt_id, source, sample, text}), a `title`, and the files to be written: `data` for the engine, its `scores`, and
`index`, which says of each line of the data whose answers its two sides are, as [prompt, source, sample].
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from worker.answers import engine
from worker.answers.told import Progress

Place = tuple[int, int, int]
Texts = dict[str, list[Place]]


def score(plan: Mapping[str, Any], *, stop: threading.Event) -> None:
    """Score what isn't scored yet. Raises Failed with the engine's own reason and exit code, Stopped after SIGTERM."""
    scoring = plan["scoring"]
    file, index, scores = (Path(scoring[name]) for name in ("data", "index", "scores"))
    pairs = list(_pairs(_lines(Path(scoring["prompts"])), _texts(scoring, plan["sources"])))
    if not pairs:
        return
    data = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair, _ in pairs)
    if not file.exists() or file.read_text(encoding="utf-8") != data:  # more answers came since
        scores.unlink(missing_ok=True)
        index.write_text(json.dumps([sides for _, sides in pairs]))
        file.write_text(data, encoding="utf-8")
    arguments = ["--data", str(file), "--out", str(scores), "--beta", "1"]
    told = {"title": scoring["title"], "arguments": [*scoring["model"], *arguments]}
    steps = Progress(0, len(pairs))
    steps.say("state", stage="scoring", total_steps=len(pairs))
    engine.run("score", told, on_step=steps.there, progress=steps, stop=stop)


def _texts(scoring: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> dict[int, Texts]:
    """The different answers to each prompt, in the order of their places, and where each stands."""
    answers: dict[Place, str] = {}
    for one in _lines(Path(scoring["known"])):
        answers[one["prompt_id"], one["source"], one["sample"]] = one["text"]
    for source in sources:
        ids = json.loads(Path(source["lines"]).read_text())
        for one in _lines(Path(source["out"])):
            with suppress(KeyError, IndexError, TypeError):
                if one["finish"] != "failed":
                    place = (ids[one["line"] - 1], source["number"], one["sample"])
                    answers.setdefault(place, one["completion"])
    by_prompt: dict[int, Texts] = {}
    for place, text in sorted(answers.items()):
        if text.strip():
            by_prompt.setdefault(place[0], {}).setdefault(text, []).append(place)
    return by_prompt


def _pairs(
    prompts: Iterator[dict[str, Any]], texts: Mapping[int, Texts]
) -> Iterator[tuple[dict[str, Any], list[list[Place]]]]:
    """The answers of each prompt two by two; an odd one beside the first. A prompt with one answer has nothing to choose from."""
    for prompt in prompts:
        of_prompt = texts.get(prompt["id"], {})
        written = list(of_prompt)
        if len(written) < 2:
            continue
        for first in range(0, len(written), 2):
            one, other = written[first], written[first + 1] if first + 1 < len(written) else written[0]
            pair = {"prompt": prompt["prompt"], "chosen": _answer(one), "rejected": _answer(other)}
            yield pair, [of_prompt[one], of_prompt[other]]


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that may not be there, or may end in a torn one."""
    with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError):
                one = json.loads(line)
                if isinstance(one, dict):
                    yield one
