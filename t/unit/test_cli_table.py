# SPDX-License-Identifier: MIT
"""Format strings as `flux jobs` takes them. Where Flux's own formatter is there, ours is held against it."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from ensemble.cli.common import columns, room, wrapped
from ensemble.cli.table import Named, Table, pick
from ensemble.errors import UsageError
from ensemble.spec.units import fsd

FIELDS = {"id": "ID", "name": "NAME", "x": "X", "t": "T", "params.": ""}
ROWS: List[Dict[str, Any]] = [
    {"id": "abc", "name": "a-rather-long-name", "x": 1.23456, "t": 3600.0},
    {"id": "abcdefghij", "name": "b", "x": 17, "t": 59.0},
]


def lines(format: str, rows: Any = ROWS, header: bool = True) -> List[str]:
    return list(Table(format, FIELDS).lines(rows, header))


@pytest.mark.parametrize(
    "format",
    [
        "{id:>12} {name:<10.10+} {x:>8.2f}",
        "{id} {name}",
        "[{name:^30}]",
        "{name:.3}|{name:>8.8}|{id:<5.5+}",
        "{t!F:>8h} {x!H}",
        "{t!D:>20h}",
        "{t!d:%H:%M::>12}",
        "+:{name:<4} {id}",
    ],
)
@pytest.mark.flux
def test_as_flux_prints_it(format: str) -> None:
    import io
    from contextlib import redirect_stdout
    from types import SimpleNamespace

    from flux.util import OutputFormat

    out = io.StringIO()
    with redirect_stdout(out):
        theirs = OutputFormat(format, headings={key: title for key, title in FIELDS.items() if title})
        theirs.print_items([SimpleNamespace(**row) for row in ROWS])
    assert lines(format) == [line.rstrip() for line in out.getvalue().splitlines()]


def test_columns_that_would_be_empty_vanish() -> None:
    assert lines("{id} ?:{name} {x}", [{"id": 1, "x": 2}]) == ["ID X", "1 2"]
    assert lines("{id} ?+:{name:>2} {x}", [{"id": 1, "x": 2, "name": "long"}]) == ["ID NAME X", "1 long 2"]


def test_no_value() -> None:
    assert lines("{id:>4h}|{x:>6.2f}|{t!F:>5h}|{params.p:>3h}", [{}], False) == ["   -|      |    -|  -"]


def test_dotted_fields() -> None:
    assert lines("{id} {params.rate:.1f}", [{"id": 1, "params": {"rate": 0.25}}]) == ["ID RATE", "1 0.2"]


@pytest.mark.parametrize(
    ("format", "word"),
    [("{nope}", "'nope'"), ("{id!Z}", "'!Z'"), ("{id:>q}", "'>q'"), ("{id", "broken"), ("text", "names no field")],
)
def test_broken_formats(format: str, word: str) -> None:
    with pytest.raises(UsageError, match=r"expected|broken|-o help") as caught:
        Table(format, FIELDS)
    assert word in str(caught.value)


def test_pick() -> None:
    formats = {"default": Named("", "{id}"), "long": Named("", "{id} {x}")}
    assert pick("help", formats, FIELDS) is None
    for wanted, row in ((None, "abc"), ("long", "abc 1.23456"), ("{x:.1f}", "1.2")):
        table = pick(wanted, formats, FIELDS)
        assert table is not None
        assert next(table.lines(ROWS, False)) == row


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.0005, "0s"), (0.5, "0.500s"), (9.9, "9.900s"), (12.5, "12.5s"), (60, "1m"), (5400, "1.5h"), (86400, "1d")],
)  # fmt: skip
def test_fsd(seconds: float, text: str) -> None:
    assert fsd(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.0412345, "0.04123s"), (2.0547, "2.055s"), (59.5, "59.5s"), (60, "1m"), (5400, "1.5h")]
)  # fmt: skip
def test_fsd_with_digits(seconds: float, text: str) -> None:
    assert fsd(seconds, digits=True) == text


def test_small_tables() -> None:
    assert columns(["NAME", "N"], [["a", 1], ["long", 100], ["none", None]]) == [
        "NAME    N",
        "a       1",
        "long  100",
        "none    -",
    ]


def test_a_table_fits_into_a_width() -> None:
    rows = [["successive-halving-start", 1, "submit trial (10 jobs); log: x"], ["b", 100, ""]]
    wide = columns(["RULE", "N", "WOULD HAVE DONE"], rows)
    assert columns(["RULE", "N", "WOULD HAVE DONE"], rows, len(wide[0]) + 99) == wide
    assert columns(["RULE", "N", "WOULD HAVE DONE"], rows, 40) == [
        "RULE                N  WOULD HAVE DONE",
        "successive-         1  submit trial (10",
        "halving-start          jobs); log: x",
        "b                 100",
    ]
    assert max(map(len, columns(["RULE", "N", "WOULD HAVE DONE"], rows, 30))) == 30
    # numbers are never cut: what cannot fit stays as wide as it is
    assert columns(["A", "B"], [[123456789, 987654321]], 10) == ["        A         B", "123456789 987654321"]


def test_long_lines_go_on_below(monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"  {'word ' * 20}end"
    monkeypatch.delenv("COLUMNS", raising=False)
    pieces = wrapped(line, 6, 50)
    assert [len(piece) - len(piece.lstrip()) for piece in pieces] == [2, 6, 6]
    assert (max(map(len, pieces)) <= 50, " ".join(map(str.strip, pieces))) == (True, line.strip())
    monkeypatch.setenv("COLUMNS", "80")
    assert (room(), len(wrapped(line))) == (80, 2)
