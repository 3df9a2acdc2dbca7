"""What every integration takes as keywords: the arguments of ``foreshock.watch()``, without those that the framework knows."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from ..interventions.base import Intervention
from ..probes.base import Probe
from ..storage import Store
from ..storage.records import Alert
from ..storage.transfer.mirrors.base import Mirror


class WatchOptions(TypedDict, total=False):
    """Keywords of ``foreshock.watch()``; its docstring says what they mean."""

    run: str | None
    project: str | None
    store: str | os.PathLike[str] | Store | None
    probes: str | Sequence[str | Probe] | None
    every: int | None
    budget: float | None
    compiled: Literal["taps", "eager", "weights"] | None
    rules: str | Path | Mapping[str, Any] | None
    notify: str | Sequence[str]
    on_alert: Callable[[Alert], object] | None
    interventions: str | Sequence[str | Intervention]
    mirror: str | Mirror | Sequence[str | Mirror]
    resume: str | None
    config: str | Path | None
    tags: Sequence[str]
    meta: Mapping[str, Any] | None


def checked(options: WatchOptions, who: str) -> WatchOptions:
    """Return the options, before any training has begun.

    Raises:
        TypeError: there is no such option.
    """
    allowed = WatchOptions.__annotations__
    for name in options:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(allowed)}"
            raise TypeError(f"{who} takes what foreshock.watch() takes, and that knows no {name!r}; {hint}")
    return options
