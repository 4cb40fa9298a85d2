"""Text that a person typed into a field: what any of it must fulfil."""

from app.errors import Invalid


def check(text: str, *, what: str, field: str, longest: int) -> None:
    """Raises Invalid for a text of more than `longest` characters, or with one that databases can't store."""
    if len(text) > longest:
        raise Invalid(f"The {what} is {len(text):,} characters long.", f"Keep it to {longest:,}.", field=field)
    if "\0" in text:
        raise Invalid(f"The {what} contains a NUL character.", "Remove it.", field=field)
