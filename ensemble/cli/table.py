# SPDX-License-Identifier: MIT
"""Tables in the look of `flux jobs`: a format string with field names, and headings that follow from it.

The format is Python's, with what users of Flux's commands know on top: conversions `!d` (a time, with a strftime
format before `::`), `!D` (ISO time), `!F` (Flux Standard Duration), `!H` (h:mm:ss), `!P` (percent); the suffixes `h`
(a hyphen where there is no value) and `+` (a plus sign where a value was cut); the prefixes `?:` (no column where it
would be empty), `+:` (as wide as its widest value) and `?+:`. flux.util has the same, but is not there without Flux.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from string import Formatter
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from ensemble.errors import UsageError
from ensemble.spec.units import fsd

_SPEC = re.compile(
    r"(?P<fill>[^{}](?=[<>=^]))?(?P<align>[<>=^])?(?P<sign>[-+ ])?(?P<alt>#?)(?P<zero>0?)(?P<width>\d*)"
    r"(?P<group>[_,]?)(?:\.(?P<precision>\d+))?(?P<type>[bcdeEfFgGnosxX%]?)(?P<hyphen>h?)(?P<cut>\+?)"
)
_PREFIX = re.compile(r"(\?\+|\?|\+):$")
_CONVERSIONS = ("d", "D", "F", "H", "P", "s", "r")


class Named(NamedTuple):
    """A format with a name, for `-o NAME`."""

    description: str
    format: str


@dataclass(frozen=True)
class _Column:
    before: str  # literal text
    field: str  # '' for text alone
    conversion: str
    dates: str  # strftime format of `!d`
    fill: str
    align: str
    width: int
    precision: Optional[int]
    number: str  # the rest of a spec that only numbers take
    hyphen: bool
    cut: bool
    collapse: bool
    expand: bool

    def text(self, value: Any) -> str:
        """The value as it stands in the cell, padded and cut."""
        if value is None or value == "":
            return self._pad("-" if self.hyphen else "", "")
        shown = _convert(value, self.conversion, self.dates)
        if self.number and isinstance(shown, (int, float)):
            spec = self.number if self.precision is None else self._precise()
            try:
                return self._pad(format(shown, spec), ">")
            except ValueError:
                shown = str(shown)
        right = isinstance(shown, (int, float)) and not self.number
        shown = str(shown)
        if self.precision is not None and len(shown) > self.precision:
            shown = shown[: max(0, self.precision - 1)] + "+" if self.cut else shown[: self.precision]
        return self._pad(shown, ">" if right else "<")

    def heading(self, text: str) -> str:
        shown = text[: max(self.precision, self.width)] if self.width and self.precision and not self.number else text
        return self._pad(shown, "<")

    def _precise(self) -> str:
        return f"{self.number[:-1]}.{self.precision}{self.number[-1]}"

    def _pad(self, text: str, default: str) -> str:
        align = (self.align or default or "<").replace("=", ">")
        return format(text, f"{self.fill or ' '}{align}{self.width}") if self.width else text


def _convert(value: Any, conversion: str, dates: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if conversion == "s":
        return str(value)
    if conversion == "r":
        return repr(value)
    if not number:
        return value
    if conversion == "d":
        moment = datetime.fromtimestamp(value)
        return moment.strftime(dates) if dates else moment.isoformat(sep=" ", timespec="seconds")
    if conversion == "D":
        return datetime.fromtimestamp(value).strftime("%Y-%m-%dT%H:%M:%S")
    if conversion == "F":
        return fsd(value)
    if conversion == "H":
        return str(timedelta(seconds=max(1, round(value)) if value > 0 else 0))
    if conversion == "P":
        return f"{value * 100:.3g}%"
    return value


class Table:
    """A parsed format over fields with headings. A field with a dot is known if `prefix.` of it is a heading."""

    def __init__(self, format: str, headings: Mapping[str, str]) -> None:
        """Raises UsageError for a format that is broken or names an unknown field."""
        self._headings = headings
        self._columns: List[_Column] = []
        try:
            parts = list(Formatter().parse(format))
        except ValueError as exc:
            raise UsageError(f"the format '{format}' is broken: {exc}") from None
        for before, field, spec, conversion in parts:
            self._columns.append(self._column(before or "", field, spec or "", conversion or ""))
        if not any(column.field for column in self._columns):
            raise UsageError(f"the format '{format}' names no field; '-o help' lists the fields and formats")

    def _column(self, before: str, field: Optional[str], spec: str, conversion: str) -> _Column:
        if field is None:
            return _Column(before, "", "", "", "", "", 0, None, "", False, False, False, False)
        if field not in self._headings and f"{field.split('.')[0]}." not in self._headings:
            raise UsageError(f"no field is called '{field}'; '-o help' lists the fields and formats")
        if conversion and conversion not in _CONVERSIONS:
            raise UsageError(f"'!{conversion}' is no conversion; expected one of !{', !'.join(_CONVERSIONS)}")
        prefix = _PREFIX.search(before)
        dates, _, plain = spec.rpartition("::") if conversion == "d" else ("", "", spec)
        if conversion == "d" and "%" in plain:
            dates, plain = plain, ""
        match = _SPEC.fullmatch(plain)
        if match is None or (match["width"] and int(match["width"]) > 10000):
            raise UsageError(f"'{spec}' of field '{field}' is no format; expected one such as >12 or .2f")
        number = match["type"] if match["type"] not in ("", "s") else ""
        if number:
            number = (match["sign"] or "") + match["alt"] + match["group"] + number
        return _Column(
            before=before[: prefix.start()] if prefix else before,
            field=field,
            conversion=conversion,
            dates=dates,
            fill=match["fill"] or ("0" if match["zero"] else ""),
            align=match["align"] or "",
            width=int(match["width"] or 0),
            precision=int(match["precision"]) if match["precision"] else None,
            number=number,
            hyphen=bool(match["hyphen"]),
            cut=bool(match["cut"]),
            collapse=bool(prefix and "?" in prefix[1]),
            expand=bool(prefix and "+" in prefix[1]),
        )

    def lines(self, rows: Sequence[Mapping[str, Any]], header: bool = True) -> Iterator[str]:
        """The heading, if asked for, and a line a row, without trailing spaces."""
        columns = [column for column in (self._fit(column, rows) for column in self._columns) if column]
        if header:
            yield "".join(c.before + (c.heading(self._heading(c.field)) if c.field else "") for c in columns).rstrip()
        for row in rows:
            yield "".join(c.before + (c.text(_value(row, c.field)) if c.field else "") for c in columns).rstrip()

    def _heading(self, field: str) -> str:
        return self._headings.get(field) or field.rsplit(".", 1)[-1].upper()

    def _fit(self, column: _Column, rows: Sequence[Mapping[str, Any]]) -> Optional[_Column]:
        """The column for these rows, or None where it has nothing to show."""
        if not column.field or not (column.collapse or column.expand):
            return column
        free = replace(column, width=0, precision=column.precision if column.number else None)
        texts = [free.text(_value(row, column.field)) for row in rows]
        if column.collapse and not any(text.strip(" -") for text in texts):
            return None
        if column.expand:
            widest = max([len(self._heading(column.field)), *map(len, texts)])
            return replace(free, width=widest)
        return column


def _value(row: Mapping[str, Any], field: str) -> Any:
    if field in row:
        return row[field]
    head, _, rest = field.partition(".")
    inner = row.get(head)
    return inner.get(rest) if isinstance(inner, Mapping) else None


def pick(wanted: Optional[str], formats: Mapping[str, Named], headings: Mapping[str, str]) -> Optional[Table]:
    """The table for `-o WANTED`: a named format or a format string; None for `help`. Raises UsageError."""
    if wanted == "help":
        return None
    if wanted is None:
        wanted = "default"
    if wanted in formats:
        return Table(formats[wanted].format, headings)
    if "{" not in wanted:
        raise UsageError(f"no format is called '{wanted}'; expected {', '.join(formats)}, help, or a format string")
    return Table(wanted, headings)


def help_lines(formats: Mapping[str, Named], headings: Mapping[str, str]) -> Iterator[str]:
    """What `-o help` prints."""
    yield "Formats:"
    for name, named in formats.items():
        yield f"  {name:<10} {named.description}"
        yield f"             {named.format}"
    yield "Fields:"
    yield "  " + " ".join(f"{field}NAME" if field.endswith(".") else field for field in headings)
