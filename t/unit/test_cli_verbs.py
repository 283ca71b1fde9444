# SPDX-License-Identifier: MIT
"""The commands against a service that does as told: what they print, in JSON too, exit statuses and sentences."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

import pytest

from ensemble.cli.main import main
from ensemble.errors import BadRequest, NotFound, NotPermitted, ServiceError
from ensemble.service import protocol
from t.unit.socket_service import HANG_UP, HELLO, Serve, counts, expect_sentence, job, stats, status, story, summary


def test_list(run: Any, serve: Serve) -> None:
    ensembles = [summary(), summary(id="zzzzzz", name="later", state="running", t_submit=time.time() - 3600)]
    serve(list={"ensembles": ensembles})
    assert json.loads(run("list", "--json").out) == ensembles
    assert json.loads(run("status", "--json").out) == ensembles
    lines = run("list").out.splitlines()
    assert lines[0].split() == ["ID", "NAME", "STATE", "JOBS", "PEND", "RUN", "OK", "FAIL", "TIME", "REASON"]
    assert lines[1].split()[:9] == ["bcdfgh", "hello", "complete", "2", "0", "0", "2", "0", "12.5s"]
    assert lines[2].split()[:3] == ["zzzzzz", "later", "running"]
    assert run("list", "-n", "-o", "{name}={state}").out == "hello=complete\nlater=running\n"
    assert run("status", "-n", "-o", "{name}").out == "hello\nlater\n"


def test_list_of_nothing(run: Any, serve: Serve) -> None:
    serve(list={"ensembles": []})
    assert run("list").out.startswith("        ID NAME")
    assert run("list", "--json").out == "[]\n"


def test_status(run: Any, serve: Serve) -> None:
    service = serve(status=status())
    assert json.loads(run("status", "bcd", "--json").out) == status()
    assert service.asked("status") == [{"id": "bcd"}]
    out = run("status", "bcd").out
    assert out.splitlines()[0] == "hello (bcdfgh): complete after 12.5s: all is said"
    assert ["again", "metric", "7", "unlimited", "ready"] in [line.split() for line in out.splitlines()]
    assert ["sleep", "success", "duration", "2", "2.5s", "0.5s", "2s", "3s"] in [
        line.split() for line in out.splitlines()
    ]
    assert run("status", "bcd", "-n", "-o", "{state}").out == "complete\n"


def test_variables_are_shown(run: Any, serve: Serve) -> None:
    variables = {"n": 4, "x": 1 / 3, "phase": "warm\x1b[31m up", "done": False, "best": None}
    serve(status=status(variables=variables))
    assert json.loads(run("status", "bcd", "--json").out)["variables"] == variables
    lines = run("status", "bcd").out.splitlines()
    table = [line.split(None, 1) for line in lines[lines.index("VARIABLE  VALUE") + 1 :]]
    assert table[:2] == [["n", "4"], ["x", "0.3333"]]
    assert table[3:] == [["done", "false"], ["best", "no value"]]
    assert table[2][1].endswith(" up")
    assert "\x1b" not in table[2][1]


def test_no_variables_no_table(run: Any, serve: Serve) -> None:
    serve(status=status())
    assert "VARIABLE  VALUE" not in run("status", "bcd").out


SCALING = {
    "scaler": "command", "min": 1, "max": None, "cooldown": 90.0, "wanted": 3, "size": 2, "cooling_until": None,
    "change": {"action": "grow", "wanted": 3, "waits": None}, "t_done": None, "failed": None,
}  # fmt: skip


def test_status_tells_the_size_that_is_wanted(run: Any, serve: Serve) -> None:
    now: Dict[str, Any] = {"scaling": SCALING}
    serve(status=lambda _: status(**now))
    lines = run("status", "bcd").out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("SCALER"))
    assert lines[at].split() == ["SCALER", "WANTED", "NODES", "MIN", "MAX", "CHANGE"]
    assert lines[at + 1].split() == ["command", "3", "2", "1", "-", *["grow", "to", "3", "is", "under", "way"]]
    assert json.loads(run("status", "bcd", "--json").out)["scaling"] == SCALING
    for waits, text in (("cooldown", "waits for the cooldown"), ("ensemble", "waits: another ensemble wants more")):
        change = {"action": "shrink", "wanted": 1, "waits": waits}
        failed = {"t": 0.0, "action": "grow", "wanted": 4, "reason": "no\x1b[31m"}
        now["scaling"] = {**SCALING, "change": change, "cooling_until": 1.5e9, "failed": failed}
        out = run("status", "bcd").out
        assert f"shrink to 1 {text}" in out
        assert re.search(r"no other change before 2017-07-1.T..:40:00 \(cooldown 1.5m\)", out)
        assert re.search(r"failed last, 19(69|70)-.*: grow to 4 nodes: no", out)
        assert "\x1b" not in out
    refused = {"t": 0.0, "action": "grow", "wanted": None, "reason": "too many"}
    now["scaling"] = {**SCALING, "change": None, "failed": refused}
    assert ": grow: too many" in run("status", "bcd").out
    now["scaling"] = None
    assert "SCALER" not in run("status", "bcd").out


def test_status_tells_how_many_points_are_taken(run: Any, serve: Serve) -> None:
    of = {"set": 0, "names": ["x", "y"], "sample": "sobol", "seed": 7, "taken": 12, "total": 100}
    serve(status=status(parameters={"sleep": [of, {**of, "total": None}]}))
    lines = [line.split() for line in run("status", "bcd").out.splitlines()]
    assert ["GROUP", "PARAMETERS", "SAMPLE", "TAKEN", "POINTS", "SEED"] in lines
    assert ["sleep", "x,", "y", "sobol", "12", "100", "7"] in lines
    assert ["sleep", "x,", "y", "sobol", "12", "no", "end", "7"] in lines


def test_of_jobs_that_wait_the_first_thousand_are_listed(run: Any, serve: Serve) -> None:
    service = serve(jobs=pages(1_000_000, state="held", result=None))
    done = run("jobs", "x", "--json")
    told = json.loads(done.out)
    assert (len(told["jobs"]), told["total"]) == (1000, 1_000_000)
    assert "999000 more wait to be submitted" in done.err
    assert len(service.asked("jobs")) == 1


def pages(total: int, **given: Any) -> Any:
    rows = [job(number, **given) for number in range(1, min(total, 5000) + 1)]

    def answer(payload: Dict[str, Any]) -> Dict[str, Any]:
        start, most = payload.get("start", 0), payload.get("max", 1000)
        return {"jobs": rows[start : start + most], "total": total}

    return answer


def test_jobs_come_in_pages(run: Any, serve: Serve) -> None:
    service = serve(jobs=pages(2345))
    told = json.loads(run("jobs", "x", "--json").out)
    assert told["total"] == 2345
    assert [row["id"] for row in told["jobs"]] == [str(number) for number in range(1, 2346)]
    assert [payload["start"] for payload in service.asked("jobs")] == [0, 1000, 2000]


def test_jobs_as_table_and_csv(run: Any, serve: Serve) -> None:
    found = [
        job(1, params={"x": 1}, values={"loss": 1 / 3}),
        job(2, result="failed", cause="fail", exit_code=3, group="a-group"),
        job(3, state="pending", result=None, exit_code=None, t_start=None, t_end=None),
    ]
    service = serve(jobs={"jobs": found, "total": 3})
    lines = run("jobs", "x", "--group", "sleep").out.splitlines()
    assert service.asked("jobs")[0]["group"] == "sleep"
    assert lines[0].split() == ["JOBID", "GROUP", "STATUS", "EXIT", "CAUSE", "WAIT", "TIME", "X", "LOSS", "RULE"]
    assert lines[1].split() == ["1", "sleep", "success", "0", "1.000s", "2.500s", "1", "0.333333", "rule-1"]
    assert lines[2].split() == ["2", "a-group", "failed", "3", "fail", "1.000s", "2.500s", "-", "-", "rule-1"]
    assert lines[3].split() == ["3", "sleep", "pending", "-", "-", "-", "-", "-", "rule-1"]
    rows = list(csv.DictReader(io.StringIO(run("jobs", "x", "--csv").out)))
    assert [row["exit_code"] for row in rows] == ["0", "3", ""]
    assert [(row["params.x"], row["values.loss"]) for row in rows] == [("1", str(1 / 3)), ("", ""), ("", "")]
    assert run("jobs", "x", "-n", "-o", "{id} {params.x:>4h}").out.splitlines() == ["1    1", "2    -", "3    -"]


def test_log(run: Any, serve: Serve) -> None:
    records = story()

    def answer(payload: Dict[str, Any]) -> Dict[str, Any]:
        found = [record for record in records if record["seq"] > payload["since"]][:4]
        return {"records": found, "last": found[-1]["seq"] if found else payload["since"]}

    serve(log=answer)
    assert [json.loads(line) for line in run("log", "x", "--json").out.splitlines()] == records
    lines = run("log", "x", "--since", "2").out.splitlines()
    assert len(lines) == 4
    assert "rule-1 fires (1): start" in lines[0]
    assert "rule-1: submit sleep (2 jobs)" in lines[1]


def test_text_from_outside_cannot_steer_the_terminal(run: Any, serve: Serve) -> None:
    serve(
        list={"ensembles": [summary(state="failed", reason="\x1b[2J\nbad")]},
        status=status(reason="\x1b[2J"),
        log={"records": [{"seq": 1, "t": 0.0, "type": "log", "text": "\x1b]0;evil\x07", "rule": "r"}], "last": 1},
        jobs={"jobs": [job(where="\x1b[31m")], "total": 1},
    )
    for words in (["list"], ["status", "x"], ["log", "x"], ["jobs", "x", "-o", "output"]):
        done = run(*words)
        assert done.status == 0
        assert "\x1b" not in done.out
        assert "\\x1b" in done.out


@pytest.mark.parametrize("verb", ["list", "jobs"])
def test_formats(run: Any, serve: Serve, verb: str) -> None:
    serve()
    words = [verb, "x"] if verb == "jobs" else [verb]
    help = run(*words, "-o", "help")
    assert help.status == 0
    assert "  default " in help.out
    expect_sentence(run(*words, "-o", "nonsense"), 2, "no format is called 'nonsense'")
    expect_sentence(run(*words, "-o", "{nonsense}"), 2, "no field is called 'nonsense'")
    expect_sentence(run(*words, "-o", "{id"), 2, "broken")
    expect_sentence(run(*words, "-o", "{id:>1x2}"), 2, "'>1x2'")


# acting


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_acting(run: Any, serve: Serve, verb: str) -> None:
    service = serve(**{verb: {"id": "bcdfgh", "state": "paused"}})
    assert run(verb, "hello").out == "bcdfgh: paused\n"
    assert json.loads(run(verb, "hello", "--json").out) == {"id": "bcdfgh", "state": "paused"}
    assert service.asked(verb) == [{"id": "hello"}] * 2


def test_resume_with_limits(run: Any, serve: Serve) -> None:
    service = serve(resume={"id": "bcdfgh", "state": "running"})
    run("resume", "x", "--limit", "max_jobs=200", "--limit", "max_failures=10%", "--limit", "duration=1.5h")
    (sent,) = service.asked("resume")
    assert json.dumps(sent["limits"]) == '{"max_jobs": 200, "max_failures": "10%", "duration": "1.5h"}'
    expect_sentence(run("resume", "x", "--limit", "max_job=2"), 2, "did you mean 'max_jobs'?")
    expect_sentence(run("resume", "x", "--limit", "max_jobs"), 2, "NAME=VALUE")
    wrong = run("resume", "x", "--limit", "max_jobs=many")
    expect_sentence(wrong, 2, "limit max_jobs cannot be 'many': expected a whole number")
    assert len(service.asked("resume")) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no ensemble is called 'x'"), 1),
        (NotPermitted("only the owner is served"), 1),
        (BadRequest("it has ended"), 1),
        (ServiceError("the disk is full", errno.ENOSPC), 1),
    ],
)
@pytest.mark.parametrize("verb", ["status", "jobs", "watch", "log", "cancel", "pause", "resume"])
def test_refusals_are_expect_sentence(run: Any, serve: Serve, verb: str, error: ServiceError, status: int) -> None:
    serve(**{verb: error, "status": error})
    expect_sentence(run(verb, "x"), status, str(error))


@pytest.mark.parametrize("verb", ["status", "jobs", "log", "cancel"])
def test_a_service_that_goes_away_before_its_answer(run: Any, serve: Serve, verb: str) -> None:
    serve(**{verb: HANG_UP})
    expect_sentence(run(verb, "x"), 1, "is gone")


def test_an_answer_that_makes_no_sense_is_told_as_our_fault(run: Any, serve: Serve) -> None:
    serve(list={"ensembles": 3})
    expect_sentence(run("list"), 1, "fault of ensemble itself", "TypeError")
    assert main(["list", "--member", "local", "--debug"]) == 1


def test_submit(run: Any, serve: Serve, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"id": "bcdfgh", "name": "hello", "warnings": []}
    # the newest belongs to a `run`, and would end with it
    mine, _ = serve(submit=answer), serve(stats=stats(supervisor_pid=1))
    monkeypatch.setenv("GREETING", "hallo")
    before = os.umask(0o027)
    try:
        done = run("submit", "hello.yaml")
    finally:
        after = os.umask(before)
    assert after == 0o027, "asking for the umask leaves it as it was"
    assert (done.status, done.out, done.err) == (0, "bcdfgh\n", "")
    (sent,) = mine.asked("submit")
    assert (sent["text"], sent["file"]) == (HELLO, "hello.yaml")
    assert sent["submitter"]["environment"]["GREETING"] == "hallo"
    assert sent["submitter"]["cwd"] == str(place)
    assert sent["submitter"]["umask"] == 0o027
    assert {"nofile", "core", "stack", "as"} <= set(sent["submitter"]["rlimits"])
    assert all(isinstance(value, int) and value >= -1 for value in sent["submitter"]["rlimits"].values())
    assert json.loads(run("submit", "--json", "hello.yaml").out) == answer


# several services


def test_several_services(run: Any, serve: Serve) -> None:
    def knows(*own: Dict[str, Any]) -> Any:
        def answer(payload: Dict[str, Any]) -> Any:
            for one in own:
                if payload["id"] in (one["id"], one["name"]) or one["id"].startswith(payload["id"]):
                    return one
            return NotFound(f"no ensemble is called '{payload['id']}'")

        return answer

    one, two = status(id="bbbbbb", t_submit=10.0), status(id="bccccc", t_submit=20.0)
    first = serve(list={"ensembles": [summary(id="bccccc", t_submit=20.0)]}, status=knows(two), cancel={"id": "2"})
    other = serve(list={"ensembles": [summary(id="bbbbbb", t_submit=10.0)]}, status=knows(one), cancel={"id": "1"})
    assert [entry["id"] for entry in json.loads(run("list", "--json").out)] == ["bbbbbb", "bccccc"]
    assert json.loads(run("status", "bc", "--json").out)["id"] == "bccccc"
    assert json.loads(run("status", "hello", "--json").out)["id"] == "bccccc", "the latest of that name"
    assert json.loads(run("cancel", "bbbbbb", "--json").out) == {"id": "1"}
    assert (len(first.asked("cancel")), len(other.asked("cancel"))) == (0, 1)
    expect_sentence(run("status", "b"), 1, "more than one id", "bbbbbb", "bccccc")
    expect_sentence(run("status", "nope"), 1, "no ensemble is called 'nope'")
    assert len(run("service", "status", "--json").out.splitlines()) == 2


def test_service_status(run: Any, serve: Serve) -> None:
    serve(stats=stats(supervisor_pid=17, pid=18))
    told = json.loads(run("service", "status", "--json").out)
    assert list(told) == ["host", "pid", "supervisor_pid", "version", "t_start", "restarts", "ensembles"]
    assert (told["host"], told["pid"], told["supervisor_pid"]) == ("local", 18, 17)
    assert run("service", "status").out.splitlines()[1].split()[:3] == ["local", "18", "17"]


def test_service_stop(run: Any, serve: Serve) -> None:
    service = serve(quit={}, stats=stats(active=2))
    service.answers["quit"] = lambda payload: service.answers.update(stats=HANG_UP) or {}
    done = run("service", "stop")
    assert done.status == 0
    assert "2 ensembles were still running" in done.err
    assert len(service.asked("quit")) == 1


def test_a_closed_pipe_is_quiet(serve: Serve, place: Path) -> None:
    serve(jobs=pages(20000))
    command = f"'{sys.executable}' -m ensemble.cli.main jobs x --member local -o '{{id}}' | head -1"
    shell = ["bash", "-c", command + "; echo ${PIPESTATUS[0]} >&2"]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=100)
    assert done.stdout == "JOBID\n"
    assert done.stderr == f"{128 + signal.SIGPIPE}\n"


def test_counts_has_what_the_protocol_says() -> None:
    assert f"COUNTS  {{{', '.join(counts())}}}" in (protocol.__doc__ or "")
