"""An alert as an example: for a test of a channel, and for the documents. It is of no run."""

import math

from ...analyzer.wording import number
from ...storage.records import Alert, AlertState, Cause, Evidence, SeriesKey, Severity

_MODULE = "transformer.h.3.attn"
_FIRST, _LAST, _EVERY = 700, 1740, 10


def example_alert(at: float) -> Alert:
    """Return an alert that fired at ``at``, seconds since the epoch: attention logits of a layer that grow ever faster."""
    steps = tuple(range(_FIRST, _LAST + 1, _EVERY))
    values = tuple(_logit(step) for step in steps)
    key = SeriesKey("attention.max_logit", _MODULE, head=2)
    cause = Cause(
        "attention_logit_growth",
        "Attention logits grow without bound",
        0.86,
        ("the largest logit of transformer.h.3.attn has grown sixfold in 700 steps", "its attention entropy falls"),
        "Normalise queries and keys (QK norm), or lower the learning rate and warm up again.",
        "attention-logit-growth",
    )
    return Alert(
        id="e" * 32,
        run_id="e" * 32,
        rule="attention_logit_growth",
        module=_MODULE,
        episode=0,
        severity=Severity.WARNING,
        state=AlertState.FIRING,
        segment=0,
        first_step=_LAST,
        last_step=_LAST,
        created_at=at,
        updated_at=at,
        message=f"The largest attention logit of {_MODULE} head 2 grows ever faster: {number(values[-1])}, usual is 8.6.",
        value=values[-1],
        threshold=50.0,
        evidence=(Evidence(key, steps, values, 50.0, 8.6),),
        diagnosis=(cause,),
        remedy=cause.remedy,
    )


def _logit(step: int) -> float:
    """Return a value that wavers around 8.6 and leaves it, the same at every call."""
    through = (step - _FIRST) / (_LAST - _FIRST)
    return 8.6 * math.exp(2.0 * through**3) * (1.0 + 0.04 * math.sin(step) * math.cos(step / 7.0))
