# SPDX-License-Identifier: MIT
"""The commands against a service that does as told: what they print, in JSON too, exit statuses and sentences."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import pytest

from ensemble.cli.main import VERBS, main
from ensemble.errors import BadRequest, NotFound, NotPermitted, ServiceError
from t.unit.socket_service import HANG_UP, Serve, SocketService, counts, job, stats, status, story, summary

HELLO = """\
# says hello
jobs:
  - {name: sleep, command: sleep 1, count: 2}
rules:
  - trigger: start
    action: {name: submit, label: sleep}
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A working directory with a file, and nobody's services around."""
    runtime = Path(tempfile.mkdtemp(prefix="ens-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello.yaml").write_text(HELLO)
    yield tmp_path
    shutil.rmtree(runtime)


@pytest.fixture
def serve(place: Path) -> Iterator[Serve]:
    services: List[SocketService] = []

    def start(**answers: Any) -> SocketService:
        path = Path(os.environ["XDG_RUNTIME_DIR"], "ensemble", f"{len(services) + 1}.sock")
        services.append(SocketService(path, answers))
        # the order of the sockets is that of their times
        os.utime(path, (len(services), len(services)))
        return services[-1]

    yield start
    for service in services:
        service.stop()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str, member: bool = True) -> Done:
        status = main([*words, "--member", "local"] if member else list(words))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(status, out, err)

    return call


def one_sentence(done: Done, status: int, *words: str) -> None:
    assert done.status == status
    assert done.out == ""
    assert done.err.startswith("ensemble: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


# what needs no service


def test_help_names_every_verb(run: Any) -> None:
    done = run("--help", member=False)
    assert done.status == 0
    for verb in VERBS:
        assert f"    {verb} " in done.out


@pytest.mark.parametrize("verb", [*VERBS])
def test_every_verb_has_help(run: Any, verb: str) -> None:
    done = run(verb, "--help", member=False)
    assert done.status == 0
    assert done.out.startswith(f"usage: ensemble {verb}")


@pytest.mark.parametrize("verb", ["simulate", "explain", "replay", "graph", "signal", "put", "purge", "nonsense"])
def test_unknown_verbs_are_usage_errors(run: Any, verb: str) -> None:
    one_sentence(run(verb, "x", member=False), 2, f"no verb is called '{verb}'")


def test_a_misspelt_verb_is_corrected(run: Any) -> None:
    one_sentence(run("validat", "x", member=False), 2, "did you mean 'validate'?")


@pytest.mark.parametrize(
    "words",
    [[], ["run"], ["jobs"], ["service", "dance"], ["list", "--nonsense"], ["log", "x", "--since", "-3"], ["cancel"]],
)
def test_bad_usage_exits_2(run: Any, words: List[str]) -> None:
    done = run(*words, member=False)
    assert done.status == 2
    assert "usage: " in done.err
    assert done.err.splitlines()[-1].startswith("ensemble: ")


def test_flux_names_the_command(monkeypatch: pytest.MonkeyPatch, run: Any, place: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/flux-ensemble"])
    done = run("list")
    assert done.err.startswith("flux-ensemble: ")
    assert "'flux ensemble run FILE'" in done.err


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = "import sys; from ensemble.cli.main import main; main(['list', '--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.split())
    assert "ensemble.cli.main" in loaded
    assert not loaded & {"flux", "river", "pydantic", "rich", "yaml", "asyncio", "numpy"}


def test_validate(run: Any, place: Path) -> None:
    done = run("validate", "hello.yaml", member=False)
    assert (done.status, done.out, done.err) == (0, "hello.yaml: no faults (groups: 1, rules: 1)\n", "")
    done = run("validate", "--json", "hello.yaml", member=False)
    assert json.loads(done.out) == {"file": "hello.yaml", "valid": True, "faults": [], "warnings": []}


def faulty(place: Path) -> None:
    (place / "bad.yaml").write_text(HELLO.replace("label: sleep", "label: slep").replace("trigger", "triger"))


@pytest.mark.parametrize("verb", ["validate", "run", "submit"])
def test_a_faulty_file_is_told_whole(run: Any, place: Path, verb: str) -> None:
    faulty(place)
    done = run(verb, "bad.yaml", member=verb != "validate")
    assert (done.status, done.out) == (2, "")
    assert "bad.yaml:5:" in done.err
    assert "bad.yaml:6:" in done.err
    assert "did you mean 'sleep'?" in done.err


def test_a_faulty_file_in_json(run: Any, place: Path) -> None:
    faulty(place)
    done = run("validate", "--json", "bad.yaml", member=False)
    assert done.status == 2
    told = json.loads(done.out)
    assert told["valid"] is False
    assert {fault["line"] for fault in told["faults"]} == {5, 6}
    assert set(told["faults"][0]) == {"line", "column", "message", "value", "expected", "suggestion"}


@pytest.mark.parametrize("verb", ["validate", "run", "submit"])
@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read(run: Any, place: Path, verb: str, path: str) -> None:
    one_sentence(run(verb, path, member=verb != "validate"), 2, f"'{path}'")


def test_examples(run: Any, place: Path) -> None:
    done = run("example", member=False)
    assert done.status == 0
    names = [line.split()[0] for line in done.out.splitlines()[1:]]
    assert "hello-world" in names
    assert all(len(line.split()) > 3 for line in done.out.splitlines()[1:])
    listed = json.loads(run("example", "--json", member=False).out)
    assert [entry["name"] for entry in listed] == names
    for name in names:
        text = run("example", name, member=False).out
        (place / "example.yaml").write_text(text)
        assert run("validate", "example.yaml", member=False).status == 0
    one_sentence(run("example", "helo-world", member=False), 2, "did you mean 'hello-world'?")


def test_schema(run: Any) -> None:
    done = run("schema", member=False)
    assert done.status == 0
    assert {"jobs", "rules"} <= set(json.loads(done.out)["properties"])


def test_version(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble import __version__

    told = json.loads(run("version", "--json", member=False).out)
    assert told["ensemble"] == __version__
    assert told["river"]
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "flux-commands:   not found" in run("version", member=False).out


# no service


@pytest.mark.parametrize(
    "words",
    [["list"], ["status"], ["status", "x"], ["jobs", "x"], ["watch", "x"], ["log", "x"], ["cancel", "x"],
     ["pause", "x"], ["resume", "x"], ["service", "status"], ["service", "stop"]],
)  # fmt: skip
def test_no_service(run: Any, place: Path, words: List[str]) -> None:
    one_sentence(run(*words), 1, "no local service is running")


def test_a_stale_socket_is_no_service(run: Any, serve: Serve, place: Path) -> None:
    service = serve()
    service.stop()
    import socket

    left = socket.socket(socket.AF_UNIX)
    left.bind(str(service.path))
    left.close()
    assert service.path.exists()
    one_sentence(run("list"), 1, "no local service is running")


def test_a_foreign_socket_directory_is_refused(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(os.environ["XDG_RUNTIME_DIR"], "ensemble").write_text("")
    one_sentence(run("list"), 1, "not a directory of yours")


def test_flux_without_an_instance(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("FLUX_URI", "local:///nowhere/local")
    monkeypatch.setitem(sys.modules, "flux", None)
    one_sentence(run("list", member=False), 1, "bindings cannot be loaded", "--member local")


# looking


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
    assert ["sleep", "success", "duration", "2", "2.5", "0.5", "2", "3"] in [line.split() for line in out.splitlines()]
    assert run("status", "bcd", "-n", "-o", "{state}").out == "complete\n"


def pages(total: int) -> Any:
    rows = [job(number) for number in range(1, total + 1)]

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
        job(1, params={"x": 1}, values={"loss": 0.5}),
        job(2, result="failed", cause="exit", exit_code=3, group="a-group"),
        job(3, state="pending", result=None, exit_code=None, t_start=None, t_end=None),
    ]
    service = serve(jobs={"jobs": found, "total": 3})
    lines = run("jobs", "x", "--group", "sleep").out.splitlines()
    assert service.asked("jobs")[0]["group"] == "sleep"
    assert lines[0].split() == ["JOBID", "GROUP", "STATUS", "EXIT", "CAUSE", "WAIT", "TIME", "RULE"]
    assert lines[1].split() == ["1", "sleep", "success", "0", "1.000s", "2.500s", "rule-1"]
    assert lines[2].split() == ["2", "a-group", "failed", "3", "exit", "1.000s", "2.500s", "rule-1"]
    assert lines[3].split() == ["3", "sleep", "pending", "-", "-", "-", "rule-1"]
    rows = list(csv.DictReader(io.StringIO(run("jobs", "x", "--csv").out)))
    assert [row["exit_code"] for row in rows] == ["0", "3", ""]
    assert [(row["params.x"], row["values.loss"]) for row in rows] == [("1", "0.5"), ("", ""), ("", "")]
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
    one_sentence(run(*words, "-o", "nonsense"), 2, "no format is called 'nonsense'")
    one_sentence(run(*words, "-o", "{nonsense}"), 2, "no field is called 'nonsense'")
    one_sentence(run(*words, "-o", "{id"), 2, "broken")
    one_sentence(run(*words, "-o", "{id:>1x2}"), 2, "'>1x2'")


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
    assert service.asked("resume") == [
        {"id": "x", "limits": {"max_jobs": 200, "max_failures": "10%", "duration": "1.5h"}}
    ]
    one_sentence(run("resume", "x", "--limit", "max_job=2"), 2, "did you mean 'max_jobs'?")
    one_sentence(run("resume", "x", "--limit", "max_jobs"), 2, "NAME=VALUE")


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
def test_refusals_are_one_sentence(run: Any, serve: Serve, verb: str, error: ServiceError, status: int) -> None:
    serve(**{verb: error, "status": error})
    one_sentence(run(verb, "x"), status, str(error))


@pytest.mark.parametrize("verb", ["status", "jobs", "log", "cancel"])
def test_a_service_that_goes_away_before_its_answer(run: Any, serve: Serve, verb: str) -> None:
    serve(**{verb: HANG_UP})
    one_sentence(run(verb, "x"), 1, "is gone")


def test_an_answer_that_makes_no_sense_is_told_as_our_fault(run: Any, serve: Serve) -> None:
    serve(list={"ensembles": 3})
    one_sentence(run("list"), 1, "fault of ensemble itself", "TypeError")
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
        os.umask(before)
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
    one_sentence(run("status", "b"), 1, "more than one id", "bbbbbb", "bccccc")
    one_sentence(run("status", "nope"), 1, "no ensemble is called 'nope'")
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


# following: more of it in test_cli_follow.py


def test_a_closed_pipe_is_quiet(serve: Serve, place: Path) -> None:
    serve(jobs=pages(20000))
    command = f"'{sys.executable}' -m ensemble.cli.main jobs x --member local -o '{{id}}' | head -1"
    shell = ["bash", "-c", command + "; echo ${PIPESTATUS[0]} >&2"]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=100)
    assert done.stdout == "JOBID\n"
    assert done.stderr == f"{128 + signal.SIGPIPE}\n"


def test_counts_has_what_the_protocol_says() -> None:
    from ensemble.service import protocol

    assert f"COUNTS  {{{', '.join(counts())}}}" in (protocol.__doc__ or "")
