"""Which of their names means which of our signals. A table; everything that is not in it keeps its own name."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..packages import TransferError

USUAL: Mapping[str, tuple[str, ...]] = {
    "loss": (
        "train/loss",
        "loss/train",
        "train_loss",
        "training/loss",
        "training_loss",
        "train/train_loss",
        "train/total_loss",
        "train/loss_step",
        "train_loss_step",
        "loss/train/total",
        "train/CrossEntropyLoss",
        "loss_metrics/global_avg_loss",
        "train/samples/train_loss",
        "losses/train",
        "lm loss",
        "batch_loss",
        "total_loss",
    ),
    "gradient.norm": (
        "train/grad_norm",
        "grad_norm",
        "gradient_norm",
        "train/gradient_norm",
        "grad/norm",
        "gradients/norm",
        "grad-norm",
        "global_grad_norm",
        "train/global_grad_norm",
        "optim/total_grad_norm",
        "total_grad_norm",
        "l2_norm/grad/global",
    ),
    "learning_rate": (
        "train/learning_rate",
        "train/lr",
        "lr",
        "learning-rate",
        "optim/learning_rate",
        "optim/learning_rate_group0",
        "optim/lr",
        "train/samples/lr",
        "charts/learning_rate",
        "lr-AdamW",
        "lr-Adam",
        "lr-SGD",
        "lr-AdamW/group0",
        "lr-DecoupledAdamW/group0",
    ),
}
"""Signal: names it goes by elsewhere, the likelier first. Capitals make no difference."""

ASIDE = "imported."
"""Put before a name that is one of our signals' while another was given that signal."""


@dataclass(slots=True)
class Naming:
    """What names became.

    Attributes:
        signals: our name for each of theirs.
        clashes: a sentence for each name that lost its signal to another.
    """

    signals: dict[str, str]
    clashes: list[str] = field(default_factory=list)

    @property
    def mapped(self) -> dict[str, str]:
        """Those whose name changed."""
        return {theirs: ours for theirs, ours in self.signals.items() if theirs != ours}


def parse_maps(given: Iterable[str]) -> dict[str, str]:
    """Return {their name: signal} from ``SIGNAL=THEIRNAME`` texts.

    Raises:
        TransferError: a text has another form, or a name or signal comes twice.
    """
    wanted: dict[str, str] = {}
    for text in given:
        signal, equals, theirs = text.partition("=")
        if not (signal.strip() and equals and theirs.strip()):
            raise TransferError(f"--map {text!r}: give SIGNAL=THEIRNAME, for example --map loss=my/training-loss")
        signal, theirs = signal.strip(), theirs.strip()
        if theirs in wanted or signal in wanted.values():
            raise TransferError(f"--map {text!r}: {theirs!r} or {signal!r} is in another --map already; each may be given once")
        wanted[theirs] = signal
    return wanted


def check_maps(wanted: Mapping[str, str], there: Sequence[str]) -> None:
    """See to it that every name in a ``--map`` is there.

    Raises:
        TransferError: one is not; the message has the nearest ones.
    """
    for theirs, signal in wanted.items():
        if theirs not in there:
            near = difflib.get_close_matches(theirs, there, n=5, cutoff=0.3) or list(there[:5])
            raise TransferError(
                f"--map {signal}={theirs}: nothing is called {theirs!r} there. Near it: {', '.join(near) or 'nothing'}"
            )


def resolve(there: Sequence[str], wanted: Mapping[str, str], known: Mapping[str, str] | None = None) -> Naming:
    """Give each name a signal: by ``--map``, as it was given when the run was imported before, or by the table.

    Where several could be one signal, the first of these has it: the one asked for, the one before, the signal's own name,
    the one that comes first in the table. The others keep their names.
    """
    signals = {theirs: signal for theirs, signal in (dict(known or {}) | dict(wanted)).items() if theirs in there}
    for theirs in [theirs for theirs in signals if theirs not in wanted and signals[theirs] in wanted.values()]:
        del signals[theirs]
    clashes: list[str] = []
    folded: dict[str, list[str]] = {}
    for theirs in there:
        folded.setdefault(theirs.casefold(), []).append(theirs)
    for signal, usual in USUAL.items():
        candidates = [signal] if signal in there else []
        candidates += [theirs for name in (signal, *usual) for theirs in folded.get(name.casefold(), []) if theirs != signal]
        free = [theirs for theirs in dict.fromkeys(candidates) if theirs not in signals]
        holders = [theirs for theirs, ours in signals.items() if ours == signal]
        if not holders and free:
            holders.append(free.pop(0))
            signals[holders[0]] = signal
        clashes += [
            f"{theirs!r} could be {signal!r} too, which is {holders[0]!r}; it is kept as {_own(theirs, signals)!r}"
            for theirs in free
        ]
    for theirs in there:
        if theirs not in signals:
            signals[theirs] = _own(theirs, signals)
    return Naming({theirs: signals[theirs] for theirs in there}, clashes)


def _own(theirs: str, signals: Mapping[str, str]) -> str:
    """Return a name's own name, out of the way of one that was given to another."""
    name = theirs
    while name in signals.values():
        name = ASIDE + name
    return name
