"""Which series are meant: patterns of signals and modules, as in a shell (``weight.*``, ``h.0.*``)."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..records import SeriesKey


def is_run_wide(key: SeriesKey) -> bool:
    """Return whether a series is about the whole run: no module, no head, no single rank."""
    return not key.module and key.head < 0 and key.rank < 0


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns; none given means every one. ``run_wide`` adds what is about the whole run, and alone means nothing else."""

    signals: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    run_wide: bool = False

    @property
    def everything(self) -> bool:
        """Return whether nothing is left out."""
        return not (self.signals or self.modules or self.run_wide)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, SeriesKey):
            return False
        if self.run_wide and (is_run_wide(key) or not (self.signals or self.modules)):
            return is_run_wide(key)
        return _matches(key.signal, self.signals) and _matches(key.module, self.modules)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    wanted = tuple(patterns)
    return not wanted or any(fnmatchcase(name, pattern) for pattern in wanted)
