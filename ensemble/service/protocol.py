# SPDX-License-Identifier: MIT
"""What clients and service say to each other, whatever carries it (Flux RPC, or the local socket).

A request is an endpoint and a JSON object of MAX_REQUEST bytes at most. The answer is a JSON object, or an errno and
a sentence. `watch` alone answers with a stream. `ID` below is an id, a unique prefix of one, or a name (the latest
ensemble of that name). Times are seconds since the epoch, None until they are known.

submit  {text, file, files?: {NAME: text}, submitter: {environment, cwd, umask, rlimits}}
        -> {id, name, warnings: [str]}
        `text` is the file's content, `file` its name for messages, `files` those that it names (`custom: {file: ...}`).
        A faulty file is EINVAL, its faults the sentence.
list    {} -> {ensembles: [SUMMARY, ...]}            oldest first
status  {id: ID} -> STATUS
jobs    {id: ID, group?, start?: 0, max?: 1000} -> {jobs: [JOB, ...], total}
        In order of submission; where more than 10000 have ended these come first, in the order in which they did. What
        is held comes last.
watch   {id: ID, since?: 0} -> stream of {records: [RECORD, ...]}
        Records with seq > since, then new ones as they come; an empty list every KEEPALIVE seconds; the stream ends
        (ENODATA) after the record of the final state. One request buys WATCH_RECORDS records and WATCH_MESSAGES
        messages; then the stream is cut (EOVERFLOW), and who has read them asks again with `since`. Where the oldest
        records are not kept any more, the first one's seq is greater than since + 1.
log     {id: ID, since?: 0, max?: 1000} -> {records: [RECORD, ...], last}
explain {id: ID, rule} -> EXPLAINED
        `rule` is a rule's id, the beginning of one, or its number in the file, from 1. ENOENT names those that there are.
events  {id: ID, after?: 0, max?: 1000} -> {events: [EVENT, ...], last, given, ensemble: SUMMARY, broken}
        What the ensemble has consumed, in order, with numbers > after: for `replay`. `last` is the number up to which the
        answer goes, and `after` where there is no more. Where the oldest are not kept any more, the first one's number is
        greater than after + 1. `given` is what was submitted, without the submitter, and only told where after is 0;
        `broken` is None, or why the ensemble was quarantined.
cancel  {id: ID} -> {id, state}
pause   {id: ID} -> {id, state}
resume  {id: ID, limits?: {NAME: value}} -> {id, state}
resize  {id: ID, by: N} -> {id, state}
        Has the ensemble's queue grow by N nodes, or shrink where N is negative. EOPNOTSUPP: it has no way to.
purge   {ids?: [ID], older_than?: seconds, keep?: N} -> {removed: [SUMMARY]}
        Removes ensembles that have ended: the `ids`, else all (without those that halted or cannot be read); save
        those that ended less than `older_than` seconds ago and the `keep` that ended last.
put     {key: KEY, values: {NAME: x}, token} -> {taken: [NAME], refused: {NAME: why}}
        A job, by its key (ENSEMBLE_JOB), reports values: numbers, or strings for what is none and is only counted. ENOENT:
        the ensemble is not known here; EINVAL: that attempt of the job has ended. `token` names the report for ever, and one
        that is sent again takes effect once.
signal  {id: ID, name, data?: {}, token?} -> {id, name, rules}
        `rules` is how many rules wait for it.
stats   {} -> {host: process|module|local, pid, supervisor_pid, version, t_start, restarts, ensembles, active,
               watchers, member, capabilities}
quit    {} -> {}                                      answered, then the service ends

SUMMARY {id, name, state, reason, t_submit, t_end, jobs: COUNTS}
STATUS  SUMMARY and {groups: {G: COUNTS}, metrics: {G: {STATE: {VARIABLE: {STAT: x}}}},
                     rules: [{id, trigger, fired, remaining, state, error}], variables: {NAME: value}, members: {NAME: up|down|gone},
                     parameters: {G: [{set, names, sample, seed, taken, total}]}, scaling: SCALING}
        remaining is None where repetitions are unlimited; a rule's state is one of ready, cooldown, spent, disabled,
        failed. A metric without a value is left out. `parameters` has the sets, by number, that have any; `total` is
        None where there is no end of points. The STATE of what jobs report is `reported`; `refused` among its statistics
        counts what was no finite number.
SCALING {scaler, min, max, cooldown, wanted, size, change: {action: grow|shrink, wanted, waits: None|cooldown|ensemble},
         cooling_until, t_done, failed: {t, action, wanted, reason}}
        None where the file has no scaler and nothing was asked for. `scaler` is the one that counts, None where there is none,
        and `max` None where there is no bound. `wanted` is the size that the ensemble wants, None until it has wanted one;
        `size` the one told last. `change`: what is not over, None for none; it waits for the end of the cooldown, or for an
        ensemble that wants more. `t_done`: when the last change was over. `failed`: the last request or change that has
        failed, None for none; its `wanted` is None where it was refused.
EXPLAINED {rule, number, answer, why, trigger, name, when, actions: [{name, ...}], state, fired, remaining, repetitions,
         backoff: {of, left}, cooldown: {of, left, until}, enabled, enabled_by: {by: file|rule|on_error, rule, firing, t},
         waits_for, next, holds, condition: TERM, looked: {t, event, outcome, text}, firings: [{firing, t, event, did: [str]}],
         error, ensemble: {id, name, state, reason, t_begin, t}}
        `answer` is a sentence. why: failed, spent, disabled, limit, ended, closed, cooldown, backoff, condition (which does
        not hold) or event (which has not come). `state` is as in STATUS. `number` counts from 1 in file order. `next`: when
        its timer, its heartbeat or the end of its cooldown is due, or None. `holds` and `condition` are None where the rule
        has none; its terms have their present values, those of the event the values that it had. `looked` is the last
        event that it looked at, None before the first; outcome: fired, false, cooldown, backoff, resting (it was disabled,
        spent or failed), limit, closed (nothing fired any more) or error. `firings` are the last three, oldest first;
        `event` is None where the record is not kept any more.
TERM    {text, kind: or|and|not|comparison|arithmetic|call|path, value, why, terms: [TERM]}, without constants; where the
        value is None, a path's `why` says why
EVENT   [number, EVENT_JSON (`engine.events.to_json`), [str]]      the last: keys of jobs to be submitted, and what else was
        to be done
COUNTS  {submitted, pending, running, active, finished, success, failed, cancelled, retried}
JOB     {id, group, state: held|submitting|pending|running|finished|inactive, result: None|success|failed|cancelled|retried,
         exit_code, signal, cause, note, attempt, rule, firing, index, t_submit, t_start, t_end, member, ranks, params,
         values, ended, where}
        cause: None, or why it did not succeed: exit, signal, timeout, cancel, refused, exec, infrastructure, exception
        member: None for the service's own queue, or the name of the member that it was sent to
        ended: None, or which of the ensemble's jobs it was to end, from 1
        note: None, or the note of its exception, or the reason of its refusal
RECORD  {seq, t, type, ...}, seq from 1 without a gap
  submitted {id, name, file, debug}
  state     {state, reason}
  rule      {rule, trigger, firing, remaining, text}              the rule fires; text is its name or metric and value
  action    {rule, firing, action, label, count, text, job?}      what it does; job where it is about one alone
  job       {job, group, event: submit|start|finish|..., result, cause, exit_code, signal, text, at?}
            `t` never goes back; `at` is when it happened, where it was told more than a second after that
  metric    {groups: {G: COUNTS and mean_duration}}     a picture of the counts now; not stored, carries the last seq
  log       {text, rule}
  error     {text, rule}

States of an ensemble: running, paused, stopping, and the ends complete, failed, cancelled, halted.
"""

from __future__ import annotations

import errno as _errno
from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, NamedTuple, Optional

#: the name registered with Flux; endpoints are SERVICE.<endpoint>
SERVICE = "ensemble"
ENDPOINTS = (
    "submit",
    "list",
    "status",
    "jobs",
    "watch",
    "log",
    "explain",
    "events",
    "cancel",
    "pause",
    "resume",
    "resize",
    "purge",
    "put",
    "signal",
    "stats",
    "quit",
)
STREAMING = ("watch",)
#: bytes of one request
MAX_REQUEST = 4 << 20
#: seconds between two signs of life of a watch stream
KEEPALIVE = 2.0
#: what one request to watch buys at most: records, and messages (signs of life included)
WATCH_RECORDS = 2000
WATCH_MESSAGES = 200
ENDS = ("complete", "failed", "cancelled", "halted")


class Reply(ABC):
    """The way back to one request. Made by a transport, used by `Service.handle`."""

    #: who asked: the same string for all requests of one connection, so that `disconnect` can end its streams
    caller: str

    @abstractmethod
    def send(self, payload: Dict[str, Any]) -> None:
        """The answer; for a stream, one of its answers. Harmless when the caller is gone."""

    @abstractmethod
    def error(self, errno: int, text: str) -> None:
        """The request is refused, or the stream is cut; `text` is a sentence. Nothing follows."""

    def end(self) -> None:
        """The stream has come to its end. Nothing follows."""
        self.error(_errno.ENODATA, "end of stream")


class Host(NamedTuple):
    """How the service lives; part of the answer to `stats`."""

    #: process, module or local
    kind: str
    supervisor_pid: Optional[int] = None
    #: times that the supervisor has restarted it
    restarts: int = 0
    #: does the supervisor still live?
    supervised: Callable[[], bool] = lambda: True
