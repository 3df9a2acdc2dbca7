"""Changing a rule from its page: reading the form, naming what is wrong, saving, going back."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dash
from dash import ALL, Input, Output, State, html, no_update
from dash.development.base_component import Component

from ..storage.base import Store
from ..storage.errors import ReadOnlyStoreError, RuleConflictError, StoreError
from ..storage.records import RuleVersion, new_id
from .paths import rules_path
from .pressed import pressed
from .source import StoreSource
from .who import person

if TYPE_CHECKING:
    from ..analyzer.rules import RuleError

# The analyzer is imported when somebody changes something: the server listens before it is there.


@dataclass(frozen=True, slots=True)
class Form:
    """What a rule's page holds: the rule and run, the texts of the fields by path, and those it was opened with."""

    rule: str
    run_id: str
    texts: Mapping[str, str]
    base: Mapping[str, str]

    @classmethod
    def of(
        cls, subject: Mapping[str, str], values: Sequence[Any], names: Sequence[Mapping[str, str]], base: Mapping[str, str]
    ) -> "Form":
        """Return it as Dash gives it."""
        texts = {name["path"]: "" if value is None else str(value) for name, value in zip(names, values, strict=True)}
        return cls(subject["rule"], subject["run"], texts, base)

    @property
    def edited(self) -> dict[str, Any]:
        """The values of fields that were edited, by path."""
        from .rule_words import parsed

        return {path: parsed(path, text) for path, text in self.texts.items() if text.strip() != self.base.get(path)}


@dataclass(slots=True)
class Answer:
    """What the page is to show after an attempt: a note, what is wrong in general and by field, and, once saved, the new state."""

    note: Any = ""
    problems: list[Any] = field(default_factory=list)
    by_field: dict[str, str] = field(default_factory=dict)
    seen: Any = no_update
    base: Any = no_update
    texts: dict[str, str] | None = None


def change_rules(app: dash.Dash, source: StoreSource) -> None:
    """Register the callbacks of the form's buttons. What they change shows in every tab with the next push."""
    fields = {"kind": "rule-field", "path": ALL}
    wrong = {"kind": "rule-problem", "path": ALL}

    @app.callback(
        Output("rule-note", "children"),
        Output("rule-problems", "children"),
        Output(wrong, "children"),
        Output("rule-seen", "data"),
        Output("rule-base", "data"),
        Output(fields, "value"),
        Input("rule-save", "n_clicks"),
        Input("rule-undo", "n_clicks"),
        Input({"kind": "rule-back", "scope": ALL, "to": ALL, "seen": ALL}, "n_clicks"),
        State(fields, "value"),
        State(fields, "id"),
        State(wrong, "id"),
        State("rule-of", "data"),
        State("rule-base", "data"),
        State("rule-seen", "data"),
        State("rule-scope", "value"),
        State("rule-comment", "value"),
        prevent_initial_call=True,
    )
    async def act(
        save: int | None,
        undo: int | None,
        back: list[int | None],
        values: list[Any],
        names: list[dict[str, str]],
        places: list[dict[str, str]],
        subject: dict[str, str],
        base: dict[str, str],
        seen: dict[str, int],
        scope: str,
        comment: str | None,
    ) -> tuple[Any, ...]:
        chosen = pressed()
        form = Form.of(subject, values, names, base)
        if chosen == "rule-undo":
            answer = Answer("The form is as it was.", texts=dict(base))
        elif chosen == "rule-save":
            answer = await asyncio.to_thread(_told, lambda: save_form(source(), form, scope, seen.get(scope, 0), comment or ""))
        else:
            answer = await asyncio.to_thread(
                _told, lambda: go_back(source(), form, chosen["scope"], int(chosen["to"]), int(chosen["seen"]))
            )
        texts = answer.texts
        return (
            answer.note,
            answer.problems,
            [answer.by_field.get(place["path"]) for place in places],
            answer.seen,
            answer.base,
            [texts.get(name["path"], no_update) if texts is not None else no_update for name in names],
        )


def save_form(store: Store, form: Form, scope: str, seen: int, comment: str) -> Answer:
    """Save what was edited as a new version, under the name of the user who runs the dashboard.

    Args:
        scope: its name, as ``rule_words.scopes_of`` has it.
        seen: number of the version there that the page was opened with.

    Raises:
        StoreError: it could not be saved.
    """
    from ..analyzer.rule_edits import revised
    from ..analyzer.rule_layers import in_force
    from ..analyzer.rules import RuleError
    from .rule_words import scopes_of

    edited = form.edited
    if not edited:
        return Answer("Nothing is edited: change a value first.")
    run = store.run(form.run_id) if form.run_id else None
    layers = in_force(store, run)
    place = scopes_of(run.project if run is not None else "", form.run_id)[scope]
    try:
        changes = revised(layers, form.rule, place, edited)
    except RuleError as error:
        return refused(error)
    return _saved(store, form, scope, place, changes, seen, comment)


def go_back(store: Store, form: Form, scope: str, to: int, seen: int) -> Answer:
    """Save an older version anew; 0 takes back what was changed in that scope.

    Raises:
        StoreError: it could not be saved.
    """
    from ..analyzer.rule_edits import trying
    from ..analyzer.rule_layers import in_force
    from ..analyzer.rules import RuleError
    from .rule_words import scopes_of

    run = store.run(form.run_id) if form.run_id else None
    place = scopes_of(run.project if run is not None else "", form.run_id)[scope]
    versions = store.rule_history(form.rule, project=place[0], run_id=place[1])
    old = next((each for each in versions if each.version == to), None)
    if to and old is None:
        return Answer(problems=[html.P(f"There is no version {to} any more: load the page again.")])
    changes = dict(old.changes) if old is not None else {}
    try:
        trying(in_force(store, run), form.rule, place, changes)
    except RuleError as error:
        return refused(error)
    return _saved(store, form, scope, place, changes, seen, f"back to version {to}" if to else "reset")


def _saved(
    store: Store, form: Form, scope: str, place: tuple[str, str], changes: dict[str, Any], seen: int, comment: str
) -> Answer:
    from ..analyzer.rule_edits import overruled, words
    from ..analyzer.rule_layers import in_force, value_of
    from .rule_words import fields_of, scopes_of, seen_of, text_of

    version = RuleVersion(
        new_id(), form.rule, changes, *place, created_at=time.time(), created_by=person(), comment=comment.strip()
    )
    try:
        saved = store.save_rule(version, seen=seen)
    except RuleConflictError as error:
        again = html.A("Load what is in force now", href=rules_path(form.run_id, form.rule), className="button")
        return Answer(problems=[html.P([str(error), " ", again])])
    run = store.run(form.run_id) if form.run_id else None
    after = in_force(store, run)
    said = f"Saved as version {saved.version} {words(place)}."
    if still := overruled(after, saved):
        said += f" But {'; '.join(still)}."
    if form.rule not in after.rules:
        return Answer(f"{said} Nothing is left of this rule.")
    rule = after.rules[form.rule]
    texts = {each.path: text_of(value_of(rule, each.path)) for each in fields_of(rule)}
    scopes = scopes_of(run.project if run is not None else "", form.run_id)
    return Answer(said, seen=seen_of(after, form.rule, scopes), base=texts, texts=texts)


def refused(error: "RuleError") -> Answer:
    """Return what the page says of values that cannot be used: by field where one is named, and in general."""
    from .rule_words import label_of

    by_field, general = dict[str, str](), list[Component]()
    for _rule, path, what in error.problems:
        if path:
            by_field[path] = what
            general.append(html.Li([html.Strong(f"{label_of(path)}: "), what]))
        else:
            general.append(html.Li(what))
    return Answer(problems=[html.P("Nothing was saved:", className="strong"), html.Ul(general)], by_field=by_field)


def _told(work: Any) -> Answer:
    try:
        answer: Answer = work()
    except ReadOnlyStoreError as error:
        return Answer(problems=[html.P(str(error))])
    except StoreError as error:
        return Answer(problems=[html.P(f"Could not be saved: {error}")])
    except KeyError:
        return Answer(problems=[html.P("This form is out of date: load the page again.")])
    return answer
