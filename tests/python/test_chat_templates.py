"""Other people's templates, rendered through apply_chat_template, against Jinja2 set up in-process as transformers does it."""

from __future__ import annotations

import json
from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np
import pytest
from vocab_files import SHARED, tiny_metadata

from airpy.errors import TemplateError
from airpy.tokenizer import Tokenizer

NAMES = (
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "google-gemma-2-2b-it", "meta-llama-Llama-3.1-8B-Instruct",
    "microsoft-Phi-3.5-mini-instruct", "mistralai-Mistral-Nemo-Instruct-2407",
)  # fmt: skip

USER = {"role": "user", "content": 'What is 2 < 3 & "so"? é 漢 🦙\n  indented'}
REPLY = {"role": "assistant", "content": "  It is.\n\n<think>\nhm\n</think>\nYes.  "}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}},
        }
    ],
}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": '{"sun": true}'}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <soon> in a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "its name"},
                    "days": {"type": "integer", "default": 1},
                    "hours": {"type": "array", "items": {"type": "number"}},
                },
                "required": ["city"],
            },
            "return": {"type": "string"},
        },
    }
]
CHATS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [USER, REPLY, USER, REPLY, USER],
    "system and turns": [SYSTEM, USER, REPLY, USER],
    "tool call": [USER, CALL, RESULT, REPLY, USER],
    "tool call with system": [SYSTEM, USER, CALL, RESULT],
    "two users": [USER, USER],
    "starts with assistant": [REPLY, USER],
    "empty": [],
    "odd role": [{"role": "critic", "content": "no"}],
    "no content": [{"role": "user"}],
}


def plain(source: str, **variables: object) -> str:
    """transformers.utils.chat_template_utils.render_jinja_template, without its training masks."""

    class Ignore(jinja2.ext.Extension):
        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Ignore, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return env.from_string(source).render(**variables)


@pytest.fixture(params=NAMES)
def template(request) -> str:
    path = SHARED / "templates" / f"{request.param}.jinja"
    if not path.exists():
        pytest.skip(f"{path} is not here (AIRPY_SHARED names the folder that holds data/)")
    return path.read_text()


@pytest.mark.parametrize("prompt", [False, True], ids=["complete", "prompt"])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_a_template_gives_what_transformers_gives(template, chat, tools, prompt):
    tokenizer = Tokenizer.from_metadata(tiny_metadata() | {"tokenizer.chat_template": template})
    extra = {"tools": tools, "add_generation_prompt": prompt, "date_string": "26 Jul 2024"}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    try:
        want = plain(template, messages=chat, documents=None, **special, **extra)
    except jinja2.exceptions.UndefinedError as e:
        with pytest.raises(TemplateError) as caught:
            tokenizer.apply_chat_template(chat, tokenize=False, **extra)
        assert str(e) in str(caught.value)
    except jinja2.exceptions.TemplateError as e:
        with pytest.raises(TemplateError) as caught:
            tokenizer.apply_chat_template(chat, tokenize=False, **extra)
        assert str(caught.value) == str(e)
    except TypeError as e:
        with pytest.raises(TemplateError) as caught:
            tokenizer.apply_chat_template(chat, tokenize=False, **extra)
        assert str(e) in str(caught.value)
    else:
        assert tokenizer.apply_chat_template(chat, tokenize=False, **extra) == want


def test_variables_reach_the_template(template):
    tokenizer = Tokenizer.from_metadata(tiny_metadata() | {"tokenizer.chat_template": template})
    got = tokenizer.apply_chat_template(
        [USER], TOOLS, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    source = "{{ template }}{{ name }}{{ messages | length }}"
    assert tokenizer.apply_chat_template([USER], chat_template=source, tokenize=False, template="t", name="n") == "tn1"
    assert ("<think>\n\n</think>" in got) == ("enable_thinking" in template)


CHATML = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}{{ pad_token }}"


def test_the_text_becomes_ids_with_its_special_tokens():
    tokenizer = Tokenizer.from_metadata(tiny_metadata() | {"tokenizer.chat_template": CHATML})
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}])
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁ab", "</s>"]
    array = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], return_tensors="np")
    assert array.dtype == np.int64 and array.tolist() == [ids]
    both = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], return_tensors="np", return_dict=True)
    assert both.attention_mask.tolist() == [[1] * len(ids)]


def test_named_templates_are_chosen():
    tokenizer = Tokenizer.from_metadata(
        tiny_metadata()
        | {
            "tokenizer.chat_template": "a",
            "tokenizer.chat_template.tool_use": "b",
            "tokenizer.chat_templates": ["tool_use"],
        }
    )
    assert tokenizer.chat_template == "a" and tokenizer.chat_templates == {"default": "a", "tool_use": "b"}

    def said(**options):
        return tokenizer.apply_chat_template([], tokenize=False, **options)

    assert said() == "a"
    assert said(tools=TOOLS) == "b"
    assert said(chat_template="tool_use") == "b"
    assert said(chat_template="c{{ messages | length }}") == "c0"


def test_generation_blocks_only_scope():
    source = "{% set x = 1 %}{% generation %}a{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}{% for i in [1, 2] %}{% break %}{% endfor %}"
    tokenizer = Tokenizer.from_metadata(tiny_metadata())
    assert (
        tokenizer.apply_chat_template([], chat_template=source, tokenize=False) == plain(source, messages=[]) == "a21"
    )


def test_what_cannot_be_done_is_said():
    tokenizer = Tokenizer.from_metadata(tiny_metadata())
    with pytest.raises(TemplateError, match="no chat template"):
        tokenizer.apply_chat_template([USER])
    with pytest.raises(TypeError, match="continue_final_message"):
        tokenizer.apply_chat_template([USER], chat_template="a", continue_final_message=True)
    with pytest.raises(TypeError, match="does not support messages"):
        tokenizer.apply_chat_template([USER], chat_template="a", messages=[USER])
    (cycle := []).append(cycle)
    with pytest.raises(TemplateError, match="cannot be given to a template: Circular"):
        tokenizer.apply_chat_template([USER], chat_template="a", x=cycle)
    neutral = {"continue_final_message": False, "padding": False, "truncation": None, "max_length": None}
    assert tokenizer.apply_chat_template(conversation=[USER], chat_template="a", tokenize=False, **neutral) == "a"
    with pytest.raises(TypeError, match="list of dicts"):
        tokenizer.apply_chat_template("hello", chat_template="a")
