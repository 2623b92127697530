"""Progress of long work: how much is done, how fast, how long still."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_EVERY = 10.0  # Seconds.


def track(items: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """Yield `items` and show a bar on stderr; in a log file a line every ten seconds instead."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, unit=unit, file=sys.stderr, mininterval=0.2, dynamic_ncols=True)
        return
    began = told = time.monotonic()
    for number, item in enumerate(items):
        if (now := time.monotonic()) - told >= _EVERY:
            left = (total - number) * (now - began) / max(1, number)
            say(f"{what}: {number:,} of {total:,} {unit}s, about {left:.0f} s left")
            told = now
        yield item


def say(text: str) -> None:
    """One line for a person who watches, at once also through a pipe."""
    print(text, file=sys.stderr, flush=True)
