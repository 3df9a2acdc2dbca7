"""What a message says of an alert: a title, and a body in Markdown. The words are a template, which settings may replace."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..storage.records import Alert
from .markup import escape
from .report_link import report_address, report_command
from .wording import number, step_number

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

log = logging.getLogger("foreshock")

TITLE = "foreshock: {{ severity }}{% if run %} in {{ run }}{% endif %} at step {{ step }}"
BODY = """\
{{ message }}

**Where:** {% if module %}{{ module }}, in {% endif %}the run {{ run }}{% if project %} of the project {{ project }}{% endif %}.
**Since:** step {{ step }}, {{ since }}.

{% if cause %}
**Likeliest cause:** {{ cause }} ({{ confidence }}).

{% for reason in reasons[:3] %}
- {{ reason }}
{% endfor %}
{% if reasons[3:] %}
- and {{ reasons[3:] | length }} more
{% endif %}

{% endif %}
**What to do:** {{ remedy }}

{% if link %}
[Evidence, history, and what you decide]({{ link }})
[The whole run in one file]({{ report }})
{% else %}
The whole run in one file: `{{ report }}`
{% endif %}
"""
FIELDS: Mapping[str, str] = {
    "message": "what happened, in a sentence",
    "severity": "warning or critical (info is not sent)",
    "run": "name of the run",
    "project": "project of the run; may be empty",
    "rule": "name of the rule",
    "module": "path of the module; empty for the whole run",
    "step": "step at which it began, with thousands separators",
    "since": "when that was, by the clock of the host that wrote it",
    "value": "what was seen, with three digits; may be empty",
    "threshold": "what it was held against; may be empty",
    "cause": "title of the likeliest cause; may be empty",
    "confidence": "how sure that is, such as 90%",
    "reasons": "a list: what speaks for the cause, besides the message itself",
    "remedy": "what to do",
    "link": "address of the alert's page; empty without dashboard_url",
    "report": "address of the run's report; without dashboard_url the command that makes it",
    "alert_id": "id of the alert",
    "run_id": "id of the run",
}
"""What a template may name."""
_PARTS = ("title", "body")


class TemplateError(ValueError):
    """A template for messages is wrong; the message says where, and what is allowed."""


@dataclass(frozen=True)
class Messages:
    """How messages are written.

    Args:
        page: address of the dashboard as people reach it; messages link there. Empty: they do not.
        title, body: Jinja templates over ``FIELDS``; the body is Markdown.
    """

    page: str = ""
    title: str = TITLE
    body: str = BODY

    @classmethod
    def of(cls, page: str = "", given: Mapping[str, Any] | None = None) -> "Messages":
        """Return how messages are written where settings say so.

        Args:
            given: the setting ``message``: ``title``, ``body``, or both.

        Raises:
            TemplateError: there is no such part or field, or it is no template.
        """
        given = given or {}
        for part, text in given.items():
            if part not in _PARTS:
                raise TemplateError(f"there is no {part!r} of a message; allowed: {', '.join(_PARTS)}")
            _check(part, text)
        return cls(page, **given)

    def write(self, alert: Alert, run: str = "", project: str = "") -> tuple[str, str]:
        """Return title (one line of text) and body (Markdown). A template that fails gives way to the one that is built in."""
        fields = _fields(alert, run, project, self.page)
        try:
            title, body = self._templates
            return _one_line(title.render(fields)), body.render(fields).strip()
        except Exception as error:  # noqa: BLE001 - a reader's template may raise anything, and the alert must be told
            log.warning("the template for messages failed (%s: %s); the one built in is used", type(error).__name__, error)
            title, body = Messages(self.page)._templates
            told = f"(The template in the setting message failed: {escape(str(error))})"
            return _one_line(title.render(fields)), f"{body.render(fields).strip()}\n\n{told}"

    @cached_property
    def _templates(self) -> "tuple[Template, Template]":
        return _environment(False).from_string(self.title), _environment(True).from_string(self.body)


def alert_path(alert_id: str) -> str:
    """Return the path of an alert's page, below the dashboard's address."""
    return f"/alert/{quote(alert_id, safe='')}"


def likeliest(alert: Alert) -> tuple[str, str]:
    """Return title of the likeliest cause, or nothing, and what to do about it."""
    cause = alert.diagnosis[0] if alert.diagnosis else None
    return (cause.title, cause.remedy or alert.remedy) if cause else ("", alert.remedy)


class _Literal(str):
    """What stands in a message as it is: addresses and commands, which have no need of being made safe."""

    __slots__ = ()


def _fields(alert: Alert, run: str, project: str, page: str) -> dict[str, object]:
    cause, remedy = likeliest(alert)
    first = alert.diagnosis[0] if cause else None
    return {
        "message": alert.message,
        "severity": alert.severity.value,
        "run": run,
        "project": project,
        "rule": alert.rule,
        "module": alert.module,
        "step": step_number(alert.first_step),
        "since": time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(alert.created_at)),
        "value": "" if alert.value is None else number(alert.value),
        "threshold": "" if alert.threshold is None else number(alert.threshold),
        "cause": cause,
        "confidence": f"{first.confidence:.0%}" if first else "",
        "reasons": [reason for reason in first.reasons if reason.rstrip(".") not in alert.message] if first else [],
        "remedy": remedy,
        "link": _Literal(f"{page}{alert_path(alert.id)}" if page else ""),
        "report": _Literal(report_address(alert.run_id, page) if page else report_command(alert.run_id)),
        "alert_id": _Literal(alert.id),
        "run_id": _Literal(alert.run_id),
    }


@cache
def _environment(markdown: bool) -> "SandboxedEnvironment":
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    def safe(value: object) -> object:
        return escape(value) if isinstance(value, str) and not isinstance(value, _Literal) else value

    return SandboxedEnvironment(
        undefined=StrictUndefined, finalize=safe if markdown else None, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


def _check(part: str, text: object) -> None:
    from jinja2 import TemplateSyntaxError, meta

    if not isinstance(text, str) or not text.strip():
        raise TemplateError(f"{part} = {text!r}: a template is needed, such as {TITLE!r}")
    try:
        parsed = _environment(part == "body").parse(text)
    except TemplateSyntaxError as error:
        raise TemplateError(f"{part}, line {error.lineno}: {error.message}") from None
    if unknown := sorted(meta.find_undeclared_variables(parsed) - FIELDS.keys()):
        raise TemplateError(f"{part}: there is no field {unknown[0]!r}; allowed: {', '.join(FIELDS)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
