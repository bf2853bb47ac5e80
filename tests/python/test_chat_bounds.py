"""A hostile template ends in one clear TemplateError, soon, and the next template renders as if nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from airpy.chat import Limits, Renderer
from airpy.errors import ArgumentTypeError, TemplateError

SECONDS = 1.0
NEST = "{% for a in r %}" * 6 + "{% endfor %}" * 6

BOMBS = {
    "repetition": "{{ 'a' * 10**9 }}",
    "repetition of a list": "{{ [0] * 10**9 }}",
    "power": "{{ 10 ** (10**8) }}",
    "power of a variable": "{{ n ** (n * 10**8) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent of a variable": "{{ '%*d' % (1000000000, n) }}",
    "shift": "{% set x = n.__lshift__(10**10) %}{{ x + 1 }}",
    "product of powers": "{{ (n ** (10**6)) ** (10**3) }}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% set r = range(99999) %}" + NEST,
    "center": "{{ ''.center(10**9) }}",
    "center filter": "{{ 'a' | center(10**9) }}",
    "ljust": "{{ ''.ljust(10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**9) }}",
    "join": "{{ (range(99999) | list) | join('a' * 100000) }}",
    "replace": "{% set a = 'a' * 10**6 %}{{ a.replace('a', a) }}",
    "replace filter": "{% set a = 'a' * 10**6 %}{{ a | replace('a', a) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format filter": "{{ '%1000000000s' | format(1) }}",
    "indent": "{{ ('a\\n' * 10**6) | indent(10**6) }}",
    "tojson indent": "{{ [1, 2] | tojson(indent=10**9) }}",
    "macro recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macro doubling": "{% macro m(k) %}{% if k %}{{ m(k - 1) }}{{ m(k - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "string doubling": "{% set ns = namespace(s='a' * 1024) %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "growing list": "{% set l = [1] %}{% for i in l %}{% set _ = l.append(i) %}{% endfor %}",
    "cycler": "{% set c = cycler(1) %}{% for i in range(99999) %}{% for j in range(99999) %}{{ c.next() }}{% endfor %}{% endfor %}",
    "batch": "{{ [1] | batch(10**9, 0) | list }}",
    "lipsum": "{{ lipsum(10**7) }}",
    "regex": "{{ ('<' * 200000) | striptags | urlize }}" * 50 + NEST.replace("in r", "in range(99999)"),
    "huge output": "{% for i in range(99999) %}{{ 'a' * 100000 }}{% endfor %}",
    "parentheses": "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
    "signs": "{{ " + "-" * 100000 + "1 }}",
    "nots": "{{ " + "not " * 50000 + "1 }}",
    "nested blocks": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "nested lists": "{{ " + "[" * 50000 + "]" * 50000 + " }}",
    "long sum": "{{ 1" + " + 1" * 200000 + " }}",
    "digits": "{{ " + "9" * 1000000 + " * 1 }}",
}
ESCAPES = {
    "class": "{{ ().__class__.__bases__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['sys'] }}",
    "globals of a lambda": "{{ strftime_now.__globals__.sys.exit(3) }}",
    "attr filter": "{{ (() | attr('__class__')).__bases__ }}",
    "format attribute": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "environment": "{{ self.__init__.__globals__ }}",
    "mutating the messages": "{% set _ = messages.append(1) %}",
    "mutating a message": "{% set _ = messages[0].update(a=1) %}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
}


@pytest.fixture(scope="module")
def renderer():
    renderer = Renderer(Limits(seconds=SECONDS))
    yield renderer
    renderer.close()


@pytest.mark.parametrize("template", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_time(renderer, template):
    start = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        renderer.render(template, {"n": 3, "messages": []})
    assert time.monotonic() - start < SECONDS + 5
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 700
    assert renderer.render("{{ n }} still", {"n": 3}) == "3 still"


@pytest.mark.parametrize("template", ESCAPES.values(), ids=ESCAPES)
def test_the_sandbox_holds(renderer, template):
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(TemplateError):
        renderer.render(template, {"messages": messages})
    assert messages == [{"role": "user", "content": "hi"}]


def test_time_memory_and_output_are_named(renderer):
    with pytest.raises(TemplateError, match="longer than 1 s"):
        renderer.render(BOMBS["nested loops"], {})
    with pytest.raises(TemplateError, match="more than 512 MiB"):
        renderer.render("{{ 'a' * 10**9 }}", {})
    with pytest.raises(TemplateError, match="more than 16777216 characters"):
        renderer.render(BOMBS["huge output"], {})


def test_the_template_says_no_in_its_own_words(renderer):
    with pytest.raises(TemplateError) as caught:
        renderer.render("{{ raise_exception('roles must alternate') }}", {})
    assert str(caught.value) == "roles must alternate"


def test_a_syntax_error_names_its_line(renderer):
    with pytest.raises(TemplateError, match="malformed at line 2"):
        renderer.render("a\n{% if %}", {})


def test_what_is_no_data_is_refused(renderer):
    with pytest.raises(TypeError, match="give tools as JSON schemas"):
        renderer.render("", {"tools": [print]})
    with pytest.raises(ArgumentTypeError, match="take dicts with text for keys: keys must be str"):
        renderer.render("", {"tools": [{(1, 2): 3}]})
    deep: list[object] = []
    for _ in range(100000):
        deep = [deep]
    with pytest.raises(TemplateError, match="nested too deeply"):
        renderer.render("", {"messages": deep})


def test_large_messages_pass(renderer):
    text = "naïve \ud83d \U0001f600 \x00" * 200_000
    assert renderer.render("{{ m[0].content }}", {"m": [{"content": text}]}) == text


def test_a_worker_that_was_killed_is_replaced(renderer):
    assert renderer.render("a", {}) == "a"
    os.kill(renderer._process.pid, signal.SIGKILL)
    renderer._process.wait()
    assert renderer.render("b", {}) == "b"


def test_threads_take_turns(renderer):
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda k=k: texts.append(renderer.render("{{ k }}" * (k + 1), {"k": k})))
        for k in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts, key=len) == sorted((str(k) * (k + 1) for k in range(16)), key=len)


def _child(renderer, queue):
    queue.put(renderer.render("child", {}))
    renderer.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_its_own_worker(renderer):
    assert renderer.render("parent", {}) == "parent"
    worker = renderer._process.pid
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(renderer, queue))
    child.start()
    assert queue.get(timeout=60) == "child"
    child.join()
    assert renderer.render("parent", {}) == "parent" and renderer._process.pid == worker


def test_the_worker_can_write_no_file_and_start_no_process(renderer):
    renderer.render("", {})
    limits = Path(f"/proc/{renderer._process.pid}/limits").read_text()
    assert [
        line.split()[-3] for line in limits.splitlines() if line.startswith(("Max file size", "Max processes"))
    ] == ["0", "0"]
