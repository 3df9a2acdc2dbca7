"""Which of many buttons was pressed: the buttons of a list that was just drawn count as changed, beside it or alone."""

from typing import Any

import dash
from dash.exceptions import PreventUpdate


def pressed() -> Any:
    """Return the id of the button that was pressed, of those that this callback was called for.

    Raises:
        PreventUpdate: none was; some have only come.
    """
    identities = dash.ctx.triggered_prop_ids
    for change in dash.ctx.triggered:
        if change["value"]:
            return identities[change["prop_id"]]
    raise PreventUpdate
