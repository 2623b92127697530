"""Splits that never put one speaker or recording on two sides, the same on every machine and for ever."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable


def split_groups(
    members: Iterable[tuple[str, str]], valid: float, test: float, *, several_labels: bool = False
) -> dict[str, str]:
    """Give every group to train, valid or test, class by class, so that each class is in each split where it can be.

    Args:
        members: (label, group) of every clip.
        valid: the share of each class's groups for validation.
        test: the share for the test.
        several_labels: a clip may have several. Then the rarest classes come first, and one group of each is for
            training before any is given away: another class would have it for the test.

    Groups are ordered by a hash of their name, not by a generator: adding a class never moves another's groups.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for label, group in members:
        groups[label].add(group)
    split: dict[str, str] = {}
    order = sorted(groups, key=lambda label: (len(groups[label]) if several_labels else 0, label))
    named = {label: sorted(groups[label], key=lambda name: hashlib.sha256(name.encode()).digest()) for label in order}
    for names in named.values() if several_labels else ():
        if not any(name in split for name in names):
            split[names[-1]] = "train"
    for names in named.values():
        for side, share in (("test", test), ("valid", valid)):
            # A class of one or two groups is all training; with three or more, each side gets at least one.
            wanted = max(1, round(share * len(names))) if share and len(names) > 2 else 0
            wanted -= sum(split.get(name) == side for name in names)
            for name in [name for name in names if name not in split][: max(0, wanted)]:
                split[name] = side
        for name in names:
            split.setdefault(name, "train")
    return split
