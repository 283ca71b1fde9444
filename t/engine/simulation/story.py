# SPDX-License-Identifier: MIT
"""A story: users, a service that dies and comes back, the queue and the disk that outlive it; and the checks.

What is real: the service's core with all it uses to drive, keep and recover ensembles, and the engine. What is
modelled: the member with its job manager, the store (or, in a folder, the real `FileStore`), the users and the host.
After every step nothing may have gone wrong (`Story._look`); at the end each ensemble is judged (`judging.py`). It has
more than 400 lines because users and faults need the whole of the story.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import syslog
import tempfile
from errno import ENODATA, EOVERFLOW
from pathlib import Path
from typing import Any, Callable, Counter, Dict, FrozenSet, Iterator, List, Optional

from ensemble.service import running as running_module
from ensemble.service.core import Service
from ensemble.service.file_store import FileStore
from ensemble.service.protocol import ENDS, Host, Reply
from ensemble.service.store import Store
from t.engine.simulation import files
from t.engine.simulation.files import File
from t.engine.simulation.judging import Outcome, compare, judge
from t.engine.simulation.manager import JobManager
from t.engine.simulation.member import SimMember
from t.engine.simulation.stores import Disk, Recorded, SimStore
from t.engine.simulation.world import Crash, Violation, World

#: seconds in which faults come
_WINDOW = 60.0
#: seconds after which a user ends what goes on for ever
_PATIENCE = 400.0
#: steps, and seconds, in which all must have come to its end; a clock that was set back delays timers as much
_MOST_STEPS = 150_000
_LONGEST = 30_000.0
#: seconds after which what is due and not done was forgotten
_LATE = 10.0


class _Answer(Reply):
    """What one request is answered."""

    def __init__(
        self, caller: str, took: Callable[[Dict[str, Any]], None], refused: Callable[[int, str], None]
    ) -> None:
        self.caller = caller
        self._took = took
        self._refused = refused

    def send(self, payload: Dict[str, Any]) -> None:
        self._took(json.loads(json.dumps(payload, allow_nan=False)))

    def error(self, errno: int, text: str) -> None:
        self._refused(errno, text)


class _Service(Service):
    """With ids that a seed gives again."""

    numbers: Iterator[int]

    def _new_id(self) -> str:
        return f"x{next(self.numbers)}"


class _User:
    """One who submits a file, watches it, and sees to it that it ends."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.id: Optional[str] = None
        self.resumed = 0
        self.over = False
        #: the life of the service to which the open stream leads; 0 for none
        self.watching = 0
        #: lines seen; those who watch come back with the last one they have
        self.seen: List[Dict[str, Any]] = []


class Story:
    """One seed's story; `run` tells it, and raises Violation."""

    def __init__(
        self,
        seed: object,
        *,
        steady: bool = True,
        faults: bool = True,
        at: FrozenSet[int] = frozenset(),
        folder: Optional[Path] = None,
        most_files: int = 3,
    ) -> None:
        """`at` are the numbers of the points at which the service dies, with `faults` or without."""
        self.seed = seed
        r = self._random = random.Random(f"{seed}/story")
        self.steady = steady
        self.users = [_User(files.make(r, f"f{n}", steady)) for n in range(r.randint(1, most_files))]
        slots = r.randint(1, 6)
        self._slow = r.choice((0.0, 0.0, 0.01, 0.3))
        self._snapshot = r.choice((3, 11, 40))
        rate, most = r.choice(((0.0, 0), (0.002, 10), (0.01, 10), (0.04, 15)))
        self.world = World(seed, rate=rate if faults else 0.0, most=most, at=at)
        self.disk = Disk()
        self.manager = JobManager(self.world, slots, self._fate, self.disk.intended)
        self._folder = folder
        self._numbers = iter(range(1, 1000))
        self.service: Optional[_Service] = None
        self._member: Optional[SimMember] = None
        self._store: Optional[Store] = None
        #: lives of the service so far
        self.lives = 0
        self._restart_due = False
        self._errors: List[str] = []
        #: what is due and was not done -> since when
        self._due: Dict[Any, float] = {}
        self._steps = 0
        self._purged = False
        if faults:
            self._plan_faults(r)
        for user in self.users:
            self.world.after(r.random() * 5, lambda user=user: self._submit(user))  # type: ignore[misc]
            self._plan_user(r, user)

    # ---- the story

    def run(self) -> Dict[str, Outcome]:
        """From the begin to the end; what each file came to."""
        before, running_module._SNAPSHOT = running_module._SNAPSHOT, self._snapshot
        try:
            self._boot()
            for step in range(_MOST_STEPS):
                if step % 64 == 0 and self._all_over():
                    break
                if not self._step() or self.world.now > _LONGEST:
                    break
            if not self._all_over():
                raise Violation(f"it does not end: {[(u.file.name, u.id, u.over) for u in self.users]}")
            rest = self.world.now + 100
            while self.world.now < rest and self._step():
                continue
            return {user.file.name: self._judge(user) for user in self.users}
        finally:
            running_module._SNAPSHOT = before
            if self._store is not None:
                self._leave_behind(self._store)

    def _step(self) -> bool:
        try:
            more = self.world.step()
        except Crash:
            self._die()
            more = True
        self._look()
        return more

    def _all_over(self) -> bool:
        over = all(user.over for user in self.users) and not self.manager.active()
        return over and self.service is not None and self.manager.state == "up" and self.world.now > _WINDOW + 10

    def _fate(self, key: Any) -> files.Fate:
        name = self.disk.kept[key.ensemble].given["file"]
        return files.fate(f"{self.seed}/{name}", self.steady, key)

    # ---- lives of the service

    def _boot(self) -> None:
        self._restart_due = False
        if self.service is not None or self.manager.state == "down":
            return
        self.lives += 1
        self.world.alive = True
        try:
            self._member = member = SimMember(self.world, self.manager)
            self._store = self._make_store()
            service = _Service(
                member,
                self._store,
                Host("simulated"),
                log=self._log,
                on_quit=lambda: None,
                clock=self.world.clock,
            )
            service.numbers = self._numbers
            self.service = service
            service.start()
            if self.manager.state == "leaving":
                service.freeze("the instance is shutting down")
            for user in self.users:
                self._watch(user)
        except Crash:
            self._die()

    def _make_store(self) -> Store:
        if self._folder is None:
            return SimStore(self.world, self.disk, self._slow)
        there = sorted(path.parent.name for path in self._folder.glob("*/ensemble.db"))
        store = FileStore(self._folder, defer=self.world.after, log=self._log, take=there)
        for id in there:
            store.lock(id)
        return Recorded(self.world, self.disk, store)

    def _die(self) -> None:
        """kill -9: what the process had is gone, what it had sent is on its way, or not."""
        self.world.alive = False
        if self._member is not None:
            self._member.die()
        self.manager.drop_some()
        if self._store is not None:
            self._leave_behind(self._store)
        self.service = self._member = self._store = None
        self._come_back(self._random.choice((0.1, 1.0, 5.0, 30.0)) * self._random.random())

    def _leave_behind(self, store: Store) -> None:
        if isinstance(store, SimStore):
            store.die()
        elif isinstance(store, Recorded) and isinstance(store.store, FileStore):
            # as the end of a process does: the lock is free, and nothing was closed in good order
            inner = store.store
            for fd in inner._locks.values():
                os.close(fd)
            inner._locks.clear()
            inner._defer = lambda seconds, call: None

    def _come_back(self, after: float) -> None:
        if not self._restart_due:
            self._restart_due = True
            self.world.after(after, self._boot)

    def _log(self, level: int, text: str) -> None:
        if level <= syslog.LOG_ERR:
            self._errors.append(text)

    # ---- faults

    def _plan_faults(self, r: random.Random) -> None:
        plans: List[Callable[[], None]] = []
        plans += [self._reload] * r.randint(0, 2)
        plans += [self._refuse] * r.randint(0, 2)
        plans += [self._kill] * r.randint(0, 2)
        # a restart of the instance is told by the clock, so in a steady file not both
        clock = r.random() < 0.5
        if not clock or not self.steady:
            plans += [self._shut_down] * r.randint(0, 2)
        if clock or not self.steady:
            plans += [self._set_clock] * r.randint(0, 3)
        if r.random() < 0.15:
            plans += [self._purge] * r.randint(1, 2)
        for plan in plans:
            self.world.after(_WINDOW * r.random() ** 2, plan)

    def _kill(self) -> None:
        if self.service is not None:
            self.world.injected["crash between steps"] += 1
            self._die()

    def _reload(self) -> None:
        if self.manager.state == "up":
            self.world.injected["job manager reloaded"] += 1
            self.manager.reload()
            if self._member is not None:
                self._member.lose_journal()

    def _refuse(self) -> None:
        if self._folder is None:
            self.world.injected["store refuses"] += 1
            self.disk.refuses_until = self.world.now + self._random.choice((0.5, 5.0, 20.0))

    def _set_clock(self) -> None:
        self.world.injected["clock set"] += 1
        self.world.offset += self._random.choice((-1, 1)) * self._random.choice((0.01, 1.0, 60.0, 4000.0))

    def _purge(self) -> None:
        if self.service is None and self.manager.purge():
            self.world.injected["jobs purged"] += 1
            self._purged = True
        elif self.service is not None and self.world.now < _WINDOW:
            # it matters while nobody looks
            self.world.after(1.0, self._purge)

    def _shut_down(self) -> None:
        if self.manager.state != "up":
            return
        self.world.injected["instance restarted"] += 1
        whole = self._random.random() < 0.5
        if self.service is not None:
            try:
                self.service.freeze("the instance is shutting down")
            except Crash:
                self._die()
        self.manager.state = "leaving"
        self.world.after(0.5 * self._random.random(), lambda: self.manager.leave(whole))
        self.world.after(1.0, self._rest)

    def _rest(self) -> None:
        if not self.manager.at_rest():
            self.world.after(0.5, self._rest)
            return
        if self.service is not None:
            try:
                self.service.stop()
            except Crash:
                self.world.injected["crash in the shutdown"] += 1
            self.world.alive = False
            if self._member is not None:
                self._member.die()
            if self._store is not None:
                self._leave_behind(self._store)
            self.service = self._member = self._store = None
        self.manager.go_down()
        self.world.after(self._random.choice((0.5, 20.0, 500.0)), self._up)

    def _up(self) -> None:
        self.manager.come_up()
        self._come_back(self._random.random())

    # ---- users

    def _plan_user(self, r: random.Random, user: _User) -> None:
        if r.random() < 0.3:
            t = 5 + r.random() * 30
            self.world.after(t, lambda: self._command(user, "pause"))
            self.world.after(t + r.random() * 20, lambda: self._command(user, "resume", again=True))
        if not user.file.steady and r.random() < 0.15:
            self.world.after(r.random() * 40, lambda: self._command(user, "cancel"))
        self.world.after(_WINDOW + 10, lambda: self._tend(user))

    def _ask(
        self,
        endpoint: str,
        payload: Dict[str, Any],
        took: Callable[[Dict[str, Any]], None],
        refused: Callable[[int, str], None] = lambda errno, text: None,
        caller: str = "user",
    ) -> None:
        """Ask the service that lives now; of a dead one nothing more is heard."""
        service, life = self.service, self.lives
        if service is None:
            refused(0, "no service")
            return

        def alive() -> bool:
            return self.lives == life and self.service is not None

        answer = _Answer(
            caller, lambda p: took(p) if alive() else None, lambda n, t: refused(n, t) if alive() else None
        )
        self.world.point("before a request")
        service.handle(endpoint, payload, answer)
        self.world.point("behind a request")

    def _submit(self, user: _User) -> None:
        """Until it is there: after a crash, by a look whether it is."""
        if user.id is not None:
            return
        self.world.after(40.0 if self.service is not None else 1.0, lambda: self._submit(user))
        there = [id for id, kept in self.disk.kept.items() if kept.given["file"] == user.file.name]
        if there:
            user.id = there[0]
            self._watch(user)
            return

        def took(payload: Dict[str, Any]) -> None:
            user.id = payload["id"]
            if user.id not in self.disk.kept:
                raise Violation(f"{user.id} is told to its user, and not kept")
            self._watch_again(user)

        payload = {"text": user.file.text, "file": user.file.name, "submitter": {}}
        self._ask("submit", payload, took)

    def _command(self, user: _User, name: str, again: bool = False) -> None:
        def refused(errno: int, text: str) -> None:
            if again and not user.over:
                self.world.after(2.0, lambda: self._command(user, name, again))

        if user.id is None:
            refused(0, "")
        else:
            self._ask(name, {"id": user.id}, lambda payload: None, refused)

    def _watch(self, user: _User) -> None:
        if user.id is None or self.service is None:
            return

        def took(payload: Dict[str, Any]) -> None:
            user.seen.extend(record for record in payload["records"] if record["type"] != "metric")

        def ended(errno: int, text: str) -> None:
            user.watching = 0
            if errno == EOVERFLOW:
                self._watch_again(user)
            if errno == ENODATA and user.seen[-1].get("state") not in ENDS:
                raise Violation(f"the stream of {user.id} ended with {user.seen[-1]}")

        since = user.seen[-1]["seq"] if user.seen else 0
        caller = f"{user.file.name} in life {self.lives}"
        self.service.disconnect(caller)
        user.watching = self.lives
        self._ask("watch", {"id": user.id, "since": since}, took, ended, caller=caller)

    def _watch_again(self, user: _User) -> None:
        """A stream has ended, or was cut, and there may be more. It is another request: not within this one."""
        self.world.soon(lambda: self._watch(user))

    def _tend(self, user: _User) -> None:
        """Look now and then, until it has ended: carry on what halts, end what never ends."""
        if user.id is None:
            self.world.after(5.0, lambda: self._tend(user))
            return

        def took(status: Dict[str, Any]) -> None:
            state = status["state"]
            if user.watching != self.lives:
                self._watch_again(user)
            if state == "halted" and user.resumed < 3:
                user.resumed += 1
                limits = {"max_jobs": 40, "max_firings": 30, "max_failures": None, "duration": None}
                self._ask("resume", {"id": user.id, "limits": limits}, lambda payload: self._watch_again(user))
            elif state in ENDS:
                user.over = True
                return
            elif state == "paused":
                self._ask("resume", {"id": user.id}, lambda payload: None)
            elif not user.file.steady and self.world.now > _PATIENCE:
                self._ask("cancel", {"id": user.id}, lambda payload: None)

        if not user.over:
            self.world.after(20.0, lambda: self._tend(user))
            self._ask("status", {"id": user.id}, took)

    # ---- what must always hold

    def _judge(self, user: _User) -> Outcome:
        assert user.id is not None
        return judge(user.id, user.seen, self.disk.kept[user.id], self.manager, self._purged)

    def _look(self) -> None:
        """Between any two steps. That a key has one job, and only an intended one, the job manager looks at itself."""
        if self._errors:
            raise Violation(f"the service complains: {self._errors}")
        if self.service is None:
            return
        for running in self.service._running.values():
            for group, counts in running.engine.tally.counts.items():
                jobs = counts["pending"] + counts["running"] + counts["finished"]
                ends = counts["success"] + counts["failed"] + counts["cancelled"]
                if counts["submitted"] != jobs or counts["finished"] != ends or min(counts.values()) < 0:
                    raise Violation(f"{running.id}: {group} counts {counts}")

        self._steps += 1
        if self._steps % 8 == 0:
            self._look_for_the_forgotten()

    def _look_for_the_forgotten(self) -> None:
        """What the engine has asked for is done, if the service lives and the store writes: timers, and the end of jobs."""
        due: Dict[Any, float] = {}
        if self.service is not None and self.world.now > self.disk.refuses_until + 5:
            for running in self.service._running.values():
                if running.frozen or running.engine.final is not None or self._is_writing(running.id):
                    continue
                for timer, at in running.engine.timers.items():
                    if at < self.world.clock():
                        due[self.lives, running.id, timer, at] = self.world.now
                for job in running.engine.jobs.values():
                    real = self.manager.jobs.get(job.id or 0)
                    if job.doomed and real is not None and real.state in ("pending", "running"):
                        due[self.lives, running.id, job.key] = self.world.now
        self._due = {what: self._due.get(what, now) for what, now in due.items()}
        for what, since in self._due.items():
            if self.world.now - since > _LATE:
                raise Violation(f"for {self.world.now - since:g} s this has been due: {what}")

    def _is_writing(self, id: str) -> bool:
        """Does what the engine asked for wait for the store?"""
        return isinstance(self._store, SimStore) and self._store.is_writing(id)


def check_seed(seed: int) -> Counter[str]:
    """Tell a seed's story and hold it against all promises; what it had, counted. Raises Violation, and what breaks.

    Even seeds have steady files; every tenth seed's service has the real store of the local queue, in a folder.
    """
    steady = seed % 2 == 0
    with contextlib.ExitStack() as stack:
        folder = None
        if seed % 10 in (4, 9) and seed % 20 > 9:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ens-sim-")))
        story = Story(seed, steady=steady, folder=folder)
        found = story.run()
    if steady:
        undisturbed = Story(seed, steady=True, faults=False).run()
        for name, outcome in found.items():
            if not any(job[2] == "in-doubt" for job in outcome.jobs.values()):
                compare(name, outcome, undisturbed[name])
    had = story.world.injected
    had.update({"stories": 1, "lives of the service": story.lives, "points": story.world.points})
    had.update({"jobs": len(story.manager.jobs), "with the store in files": folder is not None})
    return had
