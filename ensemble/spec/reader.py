# SPDX-License-Identifier: MIT
"""YAML text into a tree of nodes that know their positions.

PyYAML's parser delivers events; this file composes them itself, with a stack of its own, for three reasons: every
node keeps its position, duplicate keys and tags are seen, and no file, however nested or full of anchors, costs
more than its caps. Aliases share the node that they name: `size` and `height` of a node are those after expansion,
and the caps apply to them, so that whoever walks the tree may recurse.

Scalars follow the core schema of YAML 1.2: only true and false (and True, TRUE, ...) are booleans, `1e-5` is a
number, `0o17` and `0x1f` are, dates and `1:30` are strings. Merge keys (`<<`) work as in PyYAML.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import yaml

from ensemble.spec import syntax
from ensemble.spec.faults import Place, Report, place, shown
from ensemble.spec.syntax import MAX_DEPTH

MAX_BYTES = 1 << 20
#: after expansion of aliases
MAX_NODES = 250_000

_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
#: what an escape may stand for, and no argument or file name can hold
_UNTAKEABLE = re.compile("[\0\ud800-\udfff]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


class WrittenInt(int):
    """A whole number that remembers how it was written, for places where a string is wanted (`0700`)."""

    text: str


class WrittenFloat(float):
    """A number that remembers how it was written, for places where a string is wanted (`1.10`)."""

    text: str


class Node:
    """A value of the file. Read only once it is composed, since aliases share it.

    `kind` is map, list or scalar. `value` is a dict of key text to (key node, value node), a list of nodes, or what
    the scalar means. `text` is a scalar's text, `plain` says that it stands without quotes.
    """

    __slots__ = ("column", "height", "kind", "line", "plain", "size", "text", "value")

    def __init__(self, kind: str, value: Any, at: Any, text: str = "", plain: bool = False) -> None:
        self.kind = kind
        self.value = value
        self.line: int = at.line
        self.column: int = at.column
        self.text = text
        self.plain = plain
        self.size = 1
        self.height = 0 if kind == "scalar" else 1

    def get(self, key: str) -> Optional[Node]:
        """The value of that key, None where there is none or where this is no mapping."""
        if self.kind != "map" or key not in self.value:
            return None
        node: Node = self.value[key][1]
        return node

    def key(self, key: str) -> Node:
        """The node of the key itself. Raises KeyError."""
        node: Node = self.value[key][0]
        return node

    @property
    def items(self) -> Tuple[Node, ...]:
        """The entries of a list; empty for anything else."""
        return tuple(self.value) if self.kind == "list" else ()

    @property
    def empty(self) -> bool:
        """Does nothing at all stand here, as behind a key without a value?"""
        return self.kind == "scalar" and self.plain and self.text == ""

    def plainly(self) -> Any:
        """As dicts, lists and scalars."""
        if self.kind == "map":
            return {key: node.plainly() for key, (_, node) in self.value.items()}
        if self.kind == "list":
            return [node.plainly() for node in self.value]
        return self.value

    def __str__(self) -> str:
        """As messages show it."""
        if self.kind == "scalar":
            return "nothing" if self.empty else shown(self.text)
        return "a mapping" if self.kind == "map" else "a list"


class _Stop(Exception):
    """Nothing behind this point can be read."""


def decode(text: Union[str, bytes], file: str) -> Tuple[Optional[str], Report]:
    """The characters of a file, or None with faults in the report: too long, not UTF-8, not printable."""
    if len(text) > MAX_BYTES:
        report = Report(file, "")
        report.add(Place(1, 1), f"the file is larger than {MAX_BYTES // 1024} KiB", expected="a smaller file")
        return None, report
    if isinstance(text, bytes):
        try:
            characters = text.decode("utf-8")
        except UnicodeDecodeError as exc:
            rough = text.decode("utf-8", "backslashreplace")
            report = Report(file, rough)
            at = place(text[: exc.start].decode("utf-8"), exc.start)
            report.add(at, f"the byte 0x{text[exc.start]:02x} is not UTF-8", expected="a file in UTF-8")
            return None, report
    else:
        characters = text
    characters = characters[1:] if characters.startswith("\ufeff") else characters
    report = Report(file, characters)
    bad = list(_UNPRINTABLE.finditer(characters))
    for match in bad[:10]:
        code = ord(match.group())
        report.add(place(characters, match.start()), f"the character U+{code:04X} is not printable", expected="text")
    return (None if bad else characters), report


def read(text: str, report: Report) -> Optional[Node]:
    """The root of the tree, or None where nothing can be made of the text. Faults go to the report."""
    return _Composer(report).compose(text)


class _Frame:
    """A collection that is still open: the key that waits for its value, and the mappings to merge."""

    def __init__(self, node: Node, anchor: Optional[str]) -> None:
        self.node = node
        self.anchor = anchor
        self.key: Optional[Node] = None
        self.merges: List[Node] = []


class _Composer:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._stack: List[_Frame] = []
        self._anchors: Dict[str, Optional[Node]] = {}
        self._root: Optional[Node] = None
        self._nodes = 0
        self._documents = 0

    def compose(self, text: str) -> Optional[Node]:
        try:
            for event in _events(text):
                self._event(event)
        except _Stop:
            return None
        except yaml.YAMLError as exc:
            syntax.tell(exc, text, self._report)
            return None
        if self._root is None:
            self._report.add(Place(1, 1), "the file is empty", expected="a mapping with the keys jobs and rules")
        return self._root

    def _event(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._place(self._scalar(event), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self._place(self._alias(event), None)
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            self._open(event)
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            frame = self._stack.pop()
            if frame.node.kind == "map":
                self._merge(frame)
            self._place(frame.node, frame.anchor)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._report.add(_start(event), "a second document begins here", expected="one document in a file")
                raise _Stop

    def _open(self, event: Any) -> None:
        at = _start(event)
        kind = "list" if isinstance(event, yaml.SequenceStartEvent) else "map"
        if len(self._stack) >= MAX_DEPTH:
            self._report.add(at, f"the file is nested deeper than {MAX_DEPTH} levels", expected="a flatter file")
            raise _Stop
        if event.tag not in (None, "!", _TAG + ("seq" if kind == "list" else "map")):
            self._tag(at, event.tag)
        self._count(at, 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Frame(Node(kind, [] if kind == "list" else {}, at), event.anchor))

    def _place(self, node: Node, anchor: Optional[str]) -> None:
        """Put a finished node where it belongs."""
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        frame.node.size += node.size
        frame.node.height = max(frame.node.height, node.height + 1)
        if frame.node.kind == "list":
            frame.node.value.append(node)
        elif frame.key is None:
            frame.key = node
        else:
            key, frame.key = frame.key, None
            self._pair(frame, key, node)

    def _pair(self, frame: _Frame, key: Node, node: Node) -> None:
        if key.kind != "scalar":
            self._report.add(key, f"a key cannot be {key}", expected="a word")
        elif key.empty:
            self._report.add(key, "a key is missing here", expected="a word before the colon")
        elif key.plain and key.text == _MERGE:
            sources = node.items if node.kind == "list" else (node,)
            if all(source.kind == "map" for source in sources):
                frame.merges.extend(sources)
            else:
                self._report.add(node, f"'<<' cannot take {node}", expected="a mapping, or a list of mappings")
        elif key.text in frame.node.value:
            first = frame.node.key(key.text)
            self._report.add(
                key,
                f"the key {shown(key.text)} is given twice; the first one is in line {first.line}",
                value=key.text,
                expected="each key once",
            )
        else:
            frame.node.value[key.text] = (key, node)

    @staticmethod
    def _merge(frame: _Frame) -> None:
        """What `<<` brings in, below what the mapping says itself; of several the first wins, in one list or not."""
        if frame.merges:
            entries: Dict[str, Tuple[Node, Node]] = {}
            for source in reversed(frame.merges):
                entries.update(source.value)
            entries.update(frame.node.value)
            frame.node.value = entries

    def _alias(self, event: Any) -> Node:
        at = _start(event)
        if event.anchor not in self._anchors:
            self._report.add(
                at,
                f"the alias {shown('*' + event.anchor)} names no anchor before it",
                value=event.anchor,
                expected="quotes around a value that begins with '*'",
            )
            return Node("scalar", None, at, "null", True)
        node = self._anchors[event.anchor]
        if node is None:
            self._report.add(at, f"the alias {shown('*' + event.anchor)} stands inside what it names")
            raise _Stop
        if len(self._stack) + node.height > MAX_DEPTH:
            self._report.add(at, f"this alias nests the file deeper than {MAX_DEPTH} levels", expected="a flatter file")
            raise _Stop
        self._count(at, node.size)
        return node

    def _count(self, at: Place, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            message = f"the file has more than {MAX_NODES} values, those that aliases repeat counted each time"
            self._report.add(at, message, expected="a smaller file")
            raise _Stop

    def _scalar(self, event: Any) -> Node:
        at = _start(event)
        self._count(at, 1)
        text: str = event.value
        plain = event.style in (None, "")
        if _UNTAKEABLE.search(text):
            self._report.add(at, "an escape in this string stands for a character that no program can take")
            text = ""
        tag: Optional[str] = event.tag
        value: Any = text
        if tag is None:
            value = self._resolve(at, text) if plain else text
        elif tag in (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"):
            value = self._tagged(at, text, tag[len(_TAG) :])
        elif tag not in ("!", _TAG + "str"):
            self._tag(at, tag)
        return Node("scalar", value, at, text, plain and tag is None)

    def _resolve(self, at: Place, text: str) -> Any:
        """What a plain scalar means in the core schema."""
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _INT.fullmatch(text):
            number = 0
            if len(text) < 70:
                number = int(text[2:], {"o": 8, "x": 16}[text[1]]) if text[1:2] in ("o", "x") else int(text)
            if len(text) >= 70 or abs(number) >= 1 << 63:
                self._report.add(at, f"the number {shown(text, 30)} is too large", expected="a number below 2**63")
                return 0
            whole = WrittenInt(number)
            whole.text = text
            return whole
        if _FLOAT.fullmatch(text):
            real = WrittenFloat(text.replace(".", "", 1) if text.lstrip("+-")[1:].isalpha() else text)
            real.text = text
            if len(text) > 400 or (real in (float("inf"), float("-inf")) and not text.lower().endswith(".inf")):
                self._report.add(at, f"the number {shown(text, 30)} is too long or too large", expected="a number")
                return 0
            return real
        return text

    def _tagged(self, at: Place, text: str, tag: str) -> Any:
        value = self._resolve(at, text)
        if tag == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        fits = {"int": int, "float": float, "bool": bool, "null": type(None)}[tag]
        if not isinstance(value, fits) or (tag == "int" and isinstance(value, bool)):
            self._report.add(at, f"{shown(text)} is no {tag}, as its tag says", value=text)
        return value

    def _tag(self, at: Place, tag: str) -> None:
        name = "!!" + tag[len(_TAG) :] if tag.startswith(_TAG) else tag
        self._report.add(at, f"the tag {shown(name)} is not allowed here", value=name, expected="a value without a tag")


def _start(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _events(text: str) -> Iterator[Any]:
    """PyYAML's events, from its parser in C where it has one."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return iter(yaml.parse(text, Loader=loader))
