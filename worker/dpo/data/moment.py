"""The time that a chat template writes: one for the whole run, so that it can be resumed and repeated."""

import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from transformers import PreTrainedTokenizerBase as Tokenizer

_ATTRIBUTE = "prefloop_moment"
_CALL = "strftime_now"
# What a format may ask for, as `strftime` has it, and without a leading zero.
_DIRECTIVES = "aAwdbBmyYHIpMSfzZjUWcxXGuVeDFTRhnt"
_UNPADDED = "dmHIMSjy"


def writes_time(tokenizer: Tokenizer) -> bool:
    """Whether a chat template of the tokenizer asks what time it is."""
    templates = tokenizer.chat_template
    texts = list(templates.values()) if isinstance(templates, dict) else [templates or ""]
    return any(_CALL in text for text in texts)


def fix(tokenizer: Tokenizer, moment: datetime) -> None:
    """Have the tokenizer's templates write this time from now on."""
    setattr(tokenizer, _ATTRIBUTE, moment)


def noted(file: Path, *, anew: bool) -> datetime:
    """The time that a file notes, by this machine's clock and zone; now, which is then noted, where it doesn't or `anew` says so.

    Raises OSError.
    """
    if not anew:
        with suppress(OSError, ValueError):
            return datetime.fromisoformat(file.read_text(encoding="utf-8").strip())
    # Without a zone, as transformers' own function has it.
    now = datetime.now().astimezone().replace(microsecond=0, tzinfo=None)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(now.isoformat(), encoding="utf-8")
    part.replace(file)
    return now


def fixed(tokenizer: Tokenizer) -> datetime | None:
    """The time that was fixed, where a template writes one."""
    moment: datetime | None = getattr(tokenizer, _ATTRIBUTE, None)
    return moment if moment is not None and writes_time(tokenizer) else None


def at_its_time(tokenizer: Tokenizer, template: str) -> str:
    """The template with the fixed time in it; itself where none is fixed, or where it asks for none."""
    moment = fixed(tokenizer)
    if moment is None or _CALL not in template:
        return template
    # A macro of the template's own stands before transformers' function of that name.
    written = "".join(
        f"|replace({_quoted(asked)}, {_quoted(moment.strftime(meant))})" for asked, meant in _replacements()
    )
    hidden = "|replace('%%', '\\x00')"
    shown = "|replace('\\x00', '%')"
    # The last expression keeps the template's own first line break.
    return (
        f"{{% macro {_CALL}(format) %}}{{{{ format{hidden}{written}{shown} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"
    )


def _replacements() -> list[tuple[str, str]]:
    """(what a format says, what this system's `strftime` is asked for)."""
    plain = [(f"%{letter}", f"%{letter}") for letter in _DIRECTIVES]
    return [(f"%-{letter}", f"%-{letter}") for letter in _UNPADDED] + plain


def _quoted(text: str) -> str:
    return "'" + re.sub(r"([\\'])", r"\\\1", text).replace("\n", "\\n").replace("\t", "\\t") + "'"
