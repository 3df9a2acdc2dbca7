"""Which of many buttons was pressed."""

import json
from contextvars import copy_context

import pytest
from dash._callback_context import context_value
from dash._utils import AttributeDict
from dash.exceptions import PreventUpdate
from foreshock.dashboard.pressed import pressed


def told(*changes: tuple[object, int | None]) -> object:
    """What ``pressed`` says of a callback that was called for these changes of (a button's id, its clicks)."""

    def ask() -> object:
        names = [identity if isinstance(identity, str) else json.dumps(identity) for identity, _ in changes]
        inputs = [{"prop_id": f"{name}.n_clicks", "value": clicks} for name, (_, clicks) in zip(names, changes, strict=True)]
        context_value.set(AttributeDict(triggered_inputs=inputs))
        return pressed()

    return copy_context().run(ask)


def test_a_button_that_has_just_come_is_not_taken_for_the_one_that_was_pressed() -> None:
    silence, resolve = ({"kind": "decision", "alert": "a.b", "state": state} for state in ("silence-1h", "resolved"))
    assert told((resolve, 1)) == resolve
    assert told((silence, None), (resolve, 2)) == resolve
    assert told(("rule-save", 3)) == "rule-save"
    with pytest.raises(PreventUpdate):
        told((silence, None), (resolve, None))
    with pytest.raises(PreventUpdate):
        told()
