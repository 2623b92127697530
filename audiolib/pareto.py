"""Accuracy against cost: the models and shapes that nothing beats, and the one to use within limits."""

import polars as pl

from audiolib.errors import AudiolibError

COSTS = {"ms": "ms per clip", "gmac": "10^9 multiply-accumulates per clip", "mib": "MiB of tensors per clip"}


def front(cells: pl.DataFrame, cost: str) -> pl.DataFrame:
    """The cells that no other cell beats: none is as cheap and better, or as good and cheaper; cheapest first.

    Args:
        cells: with columns `value` and the cost.
        cost: `ms`, `gmac` or `mib`.
    """
    ordered = cells.filter(pl.col(cost).is_not_null()).sort([cost, "value"], descending=[False, True])
    best_so_far = pl.col("value").cum_max().shift(1)
    return ordered.filter(best_so_far.is_null() | (pl.col("value") > best_so_far))


def pick(
    cells: pl.DataFrame,
    *,
    max_ms: float | None = None,
    max_gmac: float | None = None,
    max_mib: float | None = None,
    min_score: float | None = None,
) -> pl.DataFrame:
    """Cells within limits, the one to use first: the best, or with `min_score` alone the quickest.

    Raises:
        AudiolibError: no cell is within the limits; says what the nearest ones reach.
    """
    if cells.is_empty():
        raise AudiolibError("nothing was measured of this model")
    limits = {"ms": max_ms, "gmac": max_gmac, "mib": max_mib}
    within = cells
    for cost, limit in limits.items():
        if limit is not None:
            within = within.filter(pl.col(cost) <= limit)
    if within.is_empty():
        asked = [cost for cost, limit in limits.items() if limit is not None]
        if unknown := [cost for cost in asked if cells[cost].null_count() == len(cells)]:
            raise AudiolibError(f"{' and '.join(unknown)} of these were not measured; choose by another limit")
        least = ", ".join(f"{cells[cost].min():.3g} {cost}" for cost in asked)
        each = ", each in a cell of its own" if len(asked) > 1 else ""
        raise AudiolibError(f"nothing that was measured is that cheap; the least is {least}{each}")
    if min_score is not None:
        good = within.filter(pl.col("value") >= min_score)
        if good.is_empty():
            raise AudiolibError(
                f"nothing within the limits reaches {min_score:g}; the best is {within['value'].max():.3f}"
            )
        within = good
    if min_score is not None and all(limit is None for limit in limits.values()):
        return within.sort(["ms", "value"], descending=[False, True], nulls_last=True)
    return within.sort(["value", "ms"], descending=[True, False], nulls_last=True)
