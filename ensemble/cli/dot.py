# SPDX-License-Identifier: MIT
"""The graph of a file in the language of Graphviz.

Law of this file: a function of a `Flow`, line by line in its order. Whatever stands in a file is text in the picture: it is
escaped for the labels of Graphviz, which are a kind of HTML, and nothing of it is ever read as anything else. Variables are
drawn where they make rules fire; those that are only read would fill the picture with lines.
"""

from __future__ import annotations

import re
from typing import Dict, Iterable, Iterator, List, Tuple

from ensemble.spec.faults import escape
from ensemble.spec.flow import Edge, Flow, Node

#: characters of a line in a box, and lines of one text
_WIDTH, _LINES = 44, 4
#: edges beyond which the picture is laid out in ways that are quick, not beautiful
_MANY = 400

_GREY = "#64748b"
#: kind of node -> attributes
_NODES: Dict[str, str] = {
    "begin": 'shape=box, style="filled,rounded", fillcolor="#0f172a", color="#0f172a", fontcolor=white, margin="0.12,0.04"',
    "group": 'shape=box, style="filled,rounded", fillcolor="#dbeafe", color="#2563eb", penwidth=1.6, margin="0.14,0.08"',
    "any": 'shape=box, style="filled,rounded,dashed", fillcolor="#eff6ff", color="#2563eb", margin="0.14,0.08"',
    "rule": 'shape=box, style=filled, fillcolor="#ffffff", color="#94a3b8", margin="0.12,0.06"',
    "signal": 'shape=cds, style=filled, fillcolor="#fef3c7", color="#d97706", margin="0.2,0.08"',
    "topic": 'shape=cds, style=filled, fillcolor="#ffedd5", color="#ea580c", margin="0.2,0.08"',
    "variable": 'shape=ellipse, style=filled, fillcolor="#f3e8ff", color="#9333ea", margin="0.05,0.02"',
    "function": 'shape=component, style=filled, fillcolor="#dcfce7", color="#16a34a", margin="0.16,0.08"',
    "end": 'shape=doubleoctagon, style=filled, fillcolor="#fee2e2", color="#dc2626", margin="0.08,0.03"',
}
#: kind of edge -> attributes
_EDGES: Dict[str, str] = {
    "triggers": 'color="#475569", fontcolor="#475569"',
    "reads": 'color="#94a3b8", fontcolor="#94a3b8", style=dashed, arrowhead=open, arrowsize=0.6, constraint=false',
    "submits": 'color="#2563eb", fontcolor="#2563eb", penwidth=1.8',
    "cancels": 'color="#dc2626", fontcolor="#dc2626", arrowhead=tee, constraint=false',
    "kills": 'color="#dc2626", fontcolor="#dc2626", arrowhead=tee, constraint=false',
    "urges": 'color="#0891b2", fontcolor="#0891b2", arrowhead=diamond, constraint=false',
    "sends": 'color="#d97706", fontcolor="#d97706", penwidth=1.4',
    "enables": 'color="#16a34a", fontcolor="#16a34a", style=dashed',
    "disables": 'color="#dc2626", fontcolor="#dc2626", style=dashed, arrowhead=tee',
    "sets": 'color="#9333ea", fontcolor="#9333ea"',
    "calls": 'color="#16a34a", fontcolor="#16a34a"',
    "answers": 'color="#16a34a", fontcolor="#16a34a", style=dotted',
    "may submit": 'color="#16a34a", fontcolor="#16a34a", style=dotted',
    "ends": 'color="#dc2626", fontcolor="#dc2626"',
}
#: what a rule is called that the file gives no id
_NUMBERED = re.compile(r"rule-\d+x*")
#: kinds of edges whose kind is written on them
_NAMED = ("cancels", "kills", "urges", "enables", "disables", "answers", "may submit")
#: lines of a rule that edges say already
_DRAWN = ("submit ", "cancel ", "kill ", "enable ", "disable ", "call ", "signal ", "stop", "terminate", "urgency ")


def dot(flow: Flow) -> Iterator[str]:
    """The lines of a file for `dot`."""
    woken = {edge.source for edge in flow.edges if edge.kind == "triggers"}
    nodes = [node for node in flow.nodes if node.kind != "variable" or node.key in woken]
    caused = {edge.target for edge in flow.edges if edge.kind == "triggers"}
    drawn = {node.key: f"n{number}" for number, node in enumerate(nodes)}
    edges = [edge for edge in flow.edges if edge.source in drawn and edge.target in drawn]
    yield f"digraph {_quoted(flow.name)} {{"
    yield '  graph [rankdir=TB, nodesep=0.35, ranksep=0.45, fontname="Helvetica", fontsize=16, labelloc=t, bgcolor=white,'
    yield f"         label=<<b>{_html(flow.name)}</b>>{_quick(len(edges))}];"
    yield '  node [fontname="Helvetica", fontsize=11, height=0.3, width=0.5];'
    yield '  edge [fontname="Helvetica", fontsize=9, arrowsize=0.75];'
    for node in nodes:
        yield f"  {drawn[node.key]} [label={_label(node, node.key in caused)}, {_NODES[node.kind]}{_marks(node)}];"
    for edge in edges:
        yield f"  {drawn[edge.source]} -> {drawn[edge.target]} [{_EDGES[edge.kind]}{_edge_label(edge)}];"
    yield "}"


def _quick(edges: int) -> str:
    return ", splines=line, nslimit=1, nslimit1=1, mclimit=0.1" if edges > _MANY else ""


def _label(node: Node, shown: bool) -> str:
    """What stands in a node. `shown`: an edge says what a rule waits for."""
    rows: List[str] = [f"<b>{_html(node.name)}</b>"]
    if node.kind == "group":
        for line in node.lines:
            summary, _, command = line.partition(": ")
            rows += [_small(summary, _GREY), *_code(command)]
    elif node.kind == "rule":
        if _NUMBERED.fullmatch(node.name):
            rows = [_small(node.name, _GREY)]
        about = " · ".join(text for text in (*(() if shown else node.lines), node.times) if text)
        rows += [_small(line, _GREY) for line in _wrapped(about)]
        if node.when:
            rows += [_small(("if " if not n else "") + line, "#0f172a") for n, line in enumerate(_wrapped(node.when))]
        for action in node.actions:
            if not action.startswith(_DRAWN):
                rows += [_small(line, "#7c3aed") for line in _wrapped(action, 2)]
    else:
        rows += [_small(line, _GREY) for text in node.lines for line in _wrapped(text)]
    if node.never:
        rows.append(_small("never: " + _cut(node.never, 2 * _WIDTH), "#dc2626"))
    return f"<{'<br/>'.join(rows)}>"


def _marks(node: Node) -> str:
    """How what never comes about, and what rests at first, looks."""
    found = ""
    if node.kind == "rule" and not node.enabled:
        found += ', style="filled,dashed", fillcolor="#f8fafc"'
    if node.never:
        found += ', color="#dc2626", fontcolor="#94a3b8"'
    return found


def _edge_label(edge: Edge) -> str:
    text = edge.text
    if edge.kind in _NAMED:
        text = f"{edge.kind}{', ' if text else ''}{text}"
    if edge.kind in ("reads", "sets", "calls", "sends") or not text:
        return ""
    # a little room between the line and its label
    return f", label=<{'<br/>'.join(f'&#160;{_html(line)}&#160;' for line in _wrapped(text, 2, 28))}>"


def _code(text: str) -> List[str]:
    return [f'<font face="Courier" point-size="9">{_html(line)}</font>' for line in _wrapped(text, 2)]


def _small(text: str, color: str) -> str:
    return f'<font point-size="9" color="{color}">{_html(text)}</font>'


def _wrapped(text: str, most: int = _LINES, width: int = _WIDTH) -> List[str]:
    """The text in lines, broken at spaces where there are any; what is too long is cut."""
    lines: List[str] = []
    left = text.strip()
    while left and len(lines) < most:
        if len(left) <= width:
            return [*lines, left]
        at = left.rfind(" ", width // 3, width + 1)
        line, left = (left[:at], left[at + 1 :]) if at > 0 else (left[:width], left[width:])
        lines.append(line)
    if left:
        lines[-1] = _cut(lines[-1] + " " + left, width)
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


#: what Graphviz replaces in labels
_NAMES = re.compile(r"\\([A-Za-z])")
_ENTITIES: Tuple[Tuple[str, str], ...] = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;"))


def _html(text: str) -> str:
    """The text for a label: nothing in it is markup, and nothing is a control character."""
    text = escape(text)
    for character, entity in _ENTITIES:
        text = text.replace(character, entity)
    # \N, \G, ... would stand for names even here; a space without a width keeps the two apart
    return _NAMES.sub(r"&#92;&#8203;\1", text)


def _quoted(text: str) -> str:
    """The text as a quoted name."""
    return '"' + escape(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def text(lines: Iterable[str]) -> str:
    """The lines as a file."""
    return "\n".join(lines) + "\n"
