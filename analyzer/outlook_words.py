"""A run's outlook in plain sentences, for the head of its page and for reports. Pure: the same outlook gives the same words."""

import math

from .movement import Rate
from .outlook import Meeting, Moved, Outlook
from .wording import number, place, step_number, uncapital

_DOUBLES = 1.0
"""From this growth in 100 steps on (to twice as much) it is told in steps to double."""


def sentences(found: Outlook, *, healthy: bool) -> list[str]:
    """Return what to say of a run's course, the most telling first; nothing of an empty run.

    Args:
        healthy: Whether no alert of severity warning or above is open.
    """
    if found.step < 0:
        return []
    said = [f"The loss has not been finite since step {step_number(found.broken)}."] if found.broken is not None else []
    if found.moved is not None:
        calm = " No rule calls this trouble so far." if healthy and found.first_alert is None else ""
        said.append(_moved(found.moved, found.others, found) + calm)
    if found.growth is not None and (found.moved is None or found.growth[0] != found.moved.key):
        key, rate = found.growth
        said.append(f"σ₁ of {place(key.module, key.head)} {_growing(rate, found.running)}.")
    if found.meeting is not None and (found.moved is None or found.meeting.key != found.moved.key):
        meeting = found.meeting
        where = f"{meeting.watched.words} of {place(meeting.key.module, meeting.key.head)}"
        said.append(f"At its present rate {where} {_meets(meeting)}.")
    if found.first_alert is not None:
        alert = found.first_alert
        of = f" in {alert.module}" if alert.module else ""
        why = f": {uncapital(found.first_rule)}" if found.first_rule else ""
        said.append(f"The first warning came at step {step_number(alert.first_step)}{of}{why}.")
    if not said or (healthy and found.moved is None and found.broken is None):
        said.insert(0, _calm(found))
    return said


def _moved(one: Moved, others: int, found: Outlook) -> str:
    movement, watched = one.movement, one.watched
    words = watched.words if watched.words.startswith("σ") else watched.words[:1].upper() + watched.words[1:]
    verb = "rose" if watched.up else "fell"
    between = f"from its usual {number(movement.usual)} to {number(movement.now)}"
    text = f"{words} of {place(one.key.module, one.key.head)} {verb} {between} since step {step_number(movement.since)}"
    if others:
        text += f" (in {others} more {'layer' if others == 1 else 'layers'} too)"
    more = []
    if one.rate is not None and watched.grows and (one.rate.low > 0) is watched.up:
        more.append(f"it {_growing(one.rate, found.running)}")
    if found.meeting is not None and found.meeting.key == one.key:
        more.append(f"at this rate it {_meets(found.meeting)}")
    return "; ".join([text, *more]) + "."


def _growing(rate: Rate, running: bool) -> str:
    """Return how fast: by a share in 100 steps, or in steps to double; of a run that is over, how fast it was at its end."""
    share = rate.per_hundred
    if share >= _DOUBLES:
        steps = step_number(max(1, round(math.log(2.0) / rate.middle)))
        return f"is doubling every {steps} steps" if running else f"was doubling every {steps} steps at its end"
    verb = "growing" if share > 0 else "shrinking"
    said = f"{verb} {number(float(f'{100 * abs(share):.2g}'))} % per 100 steps"
    return f"is {said}" if running else f"was {said} at its end"


def _meets(meeting: Meeting) -> str:
    at, upwards = meeting.at, meeting.rate.level < meeting.threshold
    verb = "passes" if upwards else "falls below"
    between = f"between steps {step_number(at.first)} and {step_number(at.last)}"
    return f"{verb} {number(meeting.threshold)} near step {step_number(at.step)} ({between})"


def _calm(found: Outlook) -> str:
    facts = []
    if found.loss is not None:
        lowest = f" (lowest {number(found.lowest)})" if found.lowest is not None else ""
        facts.append(f"loss {number(found.loss)}{lowest}")
    if found.risk is not None and not math.isnan(found.risk):
        facts.append(f"risk {found.risk:.0f} of 100")
    if found.signals:
        facts.append(f"{found.signals} signals of {found.layers} {'layer' if found.layers == 1 else 'layers'} measured")
    after = f": {', '.join(facts)}" if facts else ""
    steps = step_number(found.step + 1)
    if 2 * found.judged < found.followed or not found.judged:
        return f"Too early to compare with its own past, after {steps} {'step' if found.step == 0 else 'steps'}{after}."
    return f"Nothing watched has moved far from its own past in {steps} steps{after}."
