# SPDX-License-Identifier: MIT
"""YAML text into nodes: scalars of the core schema, positions, caps, and what is refused. Both of PyYAML's parsers."""

from __future__ import annotations

import math
from typing import Any, List, Tuple

import pytest
import yaml

from ensemble.spec import reader
from ensemble.spec.faults import Fault, Report
from ensemble.spec.reader import Node, WrittenFloat, WrittenInt


@pytest.fixture(params=["C", "Python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """PyYAML as it is, and as where it was built without libyaml."""
    if request.param == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML has no parser in C")
    return str(request.param)


def read(text: Any) -> Tuple[Any, Tuple[Fault, ...]]:
    characters, report = reader.decode(text, "f.yaml")
    root = None if characters is None else reader.read(characters, report)
    return root, report.faults


def value(text: str) -> Any:
    root, faults = read(text)
    assert not faults
    return root.plainly()


def fault(text: Any) -> Fault:
    _, faults = read(text)
    assert len(faults) == 1, faults
    return faults[0]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("true", True), ("TRUE", True), ("False", False), ("tRue", "tRue"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("null", None), ("~", None), ("Null", None), ("nULL", "nULL"),
        ("12", 12), ("-12", -12), ("+3", 3), ("010", 10), ("0o17", 15), ("0x1f", 31), ("0xZ", "0xZ"), ("1_000", "1_000"),
        ("1e-5", 1e-5), ("1.5", 1.5), (".5", 0.5), ("-1.", -1.0), ("6E2", 600.0), (".inf", math.inf), ("-.Inf", -math.inf),
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("2001-12-14", "2001-12-14"), ("1.2.3", "1.2.3"), ("0b11", "0b11"),
        ("'12'", "12"), ('"true"', "true"), ("''", ""), ("=", "="), ("a b", "a b"),
        ("!!str 12", "12"), ("! 12", "12"), ("!!int 12", 12), ("!!float 3", 3.0), ("!!bool true", True), ("!!null ''", None),
        ("!!seq [1]", [1]), ("!!map {a: 1}", {"a": 1}), ("!!int '7'", 7),
    ],
)  # fmt: skip
def test_scalars(text: str, meaning: Any) -> None:
    found = value(f"k: {text}")["k"]
    assert found == meaning
    assert isinstance(found, type(meaning))


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(value("k: .nan")["k"])


def test_numbers_remember_how_they_were_written() -> None:
    found = value("[1.10, 0700, 0x1F]")
    assert [(type(one), one.text) for one in found] == [
        (WrittenFloat, "1.10"),
        (WrittenInt, "0700"),
        (WrittenInt, "0x1F"),
    ]


def test_block_and_folded_text() -> None:
    assert value("a: |\n  x\n  y\nb: >\n  x\n  y\n") == {"a": "x\ny\n", "b": "x y\n"}


def test_an_empty_value_is_told_apart_from_null() -> None:
    root, _ = read("a:\nb: null\nc: ''\n")
    assert [root.get(key).empty for key in "abc"] == [True, False, False]


def test_keys_that_are_no_strings_are_taken_as_written() -> None:
    assert value("{1: a, true: b, 1.10: c, null: d}") == {"1": "a", "true": "b", "1.10": "c", "null": "d"}


def positions(node: Node) -> List[Tuple[int, int]]:
    found = [(node.line, node.column)]
    if node.kind == "map":
        for key, item in node.value.values():
            found += [(key.line, key.column), *positions(item)]
    for item in node.items:
        found += positions(item)
    return found


def test_positions_count_characters_from_one() -> None:
    root, _ = read('é: [ü, "ö" ]\r\nb:\r  - - x\n    - {c: 1}\n')
    assert positions(root) == [
        (1, 1), (1, 1), (1, 4), (1, 5), (1, 8),
        (2, 1), (3, 3), (3, 5), (3, 7), (4, 7), (4, 8), (4, 11),
    ]  # fmt: skip


def test_a_byte_order_mark_takes_no_column() -> None:
    root, _ = read(b"\xef\xbb\xbfa: 1")
    assert positions(root) == [(1, 1), (1, 1), (1, 4)]


MERGES = [
    "b: &b {x: 1, y: 2}\nd:\n  <<: *b\n  y: 3\n",
    "b: &b {x: 1, y: 2}\nd:\n  y: 3\n  <<: *b\n",
    "- &a {x: 1}\n- &b {x: 2, y: 2}\n- {<<: [*a, *b], z: 3}\n",
    "- &a {x: 1}\n- &b {x: 2, y: 2}\n- {<<: [*b, *a]}\n",
    "- &a {x: 1}\n- &b {<<: *a, y: 2}\n- {<<: *b, z: 3}\n",
    "- {<<: {x: 1}, y: 2}\n",
    "- {'<<': 1}\n",
]


@pytest.mark.parametrize("text", MERGES)
def test_merge_keys_work_as_in_pyyaml(text: str) -> None:
    assert value(text) == yaml.safe_load(text)


def test_of_two_merges_the_first_wins() -> None:
    # releases of PyYAML before 6.0.4 let the last one win
    assert value("- &a {x: 1}\n- &b {x: 2, y: 3}\n- {<<: *a, <<: *b}\n")[2] == {"x": 1, "y": 3}


def test_aliases_share() -> None:
    assert value("a: &x [1, {b: c}]\nd: *x\ne: [*x, *x]") == yaml.safe_load("a: &x [1, {b: c}]\nd: *x\ne: [*x, *x]")


def test_an_anchor_may_be_given_anew() -> None:
    assert value("[&a 1, *a, &a 2, *a]") == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("", (1, 1), "the file is empty"),
        ("# nothing\n", (1, 1), "the file is empty"),
        ("a: 1\nb: 2\na: 3\n", (3, 1), "the key 'a' is given twice; the first one is in line 1"),
        ("{1: a, '1': b}", (1, 8), "the key '1' is given twice; the first one is in line 1"),
        ("a: 1\n--- \nb: 1\n", (2, 1), "a second document begins here"),
        ("a: !!python/object:os.system x", (1, 4), "the tag '!!python/object:os.system' is not allowed here"),
        ("a: !mine [1]", (1, 4), "the tag '!mine' is not allowed here"),
        ("a: !!timestamp 2001-01-01", (1, 4), "the tag '!!timestamp' is not allowed here"),
        ("a: !!seq {b: c}", (1, 4), "the tag '!!seq' is not allowed here"),
        ("a: !!int x", (1, 4), "'x' is no int, as its tag says"),
        ("a: !!int true", (1, 4), "'true' is no int, as its tag says"),
        ("a: &a [*a]", (1, 8), "the alias '*a' stands inside what it names"),
        ("a: &a {b: {<<: *a}}", (1, 16), "the alias '*a' stands inside what it names"),
        ("a: *b", (1, 4), "the alias '*b' names no anchor before it"),
        ("? [a, b]\n: 1", (1, 3), "a key cannot be a list"),
        ("? {a: b}\n: 1", (1, 3), "a key cannot be a mapping"),
        ("? \n: 1", (1, 2), "a key is missing here"),
        ("a: {<<: 5}", (1, 9), "'<<' cannot take '5'"),
        ("a: {<<: [{b: c}, d]}", (1, 9), "'<<' cannot take a list"),
        ("a: " + "9" * 5000, (1, 4), f"the number '{'9' * 30}...' is too large"),
        ("a: 9223372036854775808", (1, 4), "the number '9223372036854775808' is too large"),
        ("a: 0x" + "f" * 17, (1, 4), "the number '0xfffffffffffffffff' is too large"),
        ("a: 1e999", (1, 4), "the number '1e999' is too long or too large"),
        ("a: 0." + "3" * 5000, (1, 4), f"the number '0.{'3' * 28}...' is too long or too large"),
        ('a: "b\\0"', (1, 4), "an escape in this string stands for a character that no program can take"),
        (b"a: b\nc: \xff\n", (2, 4), "the byte 0xff is not UTF-8"),
        (b"\xff\xfea\0", (1, 1), "the byte 0xff is not UTF-8"),
        ("a: b\nc: d\x1b[2J", (2, 5), "the character U+001B is not printable"),
        ("a: b\0", (1, 5), "the character U+0000 is not printable"),
        ("a: \ud800", (1, 4), "the character U+D800 is not printable"),
        ("a: b: c", (1, 5), "a ':' stands where no key can be"),
        ("a:\n\t- b", (2, 1), "a tab stands where the line begins"),
        ("a:\n  b: 1\n c: 2", (3, 2), "the indentation does not fit the lines before"),
        ("a: [1\nb: 2", (2, 2), "a '[' is not closed; it opens in line 1"),
        ("a: {b: 1\n", (2, 1), "a '{' is not closed; it opens in line 1"),
        ("a: 1\nb: 'x\ny: z\n", (2, 4), "a quote is not closed before the end of the file"),
        ("a: @x", (1, 4), "a value cannot begin with '@'"),
        ("a: *", (1, 5), "a '&' or '*' stands here without a name"),
        ("a: [,]", (1, 5), "a value is missing here"),
        ("a: - b", (1, 4), "a '-' stands where no list can begin"),
        ("%YAML 3.0\n---\na", (1, 1), "this version of YAML is unknown"),
        ("!x!y z", (1, 1), "this tag is unknown"),
        ("[a]]", (1, 4), "something stands behind the end of the document"),
        ("a: |\n\tb", (2, 1), "a tab stands where the line begins"),
        ("x" * (1 << 20) + "y", (1, 1), "the file is larger than 1024 KiB"),
    ],
)  # fmt: skip
def test_what_is_refused(text: Any, at: Tuple[int, int], message: str) -> None:
    found = fault(text)
    assert (found.line, found.column) == at
    assert found.message == message


def test_an_unknown_escape_is_told_in_its_line(parser: str) -> None:
    found = fault('a: "\\d"')
    assert (found.line, found.column) == (1, 5 + (parser == "Python"))
    assert found.message == "this escape is unknown"


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_fifty_levels_and_no_more() -> None:
    assert value(nested(50)) is not None
    found = fault(nested(51))
    assert (found.line, found.column, found.message) == (1, 51, "the file is nested deeper than 50 levels")
    assert fault("- " * 300 + "x").column == 101
    assert fault("\n".join(" " * depth + "a:" for depth in range(200))).line == 51


def test_aliases_count_as_levels() -> None:
    # the list around both is a level, so is each list around the alias
    text = "[&a " + nested(30) + ", {}*a{}]"
    inside = 50 - 1 - 30
    assert value(text.format("[" * inside, "]" * inside)) is not None
    found = fault(text.format("[" * (inside + 1), "]" * (inside + 1)))
    assert found.message == "this alias nests the file deeper than 50 levels"


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_a_bomb_of_anchors_stops_at_the_cap() -> None:
    assert value(bomb(4))["a3"][0][0][0][0] == "x"
    found = fault(bomb(9))
    assert found.line == 6
    assert found.message.startswith("the file has more than 250000 values")


def test_a_bomb_of_merges_stops_at_the_cap() -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert fault("\n".join(lines)).message.startswith("the file has more than 250000 values")


def test_the_cap_on_values_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_NODES", 10)
    assert value("[a, b, c, d, e, f, g, h, i]") is not None
    assert fault("[a, b, c, d, e, f, g, h, i, j]").column == 29


def test_all_faults_of_a_tree_at_once_in_file_order() -> None:
    _, faults = read("a: !x 1\nb: 2\nb: 3\nc: *d\ne: 99999999999999999999\n: f\n")
    assert [(found.line, found.column) for found in faults] == [(1, 4), (3, 1), (4, 4), (5, 4), (6, 1)]


def test_what_precedes_bad_syntax_is_told_with_it() -> None:
    _, faults = read("a: 1\na: 2\nb: [\n")
    assert [found.line for found in faults] == [2, 4]


def test_unprintable_characters_are_all_told_up_to_ten() -> None:
    _, faults = read("a: \x01\nb: \x02\n" + "\x03" * 20)
    assert [(found.line, found.column) for found in faults][:4] == [(1, 4), (2, 4), (3, 1), (3, 2)]
    assert len(faults) == 10


def test_a_report_that_overflows_says_so() -> None:
    report = Report("f", "\n" * 3000)
    for line in range(2500, 0, -1):
        report.add(reader.Place(line, 1), "wrong")
    assert len(report.faults) == 101
    assert report.faults[-1].message == "and 2400 more faults from here on"
    assert [found.line for found in report.faults[:3]] == [1501, 1502, 1503]
