"""The page ``/api``: the OpenAPI description for people, in our own look, made of the description alone and without a script."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>HTTP API · foreshock</title>
    <link rel="icon" type="image/svg+xml" href="{prefix}/assets/mark.svg">
    <script src="{prefix}/assets/theme.js"></script>
    <link rel="stylesheet" href="{prefix}/assets/foreshock.css">
    <link rel="stylesheet" href="{prefix}/assets/page-access.css">
  </head>
  <body>
    <header class="top">
      <a class="brand" href="{prefix}/" title="All runs"><span class="mark" aria-hidden="true"></span><span>foreshock</span></a>
      <nav class="places" aria-label="Pages"><a href="{prefix}/">Runs</a><a href="{prefix}/api" aria-current="page">API</a></nav>
    </header>
    <main class="page narrow api-page">
      <h1 class="page-title">HTTP API</h1>
      <section class="card prose">{lead}
        <p>The same for programs: <a href="{prefix}/api/openapi.json">openapi.json</a>.</p>
        <pre tabindex="0" aria-label="Example"><code>{example}</code></pre>
      </section>
      {sections}
      <section class="card" aria-labelledby="shapes"><h2 id="shapes" class="card-title">Shapes</h2>{shapes}</section>
    </main>
  </body>
</html>
"""


def api_page(described: Mapping[str, Any], prefix: str) -> str:
    """Return the page of an OpenAPI description, as HTML."""
    lead = "".join(f"<p>{escape(words)}</p>" for words in described["info"]["description"].split("\n\n"))
    signed = ' \\\n  -H "Authorization: Bearer $FORESHOCK_TOKEN"' if "security" in described else ""
    example = f"curl 'http://127.0.0.1:8050{prefix}/api/v1/alerts?open=true&severity=critical'{signed}"
    operations = [
        (method.upper(), path, operation) for path, methods in described["paths"].items() for method, operation in methods.items()
    ]
    sections = "".join(_section(tag["name"], operations) for tag in described["tags"])
    shapes = "".join(_shape(name, shape) for name, shape in sorted(described["components"]["schemas"].items()))
    return _PAGE.format(prefix=escape(prefix), lead=lead, example=escape(example), sections=sections, shapes=shapes)


def _section(tag: str, operations: list[tuple[str, str, Mapping[str, Any]]]) -> str:
    rows = "".join(_operation(*each) for each in operations if tag in each[2].get("tags", ()))
    name = f"tag-{tag.lower()}"
    return f'<section class="card" aria-labelledby="{name}"><h2 id="{name}" class="card-title">{escape(tag)}</h2>{rows}</section>'


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [_parameters(operation.get("parameters", []))]
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {_type(body['content']['application/json']['schema'])}, as JSON; it may be left out.</p>")
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    refusals = ", ".join(f"{status}" for status in operation["responses"] if status != "200")
    parts.append(f"<p>Answer: {_type(answer)}. Errors ({escape(refusals)}): {_type({'$ref': '/ErrorShape'})}.</p>")
    head = (
        f'<span class="method method-{method.lower()}">{method}</span> <code>{escape(path)}</code>'
        f'<span class="quiet">{escape(operation["summary"])}</span>'
    )
    return f'<details class="operation"><summary>{head}</summary>{"".join(parts)}</details>'


def _parameters(parameters: list[Mapping[str, Any]]) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td>"
        f"<td>{_type(each['schema'])}{' (needed)' if each.get('required') else ''}</td>"
        f"<td>{escape(each.get('description', ''))} {escape(_bounds(each['schema']))}</td></tr>"
        for each in parameters
    )
    head = "<thead><tr><th scope='col'>Parameter</th><th scope='col'>Type</th><th scope='col'>Meaning</th></tr></thead>"
    table = f'<table class="api-table">{head}<tbody>{rows}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Parameters">{table}</div>'


def _bounds(schema: Mapping[str, Any]) -> str:
    """Return what a value may be, and what it is by default."""
    inner = next((one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"), schema)
    said = []
    if "minimum" in inner and inner.get("maximum", 2**31) < 2**31 - 1:  # larger bounds are those of the store's columns
        said.append(f"{inner['minimum']} to {inner['maximum']}.")
    if schema.get("default") is not None:
        said.append(f"Default {json.dumps(schema['default'])}.")
    return " ".join(said)


def _shape(name: str, shape: Mapping[str, Any]) -> str:
    if "enum" in shape:
        inside = f"<p>One of {', '.join(f'<code>{escape(str(each))}</code>' for each in shape['enum'])}.</p>"
    else:
        rows = "".join(_field(field, of) for field, of in shape.get("properties", {}).items())
        inside = f'<dl class="api-fields">{rows}</dl>'
    words = f'<p class="quiet">{escape(shape["description"])}</p>' if shape.get("description") else ""
    head = f"<summary><code>{escape(name)}</code></summary>"
    # The id is inside, because a browser opens what a link leads into.
    return f'<details class="operation">{head}<div id="shape-{escape(name)}">{words}{inside}</div></details>'


def _field(name: str, of: Mapping[str, Any]) -> str:
    return f"<dt><code>{escape(name)}</code> {_type(of)}</dt><dd>{escape(of.get('description', ''))}</dd>"


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type that a schema describes, shapes as links to where they are shown."""
    return " or ".join(dict.fromkeys(_types(schema)))


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        yield f'<a href="#shape-{name}">{name}</a>'
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _types(one)
    elif schema.get("type") == "array":
        yield f"list of {_type(schema['items'])}"
    elif "additionalProperties" in schema and isinstance(schema["additionalProperties"], dict):
        yield f"map to {_type(schema['additionalProperties'])}"
    else:
        yield escape(
            {"null": "null", "object": "map"}.get(str(schema.get("type", "anything")), str(schema.get("type", "anything")))
        )
