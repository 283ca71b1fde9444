# SPDX-License-Identifier: MIT
"""The graph of a file as lines for a terminal.

How it looks. Each thing that makes rules fire has a head of its own, a group a box, in the order in which the file comes to
it from the start; below it hang its rules, and below these what they do. An arrow names the group that is submitted; `^` behind
it says that its box stands above, so that there is a circle. A rule that several things make fire is told below the first one.

Law of this file: a function of a `Flow`; no line is wider than it is told, and whatever stands in a file is one line of text.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from typing import Dict, Iterator, List, NamedTuple, Tuple

from ensemble.spec.faults import escape
from ensemble.spec.flow import Flow, Node

#: the narrowest that is still drawn as a picture
NARROWEST = 40
#: lines that one text may take
_LINES = 3


class Signs(NamedTuple):
    """What lines are drawn with."""

    across: str
    down: str
    corners: Tuple[str, str, str, str]
    branch: str
    last: str
    arrow: str
    bullet: str
    back: str


FINE = Signs("─", "│", ("╭", "╮", "╰", "╯"), "├─", "╰─", "▶", "●", "↑")
PLAIN = Signs("-", "|", ("+", "+", "+", "+"), "|-", "`-", ">", "*", "^")

#: kinds of nodes that have a head, in the order in which heads without a way to them are told
_HEADS = ("begin", "signal", "topic", "group", "any", "variable")


def lines(flow: Flow, width: int, signs: Signs = FINE) -> Iterator[str]:
    """The picture, each line at most `width` cells wide."""
    yield from _Picture(flow, max(width, NARROWEST), signs).lines()


class _Picture:
    def __init__(self, flow: Flow, width: int, signs: Signs) -> None:
        self._flow = flow
        self._width = width
        self._signs = signs
        self._nodes: Dict[str, Node] = {node.key: node for node in flow.nodes}
        #: head -> the rules that it makes fire
        self._below: Dict[str, List[str]] = {}
        #: rule -> what it submits and sends
        self._leads: Dict[str, List[str]] = {}
        #: rule -> what makes it fire
        self._causes: Dict[str, List[str]] = {}
        for edge in flow.edges:
            if edge.kind == "triggers":
                self._below.setdefault(edge.source, []).append(edge.target)
                self._causes.setdefault(edge.target, []).append(edge.source)
            elif edge.kind in ("submits", "sends", "sets", "calls", "answers", "may submit"):
                self._leads.setdefault(edge.source, []).append(edge.target)
        #: heads in the order in which they are told
        self._order = self._ordered()
        self._place = {key: place for place, key in enumerate(self._order)}
        #: rules that were told
        self._told: Dict[str, str] = {}

    def _ordered(self) -> List[str]:
        """The heads: what the start leads to first, step by step; then what fires of itself, and what that leads to."""
        heads = [
            node.key
            for kind in _HEADS
            for node in self._flow.nodes
            if node.kind == kind and (node.key in self._below or kind in ("group", "begin"))
        ]
        known, wanted = set(heads), {""}
        lonely = [node.key for node in self._lonely()]
        order: Dict[str, None] = {}
        firsts = [key for key in heads if key.startswith("begin:")] + ["", *heads]
        for first in firsts:
            queue = deque((first,))
            while queue:
                here = queue.popleft()
                if here in order or (here not in known and here not in wanted):
                    continue
                order[here] = None
                rules = lonely if here == "" else self._below.get(here, ())
                for rule in rules:
                    for target in self._leads.get(rule, ()):
                        # through a function to the groups that are its
                        queue.extend(self._leads.get(target, ()) if target.startswith("function:") else (target,))
        return [key for key in order if key or lonely]

    def _lonely(self) -> List[Node]:
        """The rules that nothing in the file makes fire: on times, nodes, the end."""
        return [node for node in self._flow.nodes if node.kind == "rule" and node.key not in self._causes]

    def lines(self) -> Iterator[str]:
        groups = sum(node.kind == "group" for node in self._flow.nodes)
        rules = sum(node.kind == "rule" for node in self._flow.nodes)
        size = f"groups: {groups}, rules: {rules}"
        name = _cut(escape(self._flow.name), self._width - len(size) - 2)
        yield f"{name}{' ' * (self._width - _cells(name) - len(size))}{size}"
        lonely = self._lonely()
        for key in self._order:
            yield ""
            if not key:
                yield f"{self._signs.bullet} of themselves"
                yield from self._rules(lonely, key)
                continue
            node = self._nodes[key]
            yield from self._box(node) if node.kind in ("group", "any") else self._head(node)
            yield from self._rules([self._nodes[rule] for rule in self._below.get(key, ())], key)

    def _head(self, node: Node) -> Iterator[str]:
        what = "" if node.kind == "begin" else f"{node.kind} "
        value = f" = {node.lines[0]}" if node.kind == "variable" and node.lines else ""
        name = "" if what and node.name.startswith("any ") else what
        yield _cut(escape(f"{self._signs.bullet} {name}{node.name}{value}"), self._width)

    def _box(self, node: Node) -> Iterator[str]:
        signs, inner = self._signs, self._width - 4
        left, right, low_left, low_right = signs.corners
        name = _cut(escape(node.name), self._width - 6)
        rest = signs.across * (self._width - _cells(name) - 5)
        yield f"{left}{signs.across} {name} {rest}{right}"
        for text in (*node.lines, *((f"never: {node.never}",) if node.never else ())):
            for line in _wrapped(text, inner):
                yield f"{signs.down} {line}{' ' * (inner - _cells(line))} {signs.down}"
        yield f"{signs.branch[0] if node.key in self._below else low_left}{signs.across * (self._width - 2)}{low_right}"

    def _rules(self, rules: List[Node], head: str) -> Iterator[str]:
        for number, rule in enumerate(rules):
            yield from self._rule(rule, head, number == len(rules) - 1)

    def _rule(self, rule: Node, head: str, last: bool) -> Iterator[str]:
        signs = self._signs
        below = "   " if last else f"{signs.down}  "
        branch = signs.last if last else signs.branch
        if rule.key in self._told:
            where = self._told[rule.key]
            yield _cut(f"{branch} {rule.name}: see {where}", self._width)
            return
        self._told[rule.key] = self._nodes[head].name if head else "above"
        above = self._nodes.get(head)
        said = (above.name, f"{above.kind} {above.name}") if above is not None else ()
        about = [text for text in (*(_without(line, said) for line in rule.lines), rule.times) if text]
        about += [] if rule.enabled else ["disabled at first"]
        title = f"{rule.name}{': ' if about else ''}{', '.join(about)}"
        for n, line in enumerate(_wrapped(title, self._width - 3)):
            yield f"{branch if not n else below.rstrip() or '  '} {line}"
        texts = [(f"if {rule.when}", "   ")] if rule.when else []
        if rule.never:
            texts.append((f"never: {rule.never}", "   "))
        for text, indent in texts:
            for n, line in enumerate(_wrapped(text, self._width - 6)):
                yield f"{below}{indent if n else ''}{line}"
        for number, action in enumerate(rule.actions):
            end = number == len(rule.actions) - 1
            yield from self._action(action, below, end, head)

    def _action(self, action: str, below: str, last: bool, head: str) -> Iterator[str]:
        signs = self._signs
        word, _, rest = action.partition(" ")
        arrow, back = signs.across * 2, ""
        if word in ("submit", "signal"):
            arrow = signs.across + signs.arrow
            place = self._place.get(f"{'group' if word == 'submit' else word}:{rest.partition(',')[0]}")
            back = f" {signs.back}" if place is not None and place <= self._place[head] else ""
        corner = signs.last[0] if last else signs.branch[0]
        room = self._width - len(below) - 4
        for n, line in enumerate(_wrapped(action + back, room)):
            yield f"{below}{corner}{arrow} {line}" if not n else f"{below}{' ' if last else signs.down}   {line}"


def _without(line: str, said: Tuple[str, ...]) -> str:
    """What a rule waits for, without what stands above it already."""
    before, of, name = line.rpartition(" of ")
    return "" if line in said else before if of and name in said else line


def _wrapped(text: str, width: int, most: int = _LINES) -> List[str]:
    """The text in lines of at most so many cells, broken at spaces where there are any; what is too long is cut."""
    words = escape(" ".join(text.split())).split(" ")
    found: List[str] = []
    line = ""
    while words:
        word = words.pop(0)
        longer = f"{line} {word}" if line else word
        if _cells(longer) <= width:
            line = longer
        elif not line:
            head = _head(word, width)
            found.append(head)
            words.insert(0, word[len(head) :])
        else:
            found.append(line)
            line = ""
            words.insert(0, word)
        if len(found) == most:
            found[-1] = _cut(f"{found[-1]} {line} {' '.join(words)}", width)
            return found
    return [*found, line] if line or not found else found


def _head(text: str, width: int) -> str:
    """As much of the text as fits."""
    size = 0
    for at, c in enumerate(text):
        size += _cells(c)
        if size > width:
            return text[: max(at, 1)]
    return text


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if _cells(text) <= width else _head(text, width - 3).rstrip() + "..."


def _cells(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
