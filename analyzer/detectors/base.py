"""What a detector is. A new one costs one file in this folder and one test: subclassing registers it under its name.

The way of one sample: the engine groups the samples of a step by rule and module, reduces the heads to one number per input, and
calls ``feed``. The detector answers None (nothing to see) or a Finding. Persistence, hysteresis in time, cooldown and episodes are
the same for every detector and live in ``episodes.Watcher``; a detector only says what it sees at this sample.

Every detector holds O(1) memory, is fed finite values only (unless it ``SEES_NON_FINITE``), in strictly rising step order, and
never raises on a value.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Fact = float | int | str
Setting = float | int | str

COMMON_FACTS: Mapping[str, str] = {
    "place": "module and head in words, or 'the run'",
    "module": "module path",
    "signal": "name of the signal that fired",
    "series": "signal and place in words",
    "step": "step at which it fired",
    "value": "the value that fired",
    "threshold": "the value it was held against",
    "baseline": "what is normal for this series",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number (or word) a detector can be tuned by.

    Args:
        default: used where a rule does not say.
        unit: what the number counts, for people.
        meaning: one clause.
        low: smallest allowed value.
        high: largest allowed value.
        choices: allowed words; the parameter is a word if there are any.
    """

    default: Setting
    unit: str
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def check(self, value: object) -> Setting:
        """Return ``value`` as this parameter's type.

        Raises:
            ValueError: it is not allowed; the message says what is.
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"got {value!r}; allowed: {', '.join(map(repr, self.choices))}")
            return str(value)
        whole = isinstance(self.default, int)
        allowed = f"allowed: {self.allowed}"
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or (whole and value != int(value))
        ):
            raise ValueError(f"got {value!r}; {allowed}")
        if not self.low <= value <= self.high:
            raise ValueError(f"got {value!r}; {allowed}")
        return int(value) if whole else float(value)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        if self.choices:
            return " or ".join(self.choices)
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} of {self.unit} {self.span}"

    @property
    def span(self) -> str:
        """The range that is allowed, in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "(any)"
        if math.isinf(self.high):
            return f"of at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector sees at one sample.

    Args:
        value: the value that stands out.
        threshold: what it was held against.
        baseline: what is normal for this series, where there is such a thing.
        breach: False inside the hysteresis band: keeps an open alert open, never opens one.
        facts: numbers and words for the message; the detector's ``FACTS`` names them.
    """

    value: float
    threshold: float | None = None
    baseline: float | None = None
    breach: bool = True
    facts: Mapping[str, Fact] = field(default_factory=dict)


class Detector(ABC):
    """Base of all detectors. Subclass with ``class Mine(Detector, name="mine")``.

    Class attributes:
        INPUTS: names of the inputs in the order ``feed`` takes them. The first one drives: ``feed`` is called when it arrives.
        OPTIONAL: inputs a rule need not name; they are nan where there is no value.
        PARAMETERS: what a rule may set.
        FACTS: what its findings can say, for message templates.
        SEES: what it looks for, in a few words that follow "is watched for".
        STATE: attributes that make up the state.
        RELEARNS: parameters whose change makes what was learned meaningless; by any other, what was learned is carried over.
        BY_RANK: ``feed`` takes rank and value of every rank in turn, instead of one number.
    """

    NAME: ClassVar[str]
    INPUTS: ClassVar[tuple[str, ...]] = ("value",)
    OPTIONAL: ClassVar[frozenset[str]] = frozenset()
    PARAMETERS: ClassVar[Mapping[str, Parameter]] = {}
    FACTS: ClassVar[Mapping[str, str]] = {}
    SEES: ClassVar[str] = "what its author describes"
    STATE: ClassVar[tuple[str, ...]] = ()
    RELEARNS: ClassVar[frozenset[str]] = frozenset()
    SEES_NON_FINITE: ClassVar[bool] = False
    BY_RANK: ClassVar[bool] = False
    registry: ClassVar[dict[str, type["Detector"]]] = {}

    origin: int = 0
    """First step at which this series was seen; set by the watcher. Growth over a run's life is judged against it."""

    def __init_subclass__(cls, name: str, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        known = Detector.registry.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"the detector name {name!r} is taken by {known.__module__}.{known.__qualname__}; choose another")
        cls.NAME = name
        Detector.registry[name] = cls

    def __init__(self, parameters: Mapping[str, Setting]) -> None:
        """Take checked and complete parameters, as ``complete`` returns them."""
        self.parameters = parameters
        self.reset()

    @classmethod
    def complete(cls, parameters: Mapping[str, Setting]) -> dict[str, Setting]:
        """Return ``parameters`` with the defaults filled in."""
        return {name: parameters.get(name, parameter.default) for name, parameter in cls.PARAMETERS.items()}

    @abstractmethod
    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Take one sample and say what stands out now, if anything."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything learned."""

    def begin(self, step: int, value: float, *others: float) -> None:  # noqa: B027 - most detectors do not ask where a run began
        """Take the very first sample of the series: no warm-up hides it, and ``feed`` may get it again."""

    def rewind(self, step: int) -> None:  # noqa: B027 - most detectors keep levels, which a resume does not change
        """The run resumed at ``step``: forget what lies at or after it, where the order of steps matters."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned, as plain numbers, lists and dicts."""
        return {name: _plain(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        for name in self.STATE:
            if name not in state:  # written before the detector kept it: learnt anew
                continue
            current = getattr(self, name)
            if isinstance(current, deque):
                current.clear()
                current.extend(state[name])
            elif hasattr(current, "load_state_dict"):
                current.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])

    def number(self, name: str) -> float:
        """Return a numeric parameter."""
        return float(self.parameters[name])

    def count(self, name: str) -> int:
        """Return a whole-number parameter."""
        return int(self.parameters[name])


def _plain(value: Any) -> Any:
    if hasattr(value, "state_dict"):
        return value.state_dict()
    return list(value) if isinstance(value, deque) else value
