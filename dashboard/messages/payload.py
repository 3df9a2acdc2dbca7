"""What a webhook is told: the body of the POST to a ``json://`` channel, as a schema that receivers can check against.

Apprise makes the outer part; ``foreshock`` in it is ours, and holds alerts in the shape in which the HTTP API has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from ...storage.records import Alert
from ..api.alert_shapes import AlertShape
from ..api.shapes import Shape

VERSION: Literal[1] = 1


class WebhookAlert(Shape):
    """An alert, and where there is more about it."""

    run: str
    """Name of the run; empty if it was deleted meanwhile."""
    url: str | None
    """The alert's page; null where ``dashboard_url`` is not set."""
    alert: AlertShape


class WebhookData(Shape):
    """What foreshock adds to the body."""

    version: Literal[1]
    """Of this part. It rises when something is taken away or changes its meaning; new keys do not raise it."""
    kind: Literal["alert", "digest", "test"]
    """One alert; several that came together or waited for the end of quiet hours; or a test by ``foreshock notify test``."""
    alerts: list[WebhookAlert]
    """At most 50, as they were when the message was sent: one that fired in the night may be resolved by then."""

    # Receivers must not break when there is more one day.
    model_config = ConfigDict(use_attribute_docstrings=True, extra="ignore")


class WebhookAttachment(Shape):
    """A picture: the chart of an alert that came alone."""

    filename: str
    base64: str
    mimetype: str


class WebhookBody(Shape):
    """The body of the POST."""

    version: str
    """Of the outer part, which is Apprise's."""
    title: str
    message: str
    """The words, as plain text."""
    attachments: list[WebhookAttachment]
    type: Literal["info", "success", "warning", "failure"]
    """How urgent: failure is critical."""
    foreshock: WebhookData | None = Field(default=None)
    """Missing where the alert could not be read any more; the words are there all the same."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="ignore")


def webhook_data(
    alerts: Sequence[Alert], names: Mapping[str, str], addresses: Mapping[str, str], *, test: bool = False
) -> dict[str, Any]:
    """Return the part ``foreshock`` of a body as plain data."""
    told = [WebhookAlert(run=names.get(each.run_id, ""), url=addresses.get(each.id), alert=AlertShape.of(each)) for each in alerts]
    kind: Literal["alert", "digest", "test"] = "test" if test else "alert" if len(told) == 1 else "digest"
    return WebhookData(version=VERSION, kind=kind, alerts=told).model_dump(mode="json")


def webhook_schema() -> dict[str, Any]:
    """Return the JSON Schema of a body. It allows more keys than it knows: a receiver must not break when there are some."""
    described: dict[str, Any] = _open(WebhookBody.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "The body that foreshock posts", **described}


def _open(part: Any) -> Any:
    """Return a schema without the bans on further keys, and without titles and defaults that say nothing."""
    if isinstance(part, list):
        return [_open(one) for one in part]
    if not isinstance(part, dict):
        return part
    dull = {"title", "default", "additionalProperties"}  # where such a key names a property, its value is a mapping
    return {key: _open(value) for key, value in part.items() if key not in dull or isinstance(value, dict)}
