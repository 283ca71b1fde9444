# SPDX-License-Identifier: MIT
"""What the documents say about the language is true: their files load, and they name every word of it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import pytest
import yaml

from ensemble.cli.main import VERBS, _parser
from ensemble.errors import SpecError
from ensemble.spec import amounts, metrics, models, simulate
from ensemble.spec.load import load
from ensemble.spec.retries import CAUSES, Retries

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = [TOP / "README.md", *sorted((TOP / "doc").glob("*.md"))]
LANGUAGE = (TOP / "doc" / "language.md").read_text()
MANUAL = TOP / "doc" / "flux-ensemble.1"


def blocks(path: Path) -> Iterator[Tuple[int, str]]:
    """The YAML blocks of a document: line and text."""
    text = path.read_text()
    for match in re.finditer(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, match.start()) + 2, match.group(1)


def whole_files() -> List[Tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        for line, text in blocks(path):
            keys = set(yaml.safe_load(text))
            if "jobs" in keys and keys & {"rules", "algorithm"}:
                found.append((f"{path.relative_to(TOP)}:{line}", text))
    return found


@pytest.mark.parametrize(("where", "text"), whole_files())
def test_files_in_documents_load(where: str, text: str) -> None:
    try:
        loaded = load(text, where)
    except SpecError as exc:
        pytest.fail(str(exc))
    assert not loaded.warnings, "\n".join(map(str, loaded.warnings))


def test_the_recorded_run_is_of_the_example() -> None:
    example = load((TOP / "examples" / "hello-world.yaml").read_text(), "hello-world.yaml").spec
    for document in (TOP / "README.md", TOP / "doc" / "language.md"):
        assert load(next(text for _, text in blocks(document)), "hello-world.yaml").spec == example


def test_no_table_of_the_language_tells_a_word_twice() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", LANGUAGE, re.MULTILINE):
        words = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
        if all(re.fullmatch(r"`[^`]+`", word) for word in words):
            assert len(words) == len(set(words)), words


def test_there_are_files_in_documents() -> None:
    assert len(whole_files()) >= 5


def in_language() -> Set[str]:
    """What stands between backquotes, and its words."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", LANGUAGE, flags=re.DOTALL))
    return set(spans) | {word for span in spans for word in re.split(r"[\s,:.]+", span)}


def keys(model: type) -> List[str]:
    return list(model.model_fields)  # type: ignore[attr-defined]


WORDS = {
    "file": keys(models.Spec),
    "logging": keys(models.Logging),
    "limits": keys(models.Limits),
    "jobs": keys(models.JobSet),
    "retries": [*keys(Retries), *CAUSES],
    "rules": [*keys(models.Rule), "action"],
    "action": keys(models.Action),
    "triggers": list(models.TRIGGERS),
    "actions": list(models.ACTIONS),
    "end states": list(models.END_STATES),
    "counts": list(models.COUNTS),
    "statistics": [*metrics.STATS, "p01", "p99"],
    "variables": list(metrics.VARIABLES),
    "ensemble": list(metrics.OF_ENSEMBLE),
    "not yet": [word for words in models.NOT_YET.values() for word in words],
    "simulate": [
        name
        for model in (
            simulate.Simulate,
            simulate.Simulated,
            simulate.Fails,
            simulate.Told,
            simulate.Sent,
            simulate.Outage,
        )
        for name in keys(model)
    ],
    "amounts": [
        *amounts.WORDS,
        *(
            f"{name}({', '.join(kind.arguments)})".replace("(...)", "(a, b, ...)")
            for name, kind in amounts.DISTRIBUTIONS.items()
        ),
    ],
    "queue": [f"{of}.{name}" for of, names in metrics.OF_QUEUE.items() for name in names],
}


@pytest.mark.parametrize("kind", WORDS)
def test_every_word_is_in_the_reference(kind: str) -> None:
    known = in_language()
    missing = [word for word in WORDS[kind] if word not in known]
    assert not missing, f"doc/language.md does not name these {kind}: {', '.join(missing)}"


def test_a_word_that_is_missing_is_seen() -> None:
    assert "frobnicate" not in in_language()
    assert "submit" in in_language()


def section(title: str) -> str:
    return LANGUAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize(
    ("title", "known"),
    [
        ("Jobs", {*keys(models.JobSet)}),
        ("Retries", {*keys(Retries), *CAUSES}),
        ("Rules", {*keys(models.Rule), "action"}),
        ("Actions", set(models.ACTIONS)),
        ("Triggers", {*models.TRIGGERS, "job-EVENT"}),
    ],
)
def test_the_reference_invents_nothing(title: str, known: Set[str]) -> None:
    """The first column of each table holds words of the language, and all of them are there (but RFC 21's)."""
    rows = re.findall(r"^\| (`[^|]+) \|", section(title), re.MULTILINE)
    told = {word for row in rows for word in re.findall(r"`([^`]+)`", row)}
    assert told <= known
    assert {word for word in known - told if not word.startswith("job-")} == set()


def test_links_inside_the_documents_lead_somewhere() -> None:
    broken = []
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            if not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", LANGUAGE, re.M)
    }
    broken += [f"language.md: #{anchor}" for anchor in re.findall(r"\]\(#([^)]+)\)", LANGUAGE) if anchor not in anchors]
    assert not broken


def test_the_manual_names_every_verb() -> None:
    text = MANUAL.read_text()
    missing = [verb for verb in VERBS if not re.search(rf"^\\fB{verb}\\fR", text, re.MULTILINE)]
    assert not missing


def options(parser: argparse.ArgumentParser) -> Set[str]:
    found: Set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(*(options(verb) for verb in action.choices.values()))
        elif action.help != argparse.SUPPRESS:
            found.update(action.option_strings)
    return found


def test_the_manual_names_every_option() -> None:
    text = MANUAL.read_text().replace("\\-", "-")
    known = options(_parser())
    assert "--json" in known
    assert not [option for option in known if f"\\fB{option}\\fR" not in text]
    assert not set(re.findall(r"\\fB(--[a-z-]+)\\fR", text)) - known


@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
def test_the_manual_is_well_formed() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(MANUAL)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "MANPAGER": "cat", "MANWIDTH": "100"},
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "flux-ensemble" in done.stdout
