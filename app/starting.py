"""A program's start: what it imports stays for good."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# After so many new objects Python looks through the new ones for garbage; after so many such looks through older ones. A batch of an
# import has some ten thousand objects, none of them garbage, and by default they are looked through seventy times, a quarter of its time.
LOOKS = (20_000, 10, 10)


@contextmanager
def importing() -> Iterator[None]:
    """Imports within make next to no garbage. Python would look through them for it again and again, a fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor is it looked through later
        gc.set_threshold(*LOOKS)
        gc.enable()
