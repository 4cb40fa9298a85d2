"""How a given value becomes a setting's value, and what is said where it can't."""

import difflib
import math
import re
import reprlib
import types
import typing
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import yaml
from pydantic.fields import FieldInfo

SHOWN_CHARACTERS = 80
MOST_PROBLEMS = 20
MOST_MODULES = 1000
MOST_THREADS = 1024
MOST_RECORD = 100_000  # characters
TRUE, FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a setting and what to do. `setting` is empty where no single one is at fault."""

    setting: str
    what: str
    next_step: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.next_step}".strip()


class ConfigError(ValueError):
    """Settings that don't exist, have a wrong value or contradict each other: one problem or several."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(" ".join(map(str, problems)))
        self.problems = problems


class Kind(StrEnum):
    """What a setting's values are."""

    FLAG = "flag"
    WHOLE = "whole number"
    NUMBER = "number"
    CHOICE = "choice"
    CHOICES = "choices"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a run as people meet it. `empty`: what an absent value stands for, where the engine decides.

    ge, gt, le, lt: bounds of a number, as pydantic names them. takes: what it may be, where type and bounds don't say.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str
    empty: str = ""
    choices: tuple[str, ...] = ()
    takes: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    @property
    def allowed(self) -> str:
        """What the setting may be, to follow "must be"."""
        if self.takes:
            return self.takes
        if self.kind is Kind.FLAG:
            return "true or false"
        if self.kind is Kind.CHOICE:
            return f"one of {', '.join(self.choices)}"
        if self.kind is Kind.CHOICES:
            return f"a list of {', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.kind is Kind.TEXT:
            return "text"
        noun = "a whole number" if self.kind is Kind.WHOLE else "a number"
        if self.ge is not None and self.le is not None:
            return f"{noun} from {plain(self.ge)} to {plain(self.le)}"
        low = f"above {plain(self.gt)} and" if self.gt is not None else f"from {plain(self.ge)}"
        high = f"but not including {plain(self.lt)}" if self.lt is not None else plain(self.le)
        return f"{noun} {low} up to {high}"

    def refusal(self, value: Any) -> Problem:
        """The problem with a value that the setting can't take."""
        return Problem(self.name, f"'{self.name}' must be {self.allowed}, not {shown(value)}.")

    def read(self, value: Any) -> Any:
        """The value as the setting's type where it says one, else the value itself, for the model to refuse.

        Nothing (None, blank text) is the default. Numbers and flags may come as text: a form sends them so, and YAML
        takes 5e-6 for text.
        """
        value = value.strip() if isinstance(value, str) else value
        if value is None or value == "":
            return list(self.default) if isinstance(self.default, list) else self.default
        if self.kind is Kind.FLAG:
            return _flag(value)
        if self.kind in (Kind.WHOLE, Kind.NUMBER):
            return number(value, whole=self.kind is Kind.WHOLE)
        if self.kind is Kind.CHOICE and isinstance(value, bool):
            # YAML reads on, yes, off and no as booleans.
            return next((word for word in (TRUE if value else FALSE) if word in self.choices), value)
        if self.kind is Kind.CHOICES:
            return names(value)
        return value


def describe(name: str, field: FieldInfo) -> Setting:
    """The setting that a field of the model declares."""
    options = [option for option in _options(field.annotation) if option is not types.NoneType]
    kind, choices = _kind(options[0])
    bounds = {
        key: getattr(item, key) for item in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(item, key)
    }
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return Setting(
        name,
        kind,
        field.get_default(call_default_factory=True),
        field.description or "",
        empty=str(extra.get("empty", "")),
        choices=choices or tuple(map(str, typing.cast(list[str], extra.get("choices", ())))),
        takes=str(extra.get("takes", "")),
        **bounds,
    )


def _options(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    if typing.get_origin(annotation) is Literal:
        return Kind.CHOICE, typing.get_args(annotation)
    if typing.get_origin(annotation) is list:
        return Kind.CHOICES, typing.get_args(typing.get_args(annotation)[0])
    return {bool: Kind.FLAG, int: Kind.WHOLE, float: Kind.NUMBER}.get(annotation, Kind.TEXT), ()


def _flag(value: Any) -> Any:
    word = str(value).lower() if isinstance(value, str | int) else ""
    return True if word in TRUE else False if word in FALSE else value


def number(value: Any, *, whole: bool = False) -> Any:
    """The number that `value` is or says; the value itself if it is none, NaN if it is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        read = float(value)
    except ValueError:
        return value
    except OverflowError:
        return math.nan
    if whole:
        return int(read) if read.is_integer() else value
    return read


def names(value: Any) -> Any:
    """A list from a list, or from names in a text between commas; anything else as it is."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return value
    stripped = [item.strip() if isinstance(item, str) else item for item in items]
    return [item for item in stripped if item] if isinstance(value, str) else stripped


def read_modules(value: Any) -> Any:
    """`all-linear`, the name of a module, or a list of names. Raises ValueError."""
    modules = names(value)
    if not isinstance(modules, list) or not 0 < len(modules) <= MOST_MODULES:
        raise ValueError("no list of names, or a very long one")
    if not all(isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() for name in modules):
        raise ValueError("not names")
    if modules == ["all-linear"] or (isinstance(value, str) and len(modules) == 1):
        return modules[0]
    return modules


def read_threads(value: Any) -> str:
    """`auto`, a number of threads, or a record of them: "2, 1@14; 1, 2@3". Raises ValueError.

    In a record each part begins with a count, and "1@14" is one thread from number 14 on. Numbers count the reference's
    micro-batches before the semicolon and optimizer steps after it; one part alone is for both.
    """
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) > MOST_RECORD:
        raise ValueError("neither a number nor a text of that length")
    if text.strip() == "auto":
        return "auto"
    parts = [thread_changes(part) for part in text.split(";")]
    if len(parts) > 2:
        raise ValueError("more than two parts")
    return "; ".join(changes_text(part) for part in parts)


def thread_changes(text: str) -> list[tuple[int, int]]:
    """(first number, threads) of each change in one part of a record. Raises ValueError."""
    changes: list[tuple[int, int]] = []
    for place, word in enumerate(text.split(",")):
        count, at, first = word.strip().partition("@")
        number = int(first) if at else 1
        if not 1 <= int(count) <= MOST_THREADS or bool(at) != bool(place) or (place and number <= changes[-1][0]):
            raise ValueError(f"{word.strip()!r} isn't a change")
        changes.append((number, int(count)))
    return changes


def changes_text(changes: Iterable[tuple[int, int]]) -> str:
    """`thread_changes` as text."""
    return ", ".join(f"{count}@{first}" if place else str(count) for place, (first, count) in enumerate(changes))


def plain(value: float | None) -> str:
    """A number as people write it; nothing for None."""
    if value is None:
        return ""
    # 5e-6, not 5e-06.
    return f"{int(value):,}" if value == int(value) else re.sub(r"e-0+", "e-", f"{value:g}")


def shown(value: Any) -> str:
    """A value as a message quotes it: on one line, cut short, the same whether it came as text or not."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int) and value.bit_length() > 128:
        text = f"{'-' if value < 0 else ''}10^{int(value.bit_length() * math.log10(2))}"
    elif isinstance(value, str | int | float):
        text = str(value)
    else:
        text = _nested(value)
    return f"“{one_line(text)}”"


def one_line(text: str) -> str:
    """The text cut short, without line breaks and what no encoding has."""
    short = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return "".join(letter if letter.isprintable() else " " for letter in short)


def _nested(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return f"a {type(value).__name__}"


def nearest(name: str, known: Collection[str]) -> str:
    """“Did you mean …?”, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else ""


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`key=value` words, as `--set` takes them, as a mapping; values are YAML, so numbers and lists are understood.

    Raises ConfigError for a word without an equals sign.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(
                Problem("", f"--set takes key=value, not {shown(setting)}.", "For example: --set learning_rate=5e-6")
            )
        values[key.strip()] = _parse_value(text)
    return values


def _parse_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that doesn't exist, thousands of digits
        return text
