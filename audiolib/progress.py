"""Progress of long work: how much is done, how fast, how long still."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """Yield `items` and show a bar on stderr; in a log file a line every ten seconds instead of ten a second."""
    from tqdm import tqdm

    interactive = sys.stderr.isatty()
    yield from tqdm(
        items,
        desc=what,
        total=total,
        unit=unit,
        file=sys.stderr,
        mininterval=0.2 if interactive else 10,
        leave=interactive,
        dynamic_ncols=interactive,
    )


def say(text: str) -> None:
    """One line for a person who watches, at once also through a pipe."""
    print(text, file=sys.stderr, flush=True)
