"""Which clips share a pack: bin packing of token counts, planned on the host before an epoch begins."""

from bisect import bisect_left, insort
from collections.abc import Sequence

Pack = list[int]  # places of clips in the order that was given


def next_fit(sizes: Sequence[int], budget: int) -> list[Pack]:
    """Clips in order; a clip that the open pack has no room for closes it (ElasticAST as published; papers.md 5.1).

    A clip above the budget gets a pack of its own.
    """
    packs: list[Pack] = []
    room = -1
    for place, size in enumerate(sizes):
        if size > room:
            packs.append([])
            room = budget
        packs[-1].append(place)
        room -= size
    return packs


def best_fit(sizes: Sequence[int], budget: int, window: int) -> list[Pack]:
    """Within each `window` of clips the largest first, each into the fullest pack that has room for it.

    What a window leaves less than 98 % full stays open for the next one, so that only the last packs are poorly filled.
    A clip above the budget gets a pack of its own.
    """
    done: list[Pack] = []
    packs: list[Pack] = []
    spare: list[tuple[int, int]] = []  # (room, place in packs), ascending
    for first in range(0, len(sizes), window):
        chosen = range(first, min(first + window, len(sizes)))
        for place in sorted(chosen, key=lambda p: -sizes[p]):
            found = bisect_left(spare, (sizes[place], 0))
            if found < len(spare):
                room, number = spare.pop(found)
            else:
                room, number = budget, len(packs)
                packs.append([])
            packs[number].append(place)
            insort(spare, (room - sizes[place], number))
        open_packs = [(room, number) for room, number in spare if room > 0.02 * budget]
        done += [packs[number] for room, number in spare if room <= 0.02 * budget]
        packs = [packs[number] for _, number in open_packs]
        spare = [(room, number) for number, (room, _) in enumerate(open_packs)]
    return done + packs


def deal(pack: Pack, sizes: Sequence[int], world: int) -> list[Pack]:
    """Share a pack among workers, the largest clips first, each to the worker with the fewest tokens.

    With fewer clips than workers some shares are empty.
    """
    shares: list[Pack] = [[] for _ in range(world)]
    held = [0] * world
    for place in sorted(pack, key=lambda p: -sizes[p]):
        lightest = min(range(world), key=lambda w: (held[w], len(shares[w])))
        shares[lightest].append(place)
        held[lightest] += sizes[place]
    return shares


def fill(sizes: Sequence[int], packs: list[Pack], budget: int) -> float:
    """Share of the token slots of all packs that hold a token; a pack above the budget counts as full."""
    held = [sum(sizes[place] for place in pack) for pack in packs]
    return sum(held) / sum(max(budget, tokens) for tokens in held) if held else 1.0
