"""The names that ``watch(interventions=[...])`` takes."""

import difflib
from collections.abc import Sequence
from importlib import import_module

from .base import Intervention

# In the order in which they act: first what keeps evidence, then what is mild, then what is not.
_WHERE = {
    "capture": ("capture", "Capture"),
    "checkpoint": ("checkpoint", "Checkpoint"),
    "skip_step": ("skip_step", "SkipStep"),
    "lower_learning_rate": ("learning_rate", "LowerLearningRate"),
    "stabilized_attention": ("attention", "StabilizedAttention"),
    "rollback": ("rollback", "Rollback"),
    "stop": ("stop", "Stop"),
}
NAMES = tuple(_WHERE)


def choose(wanted: str | Sequence[str | Intervention]) -> list[Intervention]:
    """Return the interventions asked for, in the order in which they act; objects of one's own come last.

    Args:
        wanted: names, or objects where something is to be set.

    Raises:
        TypeError: something is neither.
        ValueError: there is no intervention of that name, or it is asked for twice.
    """
    given = [wanted] if isinstance(wanted, (str, Intervention)) else list(wanted)
    chosen: list[Intervention] = []
    for one in given:
        if isinstance(one, str):
            one = _named(one)
        if not isinstance(one, Intervention):
            raise TypeError(f"interventions= takes names and Intervention objects; got {one!r}. Names: {', '.join(NAMES)}")
        if any(other.name == one.name for other in chosen):
            raise ValueError(f"intervention {one.name!r} is asked for twice; leave one out")
        chosen.append(one)
    return sorted(chosen, key=lambda one: NAMES.index(one.name) if one.name in NAMES else len(NAMES))


def _named(name: str) -> Intervention:
    if name not in _WHERE:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no intervention {name!r}; {hint}there are: {', '.join(NAMES)}")
    file, kind = _WHERE[name]
    made: Intervention = getattr(import_module(f".{file}", __package__), kind)()
    return made
