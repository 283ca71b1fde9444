# SPDX-License-Identifier: MIT
"""The process that reads output: lines and their offsets, files that grow, its bounds, and its end of the line."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from ensemble.engine.events import Key, Printed
from ensemble.members import output
from ensemble.members.loop_timers import LoopTimer, LoopWatch
from ensemble.members.output import Loop, Outputs
from ensemble.members.output_reader import LONGEST, Stream

KEY = Key("ens", "go", 1, 0, 0)
PATIENCE = 60.0


def cut(*chunks: bytes) -> List[Tuple[int, bytes]]:
    stream = Stream("x")
    found = [line for chunk in chunks for line in stream.cut(chunk)]
    return [*found, *stream.last()]


def test_lines_have_the_offset_of_their_first_byte_however_they_come() -> None:
    text = b"one\n\ntwo\rthree\nlast"
    whole = [(0, b"one"), (4, b""), (5, b"two"), (9, b"three"), (15, b"last")]
    assert cut(text) == whole
    assert cut(*(text[n : n + 1] for n in range(len(text)))) == whole
    assert cut(text[:6], text[6:]) == whole
    assert cut(b"one\n") == [(0, b"one")]


def test_of_a_long_line_the_beginning_is_kept_and_the_next_has_its_place() -> None:
    long = b"a" * 1000
    found = cut(*[long] * 10, b"\nnext\n")
    assert found == [(0, b"a" * LONGEST), (10001, b"next")]


class Reading:
    """Outputs on a loop of asyncio, and what they delivered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.events: List[Printed] = []
        self.said: List[str] = []
        after = lambda seconds, call: LoopTimer(self.loop, time.time() + seconds, call)  # noqa: E731
        self.outputs = Outputs(
            Loop(self._watch, after),
            lambda level, text: self.said.append(text),
            lambda id, event: self.events.append(event),
        )

    def _watch(self, fd: int, callback: Callable[[], None]) -> LoopWatch:
        self.loop.add_reader(fd, callback)
        return LoopWatch(self.loop.remove_reader, fd)

    def follow(self, patterns: Dict[str, str], *files: str, id: int = 1, since: float = 0.0) -> None:
        self.outputs.follow("ens", id, KEY, patterns, [str(self.folder / file) for file in files], since)

    def until(self, true: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"waited in vain: {self.events} {self.said}"
            self.loop.run_until_complete(asyncio.sleep(0.02))

    def end(self, id: int = 1) -> None:
        """The job ends; waits until all has been read."""
        ended: List[int] = []
        self.outputs.end(id, lambda: ended.append(id))
        self.until(lambda: ended)
        assert not self.outputs.follows(id)

    def values(self, name: str = "x") -> List[Any]:
        return [values[name] for event in self.events for _, values in event.lines if name in values]

    def notes(self) -> List[str]:
        return [event.note for event in self.events if event.note]


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    found = Reading(tmp_path)
    yield found
    found.outputs.stop()
    found.loop.close()


def test_values_come_while_the_file_grows_and_the_rest_before_the_end(reading: Reading) -> None:
    reading.follow({"x": r"x=(\S+)", "y": r"y=(\d+)"}, "out")
    path = reading.folder / "out"
    path.write_text("x=1 y=2\nx=")
    reading.until(lambda: reading.values() == [1.0])
    assert reading.values("y") == [2.0]
    with path.open("a") as file:
        file.write("nan\nx=word\nx=3")
    reading.until(lambda: reading.values() == [1.0, "nan", "word"])
    reading.end()
    assert reading.values() == [1.0, "nan", "word", 3.0]
    assert [offset for event in reading.events for offset, _ in event.lines] == [0, 8, 14, 21]
    assert {event.key for event in reading.events} == {KEY}


def test_a_file_that_is_there_from_before_is_left_alone(reading: Reading) -> None:
    path = reading.folder / "out"
    path.write_text("x=1\n")
    os.utime(path, (1000, 1000))
    reading.follow({"x": r"x=(\S+)"}, "out", since=time.time() - 2)
    (reading.folder / "other").write_text("x=2\n")
    reading.follow({"x": r"x=(\S+)"}, "other", id=2)
    reading.end(2)
    assert reading.values() == [2.0]
    path.write_text("x=3\n")
    reading.end(1)
    assert reading.values() == [2.0, 3.0]


def test_files_whose_names_are_not_known(reading: Reading) -> None:
    reading.follow({"x": r"x=(\S+)"}, "out-[1]-*")
    for n in (1, 2):
        (reading.folder / f"out-[1]-{n}").write_text(f"x={n}\n")
        (reading.folder / f"out-1-{n}").write_text("x=9\n")
    reading.end()
    assert sorted(reading.values()) == [1.0, 2.0]
    assert len({event.source for event in reading.events}) == 2


def test_an_expression_that_comes_to_no_end_is_given_up_and_the_others_go_on(reading: Reading) -> None:
    (reading.folder / "out").write_text("a" * 60 + "b\nx=4\n")
    reading.follow({"bad": r"((?:a+)+)$", "x": r"x=(\d)"}, "out")
    reading.end()
    assert reading.values() == [4.0]
    (note,) = reading.notes()
    assert "the regex of 'bad' took longer than 1 s for a line and is given up" in note


def test_what_prints_without_end_is_skipped_and_its_last_is_seen(reading: Reading) -> None:
    with (reading.folder / "out").open("wb") as file:
        file.write(b"x=1\n")
        file.seek(300 << 20)
        file.write(b"\nx=2\n")
    begun = time.monotonic()
    reading.follow({"x": r"x=(\d)"}, "out")
    reading.end()
    assert reading.values() == [2.0]
    assert ["is skipped" in note for note in reading.notes()] == [True]
    assert time.monotonic() - begun < PATIENCE


def test_more_values_than_a_job_may_have_do_not_come_at_once(reading: Reading) -> None:
    (reading.folder / "out").write_text("x=1\n" * 400_000)
    reading.follow({"x": r"x=(\d)"}, "out")
    reading.end()
    assert 1000 <= len(reading.values()) < 60_000
    assert any("more values than can be taken" in note for note in reading.notes())


def test_while_it_is_held_nothing_is_delivered_and_afterwards_all_of_it(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that ends meanwhile waits too, for longer than it would wait for a reader that is slow."""
    monkeypatch.setattr(output, "PATIENCE", 0.2)
    reading.follow({"x": r"x=(\S+)"}, "out")
    path = reading.folder / "out"
    path.write_text("x=1\n")
    reading.until(lambda: reading.values() == [1.0])
    reading.outputs.hold(True)
    with path.open("a") as file:
        file.write("".join(f"x={n}\n" for n in range(2, 900)))
    ended: List[int] = []
    reading.outputs.end(1, lambda: ended.append(1))
    held = time.monotonic() + 1.0
    reading.until(lambda: time.monotonic() > held)
    assert (reading.values(), ended, reading.said) == ([1.0], [], [])
    monkeypatch.setattr(output, "PATIENCE", PATIENCE)
    reading.outputs.hold(False)
    reading.until(lambda: ended)
    assert reading.values() == [float(n) for n in range(1, 900)]
    assert reading.said == []


def test_a_reader_that_dies_is_started_anew_and_reads_from_the_beginning(reading: Reading) -> None:
    path = reading.folder / "out"
    path.write_text("x=1\n")
    reading.follow({"x": r"x=(\S+)"}, "out")
    reading.until(lambda: reading.values() == [1.0])
    process = reading.outputs._process
    assert process is not None
    process.kill()
    with path.open("a") as file:
        file.write("x=2\n")
    reading.until(lambda: reading.values() == [1.0, 1.0, 2.0])
    # what was told before has the same place, by which the engine knows it
    assert [(event.source, event.lines[0][0]) for event in reading.events[:2]] == [(reading.events[0].source, 0)] * 2
    reading.end()
    assert any("started anew" in text for text in reading.said)


def test_the_reader_ends_with_its_member(reading: Reading) -> None:
    reading.follow({"x": r"x=(\S+)"}, "out")
    process = reading.outputs._process
    assert process is not None
    reading.outputs.stop()
    assert process.poll() is not None
    assert not reading.outputs.follows(1)
