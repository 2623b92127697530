"""Splits that never put one speaker or recording on two sides, the same on every machine and for ever."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable


def split_groups(members: Iterable[tuple[str, str]], valid: float, test: float) -> dict[str, str]:
    """Give every group to train, valid or test, class by class, so that each class is in each split where it can be.

    Args:
        members: (label, group) of every clip.
        valid: the share of each class's groups for validation.
        test: the share for the test.

    Groups are ordered by a hash of their name, not by a generator: adding a class never moves another's groups.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for label, group in members:
        groups[label].add(group)
    split: dict[str, str] = {}
    for label in sorted(groups):
        names = sorted(groups[label], key=lambda name: hashlib.sha256(name.encode()).digest())
        for side, share in (("test", test), ("valid", valid)):
            # A class of one or two groups is all training; with three or more, each side gets at least one.
            wanted = max(1, round(share * len(names))) if share and len(names) > 2 else 0
            wanted -= sum(split.get(name) == side for name in names)
            for name in [name for name in names if name not in split][: max(0, wanted)]:
                split[name] = side
        for name in names:
            split.setdefault(name, "train")
    return split
