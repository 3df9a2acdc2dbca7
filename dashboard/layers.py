"""Which layer and which of its signals a page shows when the reader has not said."""

from collections.abc import Collection

from ..storage.base import Store
from ..storage.records import Run
from .reading import shown_alerts, signals_and_layers
from .signals import DISTRIBUTIONS, FIRST_SIGNAL, offered
from .verdict import leading


def usual_layer(store: Store, run: Run) -> str | None:
    """Return the layer that a page opens with: that of the leading alert, else the first whose alignment is measured, else the
    first; None before any is measured."""
    _, modules = signals_and_layers(store, run.id)
    worst = leading(shown_alerts(store, run))
    if worst is not None and worst.module in modules:
        return worst.module
    aligned = {series.key.module for series in store.series(run.id, signal=FIRST_SIGNAL)}
    return next((module for module in modules if module in aligned), modules[0] if modules else None)


def measured(store: Store, run: Run, module: str) -> list[str]:
    """Return the signals of a layer that can be drawn as lines, in the order in which the page offers them."""
    return offered({series.key.signal for series in store.series(run.id, module=module)} - DISTRIBUTIONS)


def usual_signal(store: Store, run: Run, module: str, signals: Collection[str]) -> str:
    """Return the signal of a layer that a page opens with: that on which the layer's leading alert rests, else the first."""
    worst = leading([alert for alert in shown_alerts(store, run) if alert.module == module])
    evidence = [piece.key.signal for piece in worst.evidence] if worst is not None else []
    return next((signal for signal in [*evidence, FIRST_SIGNAL, *signals] if signal in signals), FIRST_SIGNAL)
