"""What messages say: the template built in, templates of one's own, and how they look as Markdown and as text."""

from dataclasses import replace

import pytest
from foreshock.analyzer.markup import escape, plain, unescape
from foreshock.analyzer.messages import BODY, FIELDS, TITLE, Messages, TemplateError
from foreshock.storage.records import Alert, AlertState, Cause, Severity
from hypothesis import given
from hypothesis import strategies as st

CAUSE = Cause("low", "Low-precision rounding bias", 0.9, ("errors add up", "q*k grows"), "Switch to *stabilised* attention.")
ALERT = Alert(
    "a" * 32, "r" * 32, "key_shift_bias", "blocks.1._attn_", 0, Severity.CRITICAL, AlertState.FIRING, 0, 1740, 1740, 0.0, 0.0,
    "Errors of blocks.1._attn_ add up.", value=3.25, threshold=2.0, diagnosis=(CAUSE,), remedy="Look closer.",
)  # fmt: skip


def test_a_message_says_what_where_since_when_why_and_what_to_do_and_where_there_is_more() -> None:
    title, body = Messages("https://watch.example/x").write(ALERT, "gpt_2", "language")
    assert title == "foreshock: critical in gpt_2 at step 1,740"
    lines = plain(body).splitlines()
    assert lines[:3] == [
        "Errors of blocks.1._attn_ add up.",
        "",
        "Where: blocks.1._attn_, in the run gpt_2 of the project language.",
    ]
    assert lines[3].startswith("Since: step 1,740, 1970-01-01 ")
    assert lines[4:] == [
        "",
        "Likeliest cause: Low-precision rounding bias (90%).",
        "- errors add up",
        "- q*k grows",
        "",
        "What to do: Switch to *stabilised* attention.",
        "",
        f"Evidence, history, and what you decide: https://watch.example/x/alert/{'a' * 32}",
        f"The whole run in one file: https://watch.example/x/report/{'r' * 32}",
    ]
    assert r"q\*k" in body
    assert r"\_attn\_" in body
    assert f"(https://watch.example/x/alert/{'a' * 32})" in body


def test_without_a_cause_or_a_page_it_says_the_rest() -> None:
    _, body = Messages().write(replace(ALERT, diagnosis=(), module=""), "gpt2")
    assert plain(body).splitlines()[2] == "Where: the run gpt2."
    assert plain(body).splitlines()[5:] == ["What to do: Look closer.", "", "The whole run in one file: foreshock report rrrrrrrr"]


def test_many_reasons_are_counted_and_none_repeats_the_message() -> None:
    reasons = ("one", ALERT.message, "two", "three", "four", "five")
    _, body = Messages().write(replace(ALERT, diagnosis=(replace(CAUSE, reasons=reasons),)), "gpt2")
    assert [line for line in plain(body).splitlines() if line.startswith("- ")] == ["- one", "- two", "- three", "- and 2 more"]


def test_the_template_built_in_is_one_that_settings_could_hold() -> None:
    messages = Messages.of("https://p", {"title": TITLE, "body": BODY})
    assert messages.write(ALERT, "gpt2") == Messages("https://p").write(ALERT, "gpt2")


def test_every_field_can_be_used_and_only_those() -> None:
    body = " | ".join(f"{name}={{{{ {name} }}}}" for name in FIELDS)
    _, said = Messages.of("https://p", {"title": "{{ rule }}\n{{ value }} > {{ threshold }}", "body": body}).write(ALERT, "gpt2")
    assert "value=3.25 | threshold=2 | cause=Low-precision rounding bias | confidence=90%" in said
    assert Messages.of("", {"title": "{{ rule }}\n {{ value }}"}).write(ALERT)[0] == "key_shift_bias 3.25"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"titel": "x"}, "there is no 'titel' of a message; allowed: title, body"),
        ({"title": " "}, "title = ' ': a template is needed, such as"),
        ({"body": "{{ mesage }}"}, "body: there is no field 'mesage'; allowed: message, severity, run, "),
        ({"body": "one\n{% if cause %}"}, "body, line 2: "),
        ({"title": "{{ run"}, "title, line 1: "),
    ],
)
def test_a_template_that_cannot_work_is_refused_before_anything_happens(given: dict[str, str], says: str) -> None:
    with pytest.raises(TemplateError) as refused:
        Messages.of("", given)
    assert says in str(refused.value)


@pytest.mark.parametrize("body", ["{{ 1 / 0 }}", "{{ ''.__class__.__mro__ }}", "{{ message.nothing }}"])
def test_a_template_that_fails_when_it_matters_gives_way_to_the_one_built_in(body: str) -> None:
    title, said = Messages.of("", {"title": "mine", "body": body}).write(ALERT, "gpt2")
    assert title == "foreshock: critical in gpt2 at step 1,740"
    assert plain(said).startswith("Errors of blocks.1._attn_ add up.")
    assert "(The template in the setting message failed: " in said


LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"])


@given(st.text(LETTERS | st.sampled_from("*_`[]<>#\\-+.1&;~ "), max_size=40))
def test_what_is_made_safe_reads_as_it_was(text: str) -> None:
    words = " ".join(text.split())
    assert plain(f"Begin {escape(words)}") == f"Begin {words}".rstrip()
    assert unescape(escape(words)) == words


@given(
    st.sampled_from(["# {}", "- {}", "1. {}", "1) {}", "+ {}", "> {}", "~~~{}", "===", "---", "-3 {}", "#{}", "{}"]),
    st.from_regex(r"\A[a-z]{1,8}\Z"),
)
def test_a_line_that_looks_like_markup_is_a_line(form: str, word: str) -> None:
    line = form.format(word)
    assert plain(f"{escape(line)}\n\nend") == f"{line}\n\nend"
    assert plain(f"before\n{escape(line)}") == f"before\n{line}"


def test_markdown_as_text_keeps_what_carries_meaning() -> None:
    markdown = "# Head\n\n1. one\n2. **two**\n   - inner\n\n> said `code`\n\n```\nblock\n```\n\n<https://a.example> [here](https://b.example)"
    assert plain(markdown) == ("Head\n1. one\n2. two\n  - inner\n\nsaid code\n\nblock\n\nhttps://a.example here: https://b.example")
