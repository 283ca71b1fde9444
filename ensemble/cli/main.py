# SPDX-License-Identifier: MIT
"""The command: `ensemble VERB`, and `flux ensemble VERB`, which is the same program.

The parser is built without importing what the verbs need, so that `--help` and `version` are quick. Whatever a verb
raises ends here: one sentence on standard error and an exit status, never a traceback unless `--debug` asks for it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import Any, Callable, List, NoReturn, Optional, Sequence

from ensemble.cli.common import command_name, hint, prog, say
from ensemble.errors import EnsembleError, InternalError, SpecError, UsageError
from ensemble.service.client import MEMBERS

#: verb -> (module:function, help)
VERBS = {
    "run": ("run:run", "submit FILE and watch it until its end"),
    "submit": ("run:submit", "submit FILE and print its id"),
    "list": ("see:list_", "list the ensembles"),
    "status": ("see:status", "show an ensemble: groups, rules, metrics"),
    "jobs": ("see:jobs", "list the jobs of an ensemble"),
    "watch": ("run:watch", "watch an ensemble until its end"),
    "log": ("see:log", "print what has happened to an ensemble"),
    "explain": ("explain:explain", "tell why a rule of an ensemble has fired, or has not"),
    "replay": ("replay:replay", "show when other rules would have fired in a run that is past"),
    "cancel": ("act:act", "end an ensemble and its jobs"),
    "pause": ("act:act", "hold back new submissions of an ensemble"),
    "resume": ("run:resume", "carry on after a pause, a limit, or the death of a local run"),
    "put": ("inside:put", "report values, as loss=0.3; inside a job"),
    "signal": ("inside:signal", "send a signal with data to an ensemble"),
    "purge": ("act:purge", "remove ensembles that have ended"),
    "validate": ("files:validate", "check FILE and list all its faults"),
    "graph": ("graph:graph", "draw FILE: its groups, rules and signals as a picture"),
    "simulate": ("simulate:simulate", "run FILE's rules on simulated jobs"),
    "example": ("files:example", "list the examples, or print one"),
    "schema": ("files:schema", "print the JSON Schema of the files"),
    "service": ("service:service", "start, stop or look at the service itself"),
    "version": ("version:version", "print versions: ours, Flux's, river's, Python's"),
}
#: exit statuses, as the help tells them
EPILOG = """\
IDs may be given as the id, the beginning of one, or a name (then the latest ensemble of that name is meant).
Exit status of run and watch: 0 complete, 1 failed, 2 bad usage or file, 3 halted at a limit, 4 cancelled.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong the way all our errors are said."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{command_name()}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show raw records, and tracebacks of errors")
    json = argparse.ArgumentParser(add_help=False)
    json.add_argument("--json", action="store_true", help="print JSON")
    member = argparse.ArgumentParser(add_help=False)
    member.add_argument(
        "--member", choices=MEMBERS, default="auto", help="the queue: Flux's, or this machine's (auto: Flux if there)"
    )
    rundir = argparse.ArgumentParser(add_help=False)
    rundir.add_argument(
        "--rundir", metavar="DIR", help="local queue: keep ensembles and output of jobs here (~/.local/state/ensemble)"
    )
    table = argparse.ArgumentParser(add_help=False)
    table.add_argument("-o", "--format", metavar="FORMAT", help="a format's name, a format string, or help")
    table.add_argument("-n", "--no-header", action="store_true", help="no heading")
    parser = _Parser(
        prog=prog(),
        description="Run ensembles of jobs: groups of jobs, and rules that decide while they run what happens next.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs: Any = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        help = VERBS[name][1]
        made: argparse.ArgumentParser = verbs.add_parser(
            name, help=help, description=help + ".", parents=[*parents, debug]
        )
        return made

    for name in ("run", "submit"):
        verb(name, json, member, rundir).add_argument("file", metavar="FILE", help="the ensemble's YAML file")
    verb("list", json, member, rundir, table)
    verb("status", json, member, rundir, table).add_argument(
        "id", metavar="ID", nargs="?", help="without it: all ensembles"
    )
    jobs = verb("jobs", json, member, rundir, table)
    jobs.add_argument("id", metavar="ID")
    jobs.add_argument("--csv", action="store_true", help="print all fields as CSV")
    jobs.add_argument("--group", metavar="GROUP", help="only jobs of this group")
    for name in ("watch", "log"):
        records = verb(name, json, member, rundir)
        records.add_argument("id", metavar="ID")
        records.add_argument("--since", type=_whole, default=0, metavar="SEQ", help="only records behind this number")
    explain = verb("explain", json, member, rundir)
    explain.add_argument("id", metavar="ID")
    explain.add_argument("rule", metavar="RULE", help="a rule's id, the beginning of one, or its number in the file")
    replay = verb("replay", json, member, rundir)
    replay.add_argument("id", metavar="ID", nargs="?")
    replay.add_argument(
        "--rules", metavar="FILE", help="an ensemble's file with other rules (without: its own, as a check)"
    )
    replay.add_argument("--save", metavar="FILE", help="write what is kept of the run to that new file")
    replay.add_argument("--events", metavar="FILE", help="in place of an ID: a file that --save has written")
    replay.add_argument("--timeline", action="store_true", help="also each firing in its order")
    for name in ("cancel", "pause", "resume"):
        act = verb(name, json, member, rundir)
        act.add_argument("id", metavar="ID")
        if name == "resume":
            act.add_argument("--limit", action="append", metavar="NAME=N", help="with a new limit, as max_jobs=200")
    put = verb("put", json)
    put.add_argument("values", metavar="NAME=VALUE", nargs="+", help="a variable and its value, a number")
    signal = verb("signal", json, member, rundir)
    signal.add_argument(
        "words", metavar="[ID] NAME key=value", nargs="+", help="the ensemble (a job's own where left out), name, data"
    )
    for tells in (put, signal):
        tells.add_argument(
            "--wait",
            type=_seconds,
            metavar="SECONDS",
            help="inside a job: wait so long for a service that is away (30)",
        )
    purge = verb("purge", json, member, rundir)
    purge.add_argument("ids", metavar="ID", nargs="*", help="remove these (without: all but halted ones)")
    purge.add_argument("--older-than", metavar="DURATION", help="only those that ended so long ago, as 7d")
    purge.add_argument("--keep", type=_count, default=0, metavar="N", help="not the N that ended last")
    validate = verb("validate", json)
    validate.add_argument("file", metavar="FILE")
    validate.add_argument(
        "--no-instance", action="store_true", help="do not hold the file against the running Flux instance"
    )
    validate.add_argument("--expand", action="store_true", help="print the file with its algorithms as plain rules")
    simulate = verb("simulate", json, member, table)
    simulate.add_argument("file", metavar="FILE")
    simulate.add_argument(
        "--duration",
        action="append",
        metavar="GROUP=AMOUNT",
        help="how long jobs take: 5m, 'lognormal(60,15)', an expression; GROUP all is any",
    )
    simulate.add_argument(
        "--fail", action="append", metavar="GROUP=SHARE", help="how many jobs fail: 5%%, an expression"
    )
    for name, help in (("nodes", "nodes of the queue"), ("cores", "cores of a node"), ("gpus", "GPUs of a node")):
        size = _size if name == "gpus" else _positive
        simulate.add_argument(f"--{name}", type=size, metavar="N", help=help)
    simulate.add_argument("--seed", type=_seed, default=1, metavar="N", help="what is drawn follows from it (1)")
    simulate.add_argument("--runs", type=_runs, default=1, metavar="N", help="with so many seeds: the spread")
    simulate.add_argument("--until", metavar="DURATION", help="cut the run off then")
    simulate.add_argument("--limit", action="append", metavar="NAME=N", help="with another limit, as max_jobs=200")
    simulate.add_argument("--timeline", action="store_true", help="print what happens, one row an event")
    verb("example", json).add_argument("name", metavar="NAME", nargs="?", help="print this one")
    graph = verb("graph", json)
    graph.add_argument("file", metavar="FILE", help="the ensemble's YAML file")
    graph.add_argument(
        "--format", choices=("text", "dot", "svg"), help="for a terminal, for Graphviz, or drawn by it (text or dot)"
    )
    graph.add_argument("-o", "--output", metavar="OUT", help="write to this file; its name may say the format")
    verb("schema", json)
    service = verb("service", json, member, rundir)
    service.add_argument("what", metavar="start|stop|restart|status", choices=("start", "stop", "restart", "status"))
    verb("version", json)
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no record's number")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no number of ensembles")
    return int(text)


def _size(text: str) -> int:
    if not text.isdecimal() or len(text) > 7:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of nodes, cores or GPUs")
    return int(text)


def _positive(text: str) -> int:
    if not _size(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of nodes or cores; there is at least one")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; expected a whole number")
    return int(text)


def _runs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of runs, from 1 to 100000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return seconds


def _unknown(argv: Sequence[str]) -> Optional[str]:
    """The sentence for a first word that is no verb."""
    word = next((word for word in argv if not word.startswith("-")), None)
    if word is None or word in VERBS:
        return None
    from difflib import get_close_matches

    near = get_close_matches(word, VERBS, n=1)
    return f"no verb is called '{word}'; " + (f"did you mean '{near[0]}'?" if near else f"see '{hint('--help')}'")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    words: List[str] = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    unknown = _unknown(words)
    if unknown is not None:
        say(unknown)
        return 2
    try:
        args = parser.parse_args(words)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 2
    return _guarded(_verb(args.verb), args)


def _verb(name: str) -> Callable[[argparse.Namespace], int]:
    """The function of a verb, imported when called, so that an import that fails is told like any error."""

    def call(args: argparse.Namespace) -> int:
        module, _, function = VERBS[name][0].partition(":")
        status: int = getattr(import_module(f"ensemble.cli.{module}"), function)(args)
        sys.stdout.flush()
        return status

    return call


def _guarded(verb: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return verb(args)
    except BrokenPipeError:
        # who read our output has gone, as `head` does; nothing is left to say, nor at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as exc:
        if args.debug:
            import traceback

            traceback.print_exc()
        return _tell(exc)


def _tell(exc: Exception) -> int:
    """Say what went wrong; the exit status for it."""
    if isinstance(exc, SpecError):
        for fault in exc.faults:
            print(fault, file=sys.stderr)
        return 2
    if isinstance(exc, UsageError):
        say(str(exc))
        return 2
    if isinstance(exc, EnsembleError) and not isinstance(exc, InternalError):
        say(str(exc))
        return 1
    if isinstance(exc, OSError) and exc.strerror:
        say(f"{str(exc.filename) + ': ' if exc.filename else ''}{exc.strerror}")
        return 1
    text = " ".join(str(exc).split())
    say(
        f"this is a fault of ensemble itself, please report it: {type(exc).__name__}{': ' + text if text else ''} "
        "(--debug shows where)"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
