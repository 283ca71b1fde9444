# SPDX-License-Identifier: MIT
"""Malformed files: whatever stands in a file, it loads or is told with positions; nothing else ever comes out.

Each kind of damage is a function that takes the lines of a good file and hypothesis's `draw`. A kind that must be
found out says which message it leads to, so that damage that reaches nothing fails here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.errors import SpecError
from ensemble.spec.load import Loaded, load

TOP = Path(__file__).resolve().parents[2]
FILES = [
    *sorted((TOP / "examples").glob("*.yaml")),
    *sorted(Path(__file__).with_name("data").glob("predecessor-*.yaml")),
]
TEXTS = [path.read_text() for path in FILES]

Draw = Callable[[Any], Any]
Damage = Callable[[List[str], Draw], List[str]]


def at(lines: List[str], draw: Draw) -> int:
    return int(draw(st.integers(0, len(lines) - 1)))


def delete(lines: List[str], draw: Draw) -> List[str]:
    start = at(lines, draw)
    return lines[:start] + lines[start + draw(st.integers(1, 4)) :]


def duplicate(lines: List[str], draw: Draw) -> List[str]:
    start = at(lines, draw)
    count = draw(st.integers(1, 5))
    return lines[: start + count] + lines[start:]


def swap(lines: List[str], draw: Draw) -> List[str]:
    one, other = at(lines, draw), at(lines, draw)
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def indent(lines: List[str], draw: Draw) -> List[str]:
    which = at(lines, draw)
    lines[which] = draw(st.sampled_from(["", " ", "   ", "\t", "        "])) + lines[which].lstrip()
    return lines


def cut(lines: List[str], draw: Draw) -> List[str]:
    which = at(lines, draw)
    return [*lines[:which], lines[which][: draw(st.integers(0, 60))]]


def insert(lines: List[str], draw: Draw) -> List[str]:
    which = at(lines, draw)
    where = draw(st.integers(0, len(lines[which])))
    junk = draw(st.text(st.sampled_from("[]{}:,-?&*!|>'\"%@`#~ \n\\éx"), min_size=1, max_size=6))
    lines[which] = lines[which][:where] + junk + lines[which][where:]
    return lines


#: values of any type but the one that was there
OTHERS = [
    "[]",
    "{}",
    "[a, b]",
    "{a: b}",
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    ".nan",
    "-.inf",
    "''",
    "'a b'",
    "~",
    "2001-01-01",
]


def retype(lines: List[str], draw: Draw) -> List[str]:
    return with_value(lines, draw, draw(st.sampled_from(OTHERS)))


def with_value(lines: List[str], draw: Draw, value: str) -> List[str]:
    """With that value behind some key; there is one in every file."""
    keyed = [number for number, line in enumerate(lines) if ": " in line and not line.lstrip().startswith("#")]
    which = draw(st.sampled_from(keyed))
    lines[which] = lines[which].split(": ", 1)[0] + ": " + value
    return lines


def nest(lines: List[str], draw: Draw) -> List[str]:
    depth = draw(st.sampled_from([51, 100, 1000, 100_000]))
    opening = draw(st.sampled_from(["[", "{a: ", "- ", "[{a: ["]))
    if opening == "- ":
        return [*lines, "deep:", "  " + opening * depth + "x"]
    return [*lines, "deep: " + opening * depth]


def enlarge(lines: List[str], draw: Draw) -> List[str]:
    digits = draw(st.sampled_from([19, 40, 400, 5000, 500_000]))
    form = draw(st.sampled_from(["{}", "-{}", "1{}", "0x{}", "1e{}", "0.{}e{}"]))
    return [*lines, "huge: " + form.format("9" * digits, "9" * 6)]


def tag(lines: List[str], draw: Draw) -> List[str]:
    name = draw(
        st.sampled_from(["!!python/object/apply:os.system", "!mine", "!!binary", "!!timestamp", "!<x:y>", "!!set"])
    )
    return [*lines, f"tagged: {name} " + draw(st.sampled_from(["x", "[x]", "{x: y}", "'x'"]))]


def explode(lines: List[str], draw: Draw) -> List[str]:
    width, merging = draw(st.integers(6, 30)), draw(st.booleans())
    lines = [*lines, "a0: &a0 {x: 1, y: 2}"]
    for level in range(1, 12):
        many = f"[{', '.join([f'*a{level - 1}'] * width)}]"
        lines.append(f"a{level}: &a{level} " + (f"{{<<: {many}}}" if merging else f"{{x: {many}}}"))
    return lines


def recurse(lines: List[str], draw: Draw) -> List[str]:
    return [*lines, draw(st.sampled_from(["r: &r [*r]", "r: &r {a: *r}", "r: &r {<<: *r}", "r: &r [[{a: [*r]}]]"]))]


def again(lines: List[str], draw: Draw) -> List[str]:
    # a file may have an algorithm in place of rules
    key = draw(st.sampled_from([key for key in ("jobs", "rules") if f"{key}:" in lines]))
    return [*lines, f"{key}: []"]


def second(lines: List[str], draw: Draw) -> List[str]:
    return [*lines, "---", *lines]


def misspell(lines: List[str], draw: Draw) -> List[str]:
    words = ["name", "label", "trigger", "command", "submit", "start", "success", "count", "jobs", "rules", "action"]
    text = "\n".join(lines)
    word = draw(st.sampled_from([word for word in words if word in text]))
    letter = draw(st.integers(0, len(word) - 1))
    return text.replace(
        word, word[:letter] + draw(st.sampled_from("xyz_ -")) + word[letter + 1 :], draw(st.integers(1, 3))
    ).split("\n")


class Kind(NamedTuple):
    damage: Damage
    #: what one of the faults then says; None where the file may even be good
    told: Optional[str] = None


KINDS: Dict[str, Kind] = {
    "deleted lines": Kind(delete),
    "duplicated lines": Kind(duplicate),
    "swapped lines": Kind(swap),
    "indentation": Kind(indent),
    "cut off": Kind(cut),
    "inserted marks": Kind(insert),
    "other types": Kind(retype),
    "misspelt words": Kind(misspell),
    "deep nesting": Kind(nest, "nested deeper than 50 levels"),
    "huge numbers": Kind(enlarge, "too"),
    "tags": Kind(tag, "tag"),
    "anchor bombs": Kind(explode, "more than 250000 values"),
    "recursion": Kind(recurse, "stands inside what it names"),
    "duplicate keys": Kind(again, "is given twice"),
    "two documents": Kind(second, "a second document begins here"),
}


def outcome(text: Any) -> Optional[SpecError]:
    """What `load` makes of it, None where it loads. Fails on anything but a spec or faults with positions."""
    error: Optional[SpecError] = None
    try:
        loaded: Any = load(text, "fuzz.yaml")
    except SpecError as caught:
        error, loaded = caught, None
    assert isinstance(loaded, Loaded) or (error is not None and error.faults)
    told = loaded.warnings if error is None else error.faults
    places = [(fault.line, fault.column) for fault in told]
    assert places == sorted(places)
    for fault in told:
        assert fault.line >= 1
        assert fault.column >= 1
        assert fault.message
        assert all(line.isprintable() for line in str(fault).split("\n"))
        assert len(str(fault)) < 4000
    return error


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_files(kind: str) -> None:
    damage, told = KINDS[kind]
    reached = 0

    @settings(max_examples=25, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(TEXTS), st.data())
    def damaged(text: str, data: st.DataObject) -> None:
        nonlocal reached
        lines = damage(text.split("\n"), data.draw)
        error = outcome("\n".join(lines))
        reached += error is not None
        if told is not None:
            assert error is not None
            assert any(told in fault.message for fault in error.faults), str(error)

    damaged()
    # damage that no file minds is none
    assert reached


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(TEXTS), st.binary(min_size=1, max_size=8), st.integers(0, 10_000))
def test_random_bytes_in_a_file(text: str, junk: bytes, where: int) -> None:
    raw = text.encode()
    where %= len(raw)
    outcome(raw[:where] + junk + raw[where + len(junk) :])
    assert outcome(raw[:where] + b"\xff" + raw[where:]) is not None


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_nothing_but_random_bytes(junk: bytes) -> None:
    assert outcome(junk) is not None


@settings(max_examples=50)
@given(st.text(st.sampled_from("abc:-?[]{}&*!|>'\"%@`#~,<. \n\t\\0"), max_size=60))
def test_marks_of_yaml(text: str) -> None:
    assert outcome(text) is not None


#: any value in any place, in a file that keeps its outer form
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "all", "unlimited", "5s", "> 3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    "name", "description", "logging.debug", "logging.heartbeat", "failures", "limits.max_jobs", "limits.max_failures",
    "limits.duration", "jobs", "jobs.0", "jobs.0.name", "jobs.0.command", "jobs.0.script", "jobs.0.count", "jobs.0.tasks",
    "jobs.0.duration", "jobs.0.environment", "jobs.0.environment.A", "jobs.0.shell", "jobs.0.attributes.x", "rules",
    "rules.0", "rules.0.id", "rules.0.trigger", "rules.0.name", "rules.0.when", "rules.0.action", "rules.0.actions",
    "rules.0.action.name", "rules.0.action.label", "rules.0.action.signal", "rules.0.action.value", "rules.0.action.state",
    "rules.0.action.repetitions", "rules.0.every", "rules.0.after", "rules.0.repetitions", "rules.0.cooldown",
]  # fmt: skip


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    place=st.sampled_from(PLACES),
    value=VALUES,
    trigger=st.sampled_from(["start", "metric", "timer", "heartbeat", "end", "job-fail"]),
    action=st.sampled_from(["submit", "kill", "log", "enable", "terminate", "grow"]),
)
def test_any_value_in_any_place(place: str, value: Any, trigger: str, action: str) -> None:
    file: Any = {
        "logging": {},
        "limits": {},
        "jobs": [{"name": "a", "command": "echo", "environment": {}, "attributes": {}}],
        "rules": [{"trigger": trigger, "name": "count.a.success", "action": {"name": action, "label": "a"}}],
    }
    inner, *path = file, *place.split(".")
    for step in path[:-1]:
        inner = inner[int(step) if step.isdigit() else step]
    inner[int(path[-1]) if path[-1].isdigit() else path[-1]] = value
    in_blocks = outcome(yaml.safe_dump(file, allow_unicode=True))
    in_braces = outcome(yaml.safe_dump(file, default_flow_style=True))
    # how it is written makes no difference to whether it is right
    assert (in_blocks is None) == (in_braces is None)
