"""The commands ``foreshock rules ...``: see what is in force and where it comes from, change it, take it back."""

import getpass
import time
import tomllib
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonOption, StoreOption, console, note, opened_store, plain, show, show_json

if TYPE_CHECKING:
    from ..analyzer.rule_layers import RuleLayers
    from ..storage import Store
    from ..storage.records import RuleVersion, Run

RunOption = Annotated[str, typer.Option("--run", metavar="RUN", help="For this run: its name, id, or first letters of the id.")]
ProjectOption = Annotated[str, typer.Option("--project", metavar="NAME", help="For all runs of this project.")]
CommentOption = Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why; kept with the change.")]
RuleArgument = Annotated[str, typer.Argument(metavar="RULE", help="A rule's name: `foreshock rules list` shows them.")]

rules = typer.Typer(help="Rules: what is in force, where it comes from, and changes of it in the store.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    rules.command("list", epilog="Example: foreshock rules list --run gpt2-bf16 --changed")(list_)
    rules.command("show", epilog="Example: foreshock rules show loss_spike")(show_)
    rules.command("set", epilog='Example: foreshock rules set loss_spike z=10 persistence=2 --comment "noisy data"')(set_)
    rules.command(epilog="Example: foreshock rules reset loss_spike --to 2")(reset)
    rules.command(epilog="Example: foreshock rules history loss_spike")(history)
    app.add_typer(rules, name="rules")


def list_(
    run: RunOption = "",
    project: ProjectOption = "",
    changed: Annotated[bool, typer.Option("--changed", help="Only rules that are not as the package has them.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the rules that are in force, and what is changed of them, by whom."""
    from ..analyzer.rule_layers import flat, shown, value_of

    with closing(opened_store(store)) as opened:
        layers, _ = _layers(opened, run, project)
    differences = layers.rules.differences(layers.default)
    names = [name for name in layers.rules if not changed or name in differences]
    if as_json:
        show_json({"rules": [_plain(layers, name) for name in names], "left_out": _left_out(layers)})
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("rule", "severity", "", "changed"):
        table.add_column(title, overflow="fold")
    for name in names:
        rule = layers.rules[name]
        said = [f"{path} {shown(value_of(rule, path))} ({_origin(layers, name, path)})" for path in flat(differences.get(name, {}))]
        table.add_row(name, str(rule.severity), "on" if rule.enabled else "off", "; ".join(said))
    show(table)
    _tell_left_out(layers)


def show_(
    rule: RuleArgument, run: RunOption = "", project: ProjectOption = "", store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Show one rule: what it watches and why, each number with its unit, what is allowed, its default, and who changed it."""
    from ..analyzer.detectors import Detector
    from ..analyzer.rule_checks import COUNTS
    from ..analyzer.rule_layers import shown, value_of

    with closing(opened_store(store)) as opened:
        layers, _ = _layers(opened, run, project)
    _known(layers, rule)
    if as_json:
        show_json(_plain(layers, rule) | {"left_out": _left_out(layers)})
        return
    found = layers.rules[rule]
    signals = ", ".join(dict.fromkeys(name for names in found.signals.values() for name in names))
    console().print(
        "\n".join(
            [
                f"{found.title} ({rule}): {found.severity}, {'on' if found.enabled else 'off'}",
                f"Looks at {signals}, for {Detector.registry[found.detector].SEES}.",
                *([found.why] if found.why else []),
                "",
            ]
        )
    )
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("field", "value", "default", "unit", "allowed", "from", "meaning"):
        table.add_column(title, overflow="fold")
    default = layers.default.get(rule)
    numbers = {**COUNTS, **{f"parameters.{name}": each for name, each in Detector.registry[found.detector].PARAMETERS.items()}}
    for path, number in numbers.items():
        usual = shown(value_of(default, path)) if default is not None else "-"
        value, origin = shown(value_of(found, path)), _origin(layers, rule, path)
        table.add_row(path, value, usual, number.unit, number.allowed, origin, number.meaning)
    show(table)
    _tell_left_out(layers)


def set_(
    rule: RuleArgument,
    fields: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE...", help="Such as z=10, enabled=false, severity=critical.")],
    run: RunOption = "",
    project: ProjectOption = "",
    comment: CommentOption = "",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change fields of a rule in the store: for all runs, a project or one run. Runs that train follow within seconds."""
    from ..analyzer.rule_edits import revised
    from ..analyzer.rules import RuleError

    def changes(layers: "RuleLayers", scope: tuple[str, str]) -> dict[str, Any]:
        try:
            return revised(layers, rule, scope, dict(_field(layers, rule, each) for each in fields))
        except RuleError as error:
            raise typer.BadParameter(str(error)) from None

    _save(rule, run, project, comment, store, as_json, changes)


def reset(
    rule: RuleArgument,
    to: Annotated[int | None, typer.Option("--to", metavar="VERSION", help="Back to this version there; else to none.")] = None,
    run: RunOption = "",
    project: ProjectOption = "",
    comment: CommentOption = "",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back what was changed of a rule in one scope, or go back to an older version of it. That is a new version too."""
    from ..analyzer.rule_edits import trying
    from ..analyzer.rules import RuleError

    def changes(layers: "RuleLayers", scope: tuple[str, str]) -> dict[str, Any]:
        if layers.seen(rule, scope) is None:
            raise typer.BadParameter(f"nothing was ever changed of {rule!r} there", param_hint="RULE")
        if to is None:
            return {}
        with closing(opened_store(store)) as opened:
            versions = opened.rule_history(rule, project=scope[0], run_id=scope[1])
        found = next((each for each in versions if each.version == to), None)
        if found is None:
            raise typer.BadParameter(f"no version {to}; there are 1 to {versions[0].version}", param_hint="--to")
        try:
            trying(layers, rule, scope, found.changes)
        except RuleError as error:
            raise typer.BadParameter(f"version {to} cannot be used any more: {error}", param_hint="--to") from None
        return dict(found.changes)

    _save(rule, run, project, comment or (f"back to version {to}" if to else "back to the default"), store, as_json, changes)


def history(
    rule: Annotated[str | None, typer.Argument(metavar="RULE", help="Of this rule only.")] = None,
    run: RunOption = "",
    project: ProjectOption = "",
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the changes of rules, newest first: of all scopes, or of a project or run."""
    from ..analyzer.rule_edits import summary, words

    with closing(opened_store(store)) as opened:
        scope: dict[str, str] = {"project": "", "run_id": opened.run(run).id} if run else {}
        scope |= {"project": project, "run_id": ""} if project else {}
        found = opened.rule_history(rule, limit=limit, **scope)
    if as_json:
        show_json([plain(each) for each in found])
        return
    for each in found:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.created_at))
        why = f"  # {each.comment}" if each.comment else ""
        console().print(f"{at}  {each.rule}  version {each.version} {words(each.scope)}  {each.created_by}: {summary(each)}{why}")
    if not found:
        console().print("No rule was changed.")


def _layers(store: "Store", run: str, project: str) -> "tuple[RuleLayers, Run | None]":
    """Return the layers that hold for a run or a project. What a run was given itself comes before what is configured here."""
    from ..analyzer.rule_layers import GIVEN, in_force
    from ..analyzer.rules import RuleError, RuleSet
    from ..config import load_settings

    if run and project:
        raise typer.BadParameter("a rule is changed for a project or for one run, not for both", param_hint="--project")
    chosen = store.run(run) if run else None
    if chosen is not None and GIVEN in chosen.meta:
        return in_force(store, chosen), chosen
    try:
        given = RuleSet.load(load_settings().rules)
    except (RuleError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="foreshock.toml") from None
    return in_force(store, chosen, project=project, given=given), chosen


def _save(
    rule: str,
    run: str,
    project: str,
    comment: str,
    url: str | None,
    as_json: bool,
    changes: "Callable[[RuleLayers, tuple[str, str]], dict[str, Any]]",
) -> None:
    from ..analyzer.rule_edits import overruled, save, summary, words
    from ..storage.errors import RuleConflictError
    from ..storage.records import RuleVersion, new_id

    with closing(opened_store(url)) as opened:
        layers, chosen = _layers(opened, run, project)
        scope = (project, chosen.id if chosen is not None else "")
        version = RuleVersion(
            new_id(), rule, changes(layers, scope), *scope, created_at=time.time(), created_by=_user(), comment=comment
        )
        try:
            saved = save(opened, version, layers)
        except RuleConflictError as error:
            note(f"Error: {error}")
            raise typer.Exit(1) from None
        after, _ = _layers(opened, run, project)
    if as_json:
        show_json(plain(saved))
    else:
        console().print(f"{rule}, version {saved.version} {words(scope)}: {summary(saved)}")
    for said in overruled(after, saved):
        note(f"Note: {said}.")


def _field(layers: "RuleLayers", rule: str, given: str) -> tuple[str, Any]:
    """Return path and value of ``FIELD=VALUE``. A detector's parameter may be named without ``parameters.``."""
    from ..analyzer.detectors import Detector

    name, equals, text = given.partition("=")
    if not equals or not name.strip():
        raise typer.BadParameter(f"{given!r} is no FIELD=VALUE, such as z=10 or enabled=false", param_hint="FIELD=VALUE")
    name = name.strip()
    if rule in layers.rules and name in Detector.registry[layers.rules[rule].detector].PARAMETERS:
        name = f"parameters.{name}"
    try:
        return name, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return name, {"on": True, "off": False}.get(text.strip(), text)


def _known(layers: "RuleLayers", rule: str) -> None:
    if rule not in layers.rules:
        raise typer.BadParameter(f"no rule is called {rule!r}; rules: {', '.join(sorted(layers.rules))}", param_hint="RULE")


def _origin(layers: "RuleLayers", rule: str, path: str) -> str:
    from ..analyzer.rule_edits import words

    origin: str | RuleVersion = layers.origin(rule, path)
    if isinstance(origin, str):
        return origin
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(origin.created_at))
    return f"{origin.created_by or 'somebody'}, {at}, {words(origin.scope)}"


def _plain(layers: "RuleLayers", name: str) -> dict[str, Any]:
    """Return a rule with its fields, their defaults and origins as plain data."""
    from ..analyzer.rule_checks import COUNTS
    from ..analyzer.rule_layers import value_of

    rule, default = layers.rules[name], layers.default.get(name)
    paths = ["enabled", "severity", "modules", *COUNTS, *(f"parameters.{each}" for each in rule.parameters)]
    fields = {}
    for path in paths:
        origin = layers.origin(name, path)
        fields[path] = {
            "value": plain(value_of(rule, path)),
            "default": plain(value_of(default, path)) if default is not None else None,
            "from": origin if isinstance(origin, str) else plain(origin),
        }
    about = {key: plain(getattr(rule, key)) for key in ("name", "title", "why", "detector", "signals", "remedy")}
    return about | {"fields": fields}


def _left_out(layers: "RuleLayers") -> list[str]:
    return [*(f"version {each.version.version}: {each.reason}" for each in layers.refused), *layers.unknown]


def _tell_left_out(layers: "RuleLayers") -> None:
    for reason in _left_out(layers):
        note(f"Left out: {reason}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return ""
