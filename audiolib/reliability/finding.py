"""One promise, and how often it was tried and held."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`held` of `tried` trials kept the promise; `detail` says what was tried, or what failed."""

    promise: str
    tried: int
    held: int
    detail: str
