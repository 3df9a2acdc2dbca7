"""Dead letters: notifications that were given up, with the reason, and a button to try them again."""

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from ..analyzer.sending import printable
from ..storage.base import Store
from ..storage.records import Alert, Notification, NotificationState
from .pages.attributes import aria
from .pages.parts import refused

_READ = 200
_SHOWN = 5


def letters_of(store: Store, alerts: Sequence[Alert] | None = None) -> list[Notification]:
    """Return the newest dead letters, of these alerts or of the whole store."""
    found = store.notifications(states=[NotificationState.FAILED], limit=_READ)
    wanted = None if alerts is None else {alert.id for alert in alerts}
    return [letter for letter in found if wanted is None or letter.alert_id in wanted]


def letter_list(letters: Sequence[Notification]) -> list[Component]:
    """Return dead letters as a list; nothing where there are none."""
    if not letters:
        return []
    rows = [_row(letter) for letter in letters[:_SHOWN]]
    if len(letters) > _SHOWN:
        more = len(letters) - _SHOWN
        rows.append(
            html.Li(html.Span([f"and {more} more: ", html.Code("foreshock notify failed --retry"), " tries them all again."]))
        )
    heading = html.H3("Could not be delivered", className="part-title")
    return [heading, html.Ul(rows, className="troubles letters", **aria(label="Notifications that could not be delivered"))]


def _row(letter: Notification) -> html.Li:
    tries = "1 try" if letter.attempts == 1 else f"{letter.attempts} tries"
    title = letter.title.removeprefix("foreshock: ")
    words = html.Div([html.Strong(title), f" to {printable(letter.channel)}, after {tries}: {letter.error}"])
    button = html.Button(
        "Retry",
        id={"kind": "letter", "letter": letter.id},
        type="button",
        className="button",
        **refused(),
        **aria(label=f"Retry: {title}"),
    )
    note = html.Span(id={"kind": "letter-note", "letter": letter.id}, className="quiet", role="status")
    return html.Li([words, html.Div([button, note], className="decisions")])
