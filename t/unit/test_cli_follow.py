# SPDX-License-Identifier: MIT
"""`run` and `watch`: exit statuses, lines, last words, a service that goes away and comes back, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from ensemble.cli import follow, summary
from ensemble.cli.main import main
from ensemble.cli.narrate import TOLD_ERRORS, TOLD_FAILURES, Narrator
from ensemble.errors import ServiceError
from t.unit.socket_service import HANG_UP, SILENCE, Serve, SocketService, counts, job, status, story

OVERFLOW = ServiceError("cut: too slow", 75)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    runtime = Path(tempfile.mkdtemp(prefix="ens-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    services: List[SocketService] = []

    def start(**answers: Any) -> SocketService:
        path = runtime / "ensemble" / f"{len(services) + 1}.sock"
        services.append(
            SocketService(path, {"status": status(), "jobs": {"jobs": [job(1), job(2)], "total": 2}, **answers})
        )
        return services[-1]

    yield start
    for service in services:
        service.stop()
    shutil.rmtree(runtime)


def watch(*words: str) -> int:
    return main(["watch", "hello", "--member", "local", *words])


@pytest.mark.parametrize(("state", "code"), [("complete", 0), ("failed", 1), ("halted", 3), ("cancelled", 4)])
def test_exit_status(serve: Serve, capsys: pytest.CaptureFixture[str], state: str, code: int) -> None:
    serve(watch=[{"records": story(state)}], status=status(state=state))
    assert watch() == code
    out, err = capsys.readouterr()
    assert f"hello (bcdfgh): {state} after 12.5s: all is said" in out
    assert err == ""


def test_lines(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    service = serve(watch=[{"records": story()[:3]}, {"records": []}, {"records": story()[3:]}])
    assert watch() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "     1.0s  hello (bcdfgh) submitted"
    assert lines[1] == "     2.0s  running"
    assert "rule-1" in lines[2]
    assert lines[3] == "     4.0s  rule-1    -> submit sleep (2 jobs)"
    assert ["sleep", "2", "0", "0", "2", "0", "0"] in [line.split() for line in lines]
    assert ["sleep", "success", "duration", "2", "2.5s", "0.5s", "2s", "3s"] in [line.split() for line in lines]
    assert lines[-1] == "output: in /out/bcdfgh"
    assert not any("\x1b" in line or '"seq"' in line for line in lines)
    # asked by id from then on: the name might come to mean another
    assert service.asked("watch") == [{"id": "bcdfgh", "since": 0}]


def test_json_lines(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    picture = {"seq": 5, "t": 1005.0, "type": "metric", "groups": {"sleep": counts(running=1)}}
    records = [*story()[:5], picture, *story()[5:]]
    serve(watch=[{"records": records}])
    assert watch("--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == records


def test_debug_shows_records(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(watch=[{"records": story()}])
    assert watch("--debug") == 0
    assert '"event": "submit"' in capsys.readouterr().out


def failed(total: int, **given: Any) -> Dict[str, Any]:
    rows = [job(n, result="failed", exit_code=n, cause="fail") for n in range(1, total + 1)]

    def jobs(payload: Dict[str, Any]) -> Dict[str, Any]:
        return {"jobs": rows[payload["start"] : payload["start"] + payload["max"]], "total": total}

    told = status(state="failed", jobs=counts(submitted=total, finished=total, failed=total))
    return {"jobs": jobs, "status": told, "watch": [{"records": story("failed")}]}


@pytest.mark.parametrize(("total", "listed", "more"), [(1, 1, ""), (10, 10, ""), (13, 10, "... and 3 more: ")])
def test_failed_jobs(serve: Serve, capsys: pytest.CaptureFixture[str], total: int, listed: int, more: str) -> None:
    serve(**failed(total))
    assert watch() == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "exit code" in line]
    assert len(rows) == listed == min(total, summary.MOST_FAILED)
    assert rows[0].split() == ["1", "sleep", "exit", "code", "1", "/out/bcdfgh/sleep-1.out"]
    assert [line.strip() for line in lines if "more:" in line] == ([f"{more}ensemble jobs bcdfgh"] if more else [])


def test_where_output_lies_without_a_common_folder(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [job(1, where="flux job attach f1"), job(2, where="flux job attach f2")]
    serve(watch=[{"records": story()}], jobs={"jobs": rows, "total": 2})
    assert watch() == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "output: flux job attach f1; the other jobs: ensemble jobs bcdfgh -o '{id} {where}'"


# a service that goes away


def taken_up(records: List[Dict[str, Any]], *endings: Any) -> Any:
    """A watch that breaks off after three records, with each of the endings, and then goes on to the end."""
    left = list(endings)

    def answer(payload: Dict[str, Any]) -> Any:
        rest = [record for record in records if record["seq"] > payload["since"]]
        return [{"records": rest[:3]}, left.pop(0)] if left else [{"records": rest}]

    return answer


@pytest.mark.parametrize("ending", [HANG_UP, OVERFLOW, {"records": []}], ids=["hang-up", "overflow", "early end"])
def test_a_stream_that_breaks_is_taken_up(serve: Serve, capsys: pytest.CaptureFixture[str], ending: Any) -> None:
    service = serve(watch=taken_up(story(), ending))
    assert watch("--json") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert [payload["since"] for payload in service.asked("watch")] == [0, 3]
    said = err.splitlines()
    if ending is OVERFLOW:
        assert said == [], "that is how a reader sets its own pace, and nothing to speak of"
    else:
        assert len(said) == 2
        assert "trying" in said[0]
        assert "back" in said[1]


def test_records_that_are_not_kept_any_more_are_told(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(watch=[{"records": story()[:1]}, {"records": story()[4:]}])
    assert watch("--json") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 5, 6]
    assert err == "ensemble: records 2 to 4 of bcdfgh are not kept any more\n"


def test_records_that_come_twice_are_told_once(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(watch=[{"records": story()[:4]}, {"records": story()}])
    assert watch("--json") == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3, 4, 5, 6]


def test_silence_is_a_lost_service(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.service import local_client

    monkeypatch.setattr(local_client, "KEEPALIVE", 0.5)
    serve(watch=taken_up(story(), SILENCE))
    assert watch("--json") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert "silent" in err


def test_a_service_that_stays_away_is_given_up(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "GIVE_UP", 2.5)
    service = serve(watch=[{"records": story()[:3]}, HANG_UP])
    first = service.answers["watch"]
    service.answers["watch"] = lambda payload: HANG_UP if payload["since"] else first
    assert watch("--json") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "gave up after 2.5 s" in err.splitlines()[-1]
    assert err.count("trying") == 1


def test_a_local_service_that_died_is_not_waited_for(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    service = serve()

    def die(payload: Dict[str, Any]) -> Any:
        service.path.unlink()
        return [{"records": story()[:3]}, HANG_UP]

    service.answers["watch"] = die
    assert watch("--json") == 1
    assert (
        "has died, and the run of bcdfgh with it; 'ensemble resume bcdfgh' continues it"
        in capsys.readouterr().err.splitlines()[-1]
    )


def test_a_service_that_has_forgotten(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    from ensemble.errors import NotFound

    service = serve(watch=[{"records": story()[:3]}, HANG_UP])
    first = service.answers["watch"]
    service.answers["watch"] = lambda payload: NotFound("no such") if payload["since"] else first
    assert watch("--json") == 1
    assert "no longer knows ensemble bcdfgh" in capsys.readouterr().err.splitlines()[-1]


def test_a_local_service_that_ends_with_its_run_just_after_the_end(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    service = serve(watch=[{"records": story("failed")}])
    asked: List[Any] = []
    service.answers["status"] = lambda payload: asked.append(1) or (status() if len(asked) <= 2 else HANG_UP)
    assert watch() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "bcdfgh: failed: all is said"


# signals: to the command as a process of its own


def started(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ensemble.cli.main", *words, "--member", "local"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_watching_and_not_the_ensemble(serve: Serve, number: int, code: int) -> None:
    service = serve(watch=[{"records": story()[:4]}, SILENCE])
    process = started("watch", "hello")
    assert process.stdout is not None
    assert "submitted" in process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "watch it with 'ensemble watch bcdfgh'" in err
    assert "end it with 'ensemble cancel bcdfgh'" in err
    assert "Ctrl-C again" not in err
    assert service.asked("cancel") == []


# lines


def record(type: str, **given: Any) -> Dict[str, Any]:
    return {"seq": 1, "t": 10.0, "type": type, **given}


def told(*records: Dict[str, Any]) -> List[str]:
    return [line.text[11:] for line in Narrator(0.0).lines(records)]


def test_a_firing_and_its_actions_are_lines_of_their_own() -> None:
    rule = record("rule", rule="rule-2", trigger="metric", firing=1, remaining=0, text="count.sleep.success = 3")
    first = record(
        "action", rule="rule-2", firing=1, action="submit", label="echo", count=5, text="submit echo (5 jobs)"
    )
    assert told(rule, first) == ["rule-2    count.sleep.success = 3  -> submit echo (5 jobs)"]
    assert told(rule, first, first)[1] == "rule-2    -> submit echo (5 jobs)"
    assert told(rule) == ["rule-2    count.sleep.success = 3"]
    assert told(rule, {**first, "firing": 2}) == [
        "rule-2    count.sleep.success = 3",
        "rule-2    -> submit echo (5 jobs)",
    ]
    assert told(rule, record("log", text="hi", rule="rule-2")) == [
        "rule-2    count.sleep.success = 3",
        "log: rule-2: hi",
    ]


def test_failures_are_told_up_to_a_number() -> None:
    bad = record("job", group="g", event="finish", result="failed", cause="signal", signal=9, exit_code=None)
    lines = told(*({**bad, "job": str(number)} for number in range(1000)))
    assert len(lines) == TOLD_FAILURES + 1
    assert lines[0] == "job 0 of g failed: signal 9"
    assert "only counted" in lines[-1]
    assert told({**bad, "result": "cancelled"}, {**bad, "result": "success"}, {**bad, "event": "start"}) == []


def test_debug_in_the_file_has_every_event_told() -> None:
    job = {"job": "7", "group": "g"}
    events = [record("job", **job, event=event) for event in ("submit", "alloc")]
    failed = record("job", **job, event="finish", result="failed", cause="fail", exit_code=1)
    done = record("job", **job, event="finish", result="success", cause=None)
    ends = [done, *[failed] * (TOLD_FAILURES + 2)]
    for debug in (True, False):
        begin = record("submitted", id="i", name="n", file="f", debug=debug)
        lines = told(begin, *events, *ends)[1:]
        if debug:
            assert lines[:3] == ["job 7 of g: submit", "job 7 of g: alloc", "job 7 of g: finish (success)"]
            assert lines[3:] == ["job 7 of g failed: exit code 1"] * (TOLD_FAILURES + 2)
        else:
            assert len(lines) == TOLD_FAILURES + 1


def test_the_same_error_is_told_a_few_times() -> None:
    lines = told(*[record("error", text="refused", rule="r")] * 1000, record("error", text="other", rule=None))
    assert len(lines) == TOLD_ERRORS + 1
    assert lines[0] == "error: r: refused"
    assert lines[-1] == "error: other"


def test_lines_cannot_steer_the_terminal() -> None:
    assert told(record("log", text="\x1b[2Jgone", rule=None)) == ["log: \\x1b[2Jgone"]


@pytest.fixture
def int_handler() -> Iterator[Any]:
    """A handler of SIGINT of the test's own, whatever became of the signal where the tests were started."""

    def handler(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    yield handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("way", ["close", "keep"])
def test_ctrl_c_twice_is_counted_within_two_seconds(
    monkeypatch: pytest.MonkeyPatch, int_handler: Any, way: str
) -> None:
    from ensemble.cli.interrupt import TWICE, Interrupts

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Interrupts() as interrupts:
        assert not interrupts.once
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.once
        assert not interrupts.twice
        assert not interrupts.settled
        now[0] += TWICE if way == "close" else TWICE + 0.1
        assert interrupts.settled == (way == "keep")
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.twice == (way == "close")
        interrupts.forget()
        assert not interrupts.once
    assert signal.getsignal(signal.SIGINT) is int_handler
