"""One rank's value differs from the others', where all must be the same: it has drifted."""

from collections import Counter
from typing import ClassVar

from ..wording import join
from .base import Detector, Finding


class OddRank(Detector, name="odd_rank"):
    """Sees ranks whose value is not that of most, once all have been the same: ranks that never were are no copies of each other.

    With two ranks, or as many on one side as on the other, it cannot be said who is right; all that might have drifted are named.
    """

    SEES: ClassVar = "a rank whose value is not that of the others"
    FACTS: ClassVar = {"ranks": "the ranks that differ, in words", "others": "how many agree, where most do"}
    STATE: ClassVar = ("agreed",)
    BY_RANK: ClassVar = True

    def reset(self) -> None:
        """Forget that the ranks ever agreed."""
        self.agreed = False

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Take rank and value of every rank in turn."""
        both = (value, *others)
        by_rank = dict(zip(map(int, both[::2]), both[1::2], strict=False))
        counts = Counter(by_rank.values()).most_common()
        if len(counts) < 2:
            self.agreed = self.agreed or len(by_rank) > 1
            return None
        if not self.agreed:
            return None
        most = [found for found, count in counts if count == counts[0][1]]
        odd = sorted(rank for rank, found in by_rank.items() if found != most[0] or len(most) > 1)
        named = f"rank {odd[0]}" if len(odd) == 1 else f"ranks {join(map(str, odd[:8]))}{' and more' if len(odd) > 8 else ''}"
        if len(most) > 1:
            return Finding(by_rank[odd[0]], facts={"ranks": f"one of {named}"})
        return Finding(by_rank[odd[0]], facts={"ranks": named, "others": counts[0][1]})
