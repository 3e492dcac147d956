"""Chat templates as bases come with them: whole, without a system message, and broken."""

import pytest

from llmrec.errors import UserError
from llmrec.models.base import train_tokenizer
from llmrec.text.chat import chat_frame, dialogue_frame
from llmrec.text.tokens import TextEncoder

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}<assistant>"
REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + TURNS
)
IGNORES = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
ITS_OWN = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set messages = messages[1:] %}"
)
ITS_OWN += "{% endif %}{% for m in messages %}[INST] {{ s }}\n\n{{ m.content }} [/INST]{% endfor %}"
AFTER = "{% for m in messages | reverse %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
TRIMS = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}<assistant>"
TWICE = "{% for m in messages if m.role == 'system' %}{{ m.content }}{{ m.content }}{% endfor %}" + IGNORES


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["You recommend items"] * 9, 300)


def prompt(tokenizer, template, system):
    """The text of a prompt whose user says `Hello`."""
    tokenizer.chat_template = template
    text = TextEncoder(tokenizer)
    frame = chat_frame(tokenizer, system, text)
    assert frame.end == tokenizer.eos_token_id
    return tokenizer.decode(frame.before + text("Hello") + frame.after)


@pytest.mark.parametrize(
    ("template", "with_system", "without"),
    [
        (None, "Be brief.\nHello", "Hello"),
        (TURNS, "<system>Be brief.</system><user>Hello</user><assistant>", "<user>Hello</user><assistant>"),
        (REFUSES, "<user>Be brief.\n\nHello</user><assistant>", "<user>Hello</user><assistant>"),
        (IGNORES, "<user>Be brief.\n\nHello<assistant>", "<user>Hello<assistant>"),
        (ITS_OWN, "[INST] Be brief.\n\nHello [/INST]", "[INST] \n\nHello [/INST]"),
        (AFTER, "<user>Be brief.\n\nHello<assistant>", "<user>Hello<assistant>"),
        (TWICE, "<user>Be brief.\n\nHello<assistant>", "<user>Hello<assistant>"),
        (TRIMS, "<system>Be brief.<user>Hello<assistant>", "<user>Hello<assistant>"),
    ],
)
def test_a_system_message_stands_where_the_template_puts_it_or_before_the_users(
    tokenizer, template, with_system, without
):
    assert prompt(tokenizer, template, "Be brief.") == with_system
    assert prompt(tokenizer, template, None) == without
    assert prompt(tokenizer, template, "") == without


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "broken (Unexpected end of template"),
        ("{{ messages[0].content", "broken (unexpected end of template"),
        ("{{ raise_exception('two\nlines') }}", "broken (two lines)"),
        ("{{ messages[0].text.first.strip() }}", "broken ("),
        ("{{ messages[7].content.x }}", "broken ("),
        ("{{ 1 // 0 }}", "broken (integer division or modulo by zero)"),
        ("{{ messages[0].content + 1 }}", "broken ("),
        ("{{ messages[0].content | no_such_filter }}", "broken (No filter named 'no_such_filter')"),
        ("<user>", "does not show the user's message"),
        ("{{ messages[0].content | upper }}", "does not show the user's message"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "shows 2 times the user's message"),
        ({"tools": TURNS}, "broken ("),
    ],
)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_broken_template_is_refused_in_one_line(tokenizer, template, message, system):
    with pytest.raises(UserError) as refusal:
        prompt(tokenizer, template, system)
    assert str(refusal.value).startswith(
        f"the base model's chat template {'is ' if '(' in message else ''}{message}"
    )
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("template", "system", "expected"),
    [
        (None, None, "Who?\nMe<|end|>\nHow?\n"),
        (None, "Be brief.", "Be brief.\nWho?\nMe<|end|>\nHow?\n"),
        (TURNS, None, "<user>Who?</user><assistant>Me</assistant><user>How?</user><assistant>"),
        (
            TURNS,
            "Be brief.",
            "<system>Be brief.</system><user>Who?</user><assistant>Me</assistant><user>How?</user><assistant>",
        ),
        (
            REFUSES,
            "Be brief.",
            "<user>Be brief.\n\nWho?</user><assistant>Me</assistant><user>How?</user><assistant>",
        ),
    ],
)
def test_examples_are_earlier_turns(tokenizer, template, system, expected):
    tokenizer.chat_template = template
    text = TextEncoder(tokenizer)
    pieces = dialogue_frame(tokenizer, system, text, 1)
    ids = [
        token
        for piece, said in zip(pieces, ["Who?", "Me", "How?", ""], strict=True)
        for token in (*piece, *text(said))
    ]
    assert tokenizer.decode(ids) == expected
    if template is not None:
        frame = chat_frame(tokenizer, system, text)
        assert dialogue_frame(tokenizer, system, text, 0) == [frame.before, frame.after]


def test_a_template_that_does_not_show_earlier_turns_is_refused(tokenizer):
    tokenizer.chat_template = "<user>{{ messages[-1].content }}<assistant>"
    assert chat_frame(tokenizer, None, TextEncoder(tokenizer)).after
    with pytest.raises(UserError, match="does not show the user's message"):
        dialogue_frame(tokenizer, None, TextEncoder(tokenizer), 1)
