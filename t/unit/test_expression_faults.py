# SPDX-License-Identifier: MIT
"""What is no expression: the words of the fault, and the character at which it lies. And what events have."""

from __future__ import annotations

import threading
import time
from typing import Any, List, Optional, Tuple

import pytest

from ensemble.spec import arithmetic, expression
from ensemble.spec.expression import MAX_DEPTH, MAX_EXPONENT, MAX_NESTING, compile
from ensemble.spec.metrics import Metric
from ensemble.spec.tokens import MAX_LENGTH, MAX_TOKENS, ExpressionError

GROUPS = ["a", "my-group", "sleep"]


class Scope:
    """The same value for every path."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def metric(self, metric: Metric) -> Any:
        return self.value

    def event(self, words: Tuple[str, ...]) -> Any:
        return self.value


def fault(text: str, trigger: Optional[str] = None) -> ExpressionError:
    with pytest.raises(ExpressionError) as raised:
        compile(text, GROUPS, trigger)
    return raised.value


REFUSED = [
    ("^", "the expression is empty"),
    ("1 +^", "the expression ends too early"),
    ("^(1 + (2)", "this ( is never closed"),
    ("1 + 2^)", "this ) closes nothing"),
    ("1 ^2", "here stands '2'"),
    ("var.n ^var.m", "here stands 'var.m'"),
    ("1 + ^* 2", "here stands '*'"),
    ("(^)", "here stands ')'"),
    ("1 ^, 2", "here stands ','"),
    ("(1^, 2)", "here stands ','"),
    ("min(1, ^)", "here stands ')'"),
    ("min^", "'min' is a function"),
    ("min^ + 1", "'min' is a function"),
    ("abs(1, ^2)", "abs takes one number, not 2"),
    ("var.n ^not 3", "here stands 'not'"),
    ("1 + ^not var.n", "'not' cannot stand here"),
    ("var.n == ^not true", "'not' cannot stand here"),
    ("var.n ^= 3", "expressions have no '='"),
    ("var.n ^=< 3", "expressions have no '=<'"),
    ("var.n ^&& 3", "expressions have no '&&'"),
    ("var.n ^<> 3", "expressions have no '<>'"),
    ("^True", "expressions have no 'True'"),
    ("^! true", "expressions have no '!'"),
    ("2 ^^ 3", "expressions have no '^'"),
    ("^success", "no word of expressions is 'success'"),
    ("1 ^if true else 2", "no word of expressions is 'if'"),
    ("^lambda", "no word of expressions is 'lambda'"),
    ("5^m", "a number goes on with 'm'"),
    ("0^x10", "a number goes on with 'x'"),
    ("1^_000", "a number goes on with '_'"),
    ("1.2^.3", "a number goes on with '.'"),
    ("^1e999", "this number is too large"),
    ("^" + "9" * 400, "this number is too large"),
    ("1 + ^'abc", "this string has no end"),
    ("1 + ^\u0661", "no expression has a '\u0661'"),
    ("var.n^[0]", "no expression has a '['"),
    ("1 ^; 2", "no expression has a ';'"),
    ("1 ^# 2", "no expression has a '#'"),
    ("1 ^:= 2", "no expression has a ':'"),
    ("(1)^.real", "no expression has a '.'"),
    ("^'a' < 3", "this is a string, which is not less or greater"),
    ("1 < (^1 < 2)", "this is true or false, which is not less or greater"),
    ("1 + ^'a'", "this is a string, with which nothing can be computed"),
    ("^true * 2", "this is true or false, with which nothing can be computed"),
    ("sqrt(^'a')", "this is a string, with which nothing can be computed"),
    ("not ^'a'", "this is a string, which is neither true nor false"),
    ("1 < 2 and ^'a'", "this is a string, which is neither true nor false"),
    ("count.a.failed == ^'3'", "this is a string, which never equals a number"),
    ("count.^b.failed > 1", "no group is called 'b'"),
    ("count.a.^failed-1", "count.a has no 'failed-1'"),
    ("queue.^pendin > 1", "queue has no 'pendin'"),
    ("^foo.bar > 1", "no statistic is called 'foo'"),
    ("var.^-n", "no variable can be called '-n'"),
    ("var.n^.m", "the path goes on behind 'var.n'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_refused_and_where(text: str, message: str) -> None:
    at = text.index("^")
    exc = fault(text[:at] + text[at + 1 :])
    assert (exc.message, exc.offset) == (message, at)


def test_a_minus_sign_without_spaces_is_told() -> None:
    assert "a minus sign has spaces around it" in fault("count.a.failed-1 > 0").expected
    assert "a minus sign has spaces around it" in fault("mean.a.duration-mean.sleep.duration").expected


HOSTILE = [
    ("9**9**^9**9", "this exponent is greater than 1024"),
    ("2 ** ^100000", "this exponent is greater than 1024"),
    ("var.n ** ^1e9", "this exponent is greater than 1024"),
    ("^10 ** 1000", "no number is that power"),
    ("^10.0 ** 309", "no number is that power"),
    ("(" * MAX_NESTING + "^(" + "1" + ")" * (MAX_NESTING + 1), f"operations are nested more than {MAX_NESTING} deep"),
    ("- " * MAX_NESTING + "^- 1", f"operations are nested more than {MAX_NESTING} deep"),
    ("not " * MAX_NESTING + "^not true", f"operations are nested more than {MAX_NESTING} deep"),
    ("1 ** " * MAX_NESTING + "1 ^** 1", f"operations are nested more than {MAX_NESTING} deep"),
    ("min(" * MAX_NESTING + "min^(1)" + ")" * MAX_NESTING, f"operations are nested more than {MAX_NESTING} deep"),
    ("var.n" + " + 1" * MAX_DEPTH + " + ^1", f"more than {MAX_DEPTH} operations wait for one another"),
    ("^__import__('os')", "no word of expressions is '__import__'"),
    ("^eval('1')", "no word of expressions is 'eval'"),
    ("()^.__class__", "no expression has a '.'"),
    ("event.^__class__", "event has no '__class__'"),
    ("event.job.^__class__.__mro__", "event.job has no '__class__'"),
    ("event.job.params.^__class__", "event has no '__class__'"),
    ("event.data.x.^__init__", "event has no '__init__'"),
    ("var.^__dict__", "no variable can be called '__dict__'"),
    ("count.^__class__.x", "no group is called '__class__'"),
    ("'a'^.__class__", "no expression has a '.'"),
    ("'%s' ^% 1".replace("^", "") .replace("'%s'", "^'%s'"), "this is a string, with which nothing can be computed"),
    ("^'x' * 100000", "this is a string, with which nothing can be computed"),
    (" 1 +" * (MAX_TOKENS // 2) + " ^1" + " + 1" * 5, f"the expression goes on behind {MAX_TOKENS} words and signs"),
    (" " * MAX_LENGTH + "^" + "1", f"the expression goes on behind {MAX_LENGTH} characters"),
    ("1 + " + "'" + "x" * (MAX_LENGTH - 5) + "^" + "x" * 10 + "'", f"the expression goes on behind {MAX_LENGTH} characters"),
    ("1" * MAX_LENGTH + "^" + "1" * 1_000_000, f"the expression goes on behind {MAX_LENGTH} characters"),
    ("a" * MAX_LENGTH + "^" + "a" * 1_000_000, f"the expression goes on behind {MAX_LENGTH} characters"),
    ("^'" + "(" * 1_000_000, "this string has no end"),
    ("((((" * 8 + "^(" * 1 + "(" * 1_000_000, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[str(number) for number in range(len(HOSTILE))])
def test_hostile_texts_are_refused_at_once(text: str, message: Optional[str]) -> None:
    at = text.index("^")
    begun = time.process_time()
    exc = fault(text[:at] + text[at + 1 :])
    assert time.process_time() - begun < 0.5
    if message is not None:
        assert (exc.message, exc.offset) == (message, at)


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_NESTING + "1" + ")" * MAX_NESTING,
        "var.n" + " + 1" * MAX_DEPTH,
        "1" + " + 1" * ((MAX_TOKENS - 1) // 2),
        f"var.n ** {MAX_EXPONENT}",
        "var.n == '" + "x" * (MAX_LENGTH - 11) + "'",
        " or ".join(["var.n == 1"] * 100),
    ],
)
def test_the_bounds_themselves_are_allowed(text: str) -> None:
    made = compile(text, GROUPS)
    made.value(Scope(1))


def test_two_threads_may_compile() -> None:
    """The service may read a file while a command does."""
    wrong: List[BaseException] = []

    def work() -> None:
        try:
            for n in range(300):
                assert compile(f"((var.n + {n}) * 2 > {n}) and not var.m == 'x'", GROUPS).reads
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- events

EVENTS = [
    ("start", [], "event.value"),
    ("metric", ["event.value"], "event.job.id"),
    ("job-fail", ["event.group", "event.job.exit_code", "event.job.params.x", "event.job.ranks"], "event.data.x"),
    ("job-exception", ["event.data.note", "event.data.a.b", "event.job.id"], "event.state"),
    ("group-complete", ["event.group"], "event.job.id"),
    ("end", ["event.state"], "event.group"),
    ("signal", ["event.name", "event.data", "event.data.x"], "event.job.id"),
    ("report", ["event.group", "event.job.id", "event.value", "event.data.x"], "event.ranks"),
    ("resource-down", ["event.ranks"], "event.group"),
    ("heartbeat", [], "event.value"),
    ("timer", [], "event.group"),
    ("idle", [], "event.state"),
]


@pytest.mark.parametrize(("trigger", "has", "lacks"), EVENTS)
def test_what_the_event_of_a_trigger_has(trigger: str, has: List[str], lacks: str) -> None:
    for path in has:
        assert compile(path, GROUPS, trigger).events == (tuple(path.split(".")[1:]),)
    exc = fault(f"1 + {lacks}", trigger)
    assert exc.offset == 4
    assert exc.message == f"a rule on {trigger} has no {'.'.join(lacks.split('.')[:2])}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("event.job", "event.job is a mapping"),
        ("event.job.params", "event.job.params is a mapping"),
        ("event.job.id.x", "the path goes on behind 'event.job.id'"),
        ("event.group.x", "the path goes on behind 'event.group'"),
        ("event.jib.id", "event has no 'jib'"),
    ],
)
def test_paths_of_events_that_lead_nowhere(path: str, message: str) -> None:
    assert fault(path, "job-fail").message == message


def test_a_path_alone() -> None:
    read = expression.resolve("event.job.exit_code", GROUPS, "job-fail")
    assert (read.event, read.kind) == (("job", "exit_code"), arithmetic.NUMBER)
    assert read.value(Scope(3)) == 3
