# SPDX-License-Identifier: MIT
"""How faults look, that no file can harm a terminal through them, and scalars as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from ensemble.errors import SpecError
from ensemble.spec import units
from ensemble.spec.faults import Fault, Report, nearest, shown
from ensemble.spec.reader import Place, WrittenFloat


def test_a_fault_shows_file_line_column_source_expected_and_suggestion() -> None:
    fault = Fault(
        "hello.yaml",
        12,
        14,
        "no group is called 'slep'",
        "      label: slep",
        "slep",
        "one of echo, sleep",
        "sleep",
    )
    assert str(fault) == (
        "hello.yaml:12:14: no group is called 'slep'\n"
        "   12 |       label: slep\n"
        "      |              ^\n"
        "   expected: one of echo, sleep\n"
        "   did you mean 'sleep'?"
    )


def test_a_warning_says_that_it_is_one() -> None:
    fault = Fault("a.yaml", 1, 1, "no rule submits the group 'x'", "x", severity="warning")
    assert str(fault).splitlines() == [
        "a.yaml:1:1: warning: no rule submits the group 'x'",
        "    1 | x",
        "      | ^",
    ]


def test_faults_are_values() -> None:
    assert Fault("a", 1, 1, "m") == Fault("a", 1, 1, "m")
    with pytest.raises(AttributeError):
        Fault("a", 1, 1, "m").line = 2  # type: ignore[misc]


HOSTILE = "\x1b]0;owned\x07\x1b[31m\r\u202egnp\u2028\x9b2J\x00"


def test_nothing_of_the_file_reaches_the_terminal_raw() -> None:
    fault = Fault(f"{HOSTILE}.yaml", 1, 4, f"m {HOSTILE}", f"k: {HOSTILE}", HOSTILE, HOSTILE, HOSTILE)
    assert all(line.isprintable() for line in str(fault).split("\n"))
    assert "\\x1b]0;owned" in str(fault)
    assert len(str(fault).split("\n")) == 5


def caret_points_at(fault: Fault) -> str:
    _, source, caret = str(fault).split("\n")[:3]
    return source[caret.index("^") :]


def test_the_caret_stays_right_behind_tabs_escapes_and_wide_characters() -> None:
    assert caret_points_at(Fault("f", 1, 4, "m", "a\t\x1b!b")) == "!b"
    assert "a \\x1b!b" in str(Fault("f", 1, 4, "m", "a\t\x1b!b"))
    # a wide character takes two cells: the caret is one cell further than the characters before it
    lines = str(Fault("f", 1, 3, "m", "日本!")).split("\n")
    assert lines[2].index("^") == lines[1].index("!") + 2
    lines = str(Fault("f", 1, 3, "m", "e\u0301!")).split("\n")
    assert lines[2].index("^") == lines[1].index("!") - 1


def test_long_lines_are_cut_around_the_fault() -> None:
    fault = Fault("f", 1, 5001, "m", "x" * 5000 + "!" + "y" * 5000)
    source = str(fault).split("\n")[1]
    assert len(source) < 130
    assert source.startswith("    1 | ...x")
    assert source.endswith("y...")
    assert caret_points_at(fault).startswith("!y")


def test_a_column_behind_the_line_points_at_its_end() -> None:
    assert str(Fault("f", 9, 80, "m", "abc")).split("\n")[2] == "      |    ^"


def test_words_are_shortened_and_escaped() -> None:
    assert shown("a\x1bb") == "'a\\x1bb'"
    assert shown("a" * 100) == "'" + "a" * 60 + "...'"


def test_nearest_knows_case_and_gives_up_on_strangers() -> None:
    assert nearest("Sleap", ["echo", "sleep"]) == "sleep"
    assert nearest("SLEEP", ["echo", "Sleep"]) == "Sleep"
    assert nearest("zzz", ["echo", "sleep"]) is None
    assert nearest("s" * 1000, ["s" * 1000]) is None


def test_a_report_sorts_and_tells_once() -> None:
    report = Report("f", "one\ntwo\n")
    for line, column in ((2, 2), (1, 3), (2, 1), (1, 3)):
        report.add(Place(line, column), "wrong")
    report.warn(Place(1, 1), "odd")
    assert [(fault.line, fault.column) for fault in report.faults] == [(1, 3), (2, 1), (2, 2)]
    assert [fault.source for fault in report.faults] == ["one", "two", "two"]
    assert [fault.severity for fault in report.warnings] == ["warning"]


def test_a_spec_error_says_all_its_faults() -> None:
    error = SpecError([Fault("f", 1, 1, "first"), Fault("f", 2, 1, "second")])
    assert [fault.message for fault in error.faults] == ["first", "second"]
    assert str(error).index("first") < str(error).index("second")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172800), ("100ms", 0.1), ("10", 10), (10, 10), (0.5, 0.5),
        (" 1m ", 60), ("1e2s", 100), (".5s", 0.5), (0, 0), ("0", 0), (1e9, 1e9),
    ],
)  # fmt: skip
def test_durations(written: Any, seconds: float) -> None:
    assert units.duration(written) == seconds


DURATION = "expected a duration such as 30s, 5m or 1.5h, or a number of seconds"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", DURATION), ("5 m", DURATION), ("5w", DURATION), ("-5s", DURATION), ("inf", DURATION), ("s", DURATION),
        ("٣s", DURATION), (True, DURATION), (None, DURATION), ([1], DURATION),
        (-1, "expected a duration from 0 to 1000000000 seconds"),
        (float("nan"), "expected a duration from 0 to 1000000000 seconds"),
        (float("inf"), "expected a duration from 0 to 1000000000 seconds"),
        ("1e400d", "expected a duration from 0 to 1000000000 seconds"),
        (10**400, "expected a duration from 0 to 1000000000 seconds"),
    ],
)  # fmt: skip
def test_bad_durations(written: Any, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        units.duration(written)
    assert str(raised.value) == message


def test_shares_and_numbers() -> None:
    assert [units.number_or_percent(one) for one in (0, 3, 3.0, "10%", " 7.5 % ", "100%")] == [
        0, 3, 3, "10%", "7.5%", "100%",
    ]  # fmt: skip


@pytest.mark.parametrize("written", [-1, 1.5, "101%", "-1%", "%", "ten", True, None, [], float("nan"), "9" * 500 + "%"])
def test_bad_shares(written: Any) -> None:
    with pytest.raises(ValueError, match="expected a number of jobs"):
        units.number_or_percent(written)


def test_signals() -> None:
    assert [units.signal_number(one) for one in (None, "SIGTERM", "term", "USR1", 9, "9", 15.0)] == [
        15, 15, 15, 10, 9, 9, 15,
    ]  # fmt: skip
    assert units.signal_name(15) == "SIGTERM"
    assert units.signal_name(63) == "signal 63"


@pytest.mark.parametrize("written", ["SIGFOO", "", 0, 65, -1, "99999999", 1.5])
def test_bad_signals(written: Any) -> None:
    with pytest.raises(ValueError, match=r"^expected a "):
        units.signal_number(written)


def test_texts_and_commands_are_taken_as_written() -> None:
    number = WrittenFloat("1.10")
    number.text = "1.10"
    assert units.text(number) == "1.10"
    assert units.command("a 'b c' d\\ e") == ("a", "b c", "d e")
    assert units.command(["a b", number, 3]) == ("a b", "1.10", "3")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "expected a command, this one is empty"),
        ("''", "expected a command, this one is empty"),
        ([], "expected a command, this one is empty"),
        ("a 'b", "expected a command line that a shell could split (no closing quotation)"),
        (["a", True], "expected a list of words; with quotes around it any word is one"),
        (["a", None], "expected a list of words; with quotes around it any word is one"),
        (5, "expected a command line, or a list of words"),
        ("a\0b", "expected a command without NUL characters"),
    ],
)
def test_bad_commands(written: Any, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        units.command(written)
    assert str(raised.value) == message
