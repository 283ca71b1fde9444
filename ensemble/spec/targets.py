# SPDX-License-Identifier: MIT
"""Actions on jobs: which keys say which jobs are meant, a group, all of them, or the one that the rule fired on.

Law of this file: part of `check`, over the tree; silent about shapes, which the models tell.
"""

from __future__ import annotations

from typing import Optional

from ensemble.spec.faults import Report
from ensemble.spec.models import JOB_TRIGGERS
from ensemble.spec.reader import Node

#: actions on jobs
ACTIONS = ("cancel", "kill", "urgency")
#: triggers whose event is about a job
WITH_JOB = frozenset((*JOB_TRIGGERS, "report"))


def check(action: Node, trigger: Optional[str], groups: Optional[str], report: Report) -> None:
    """Tell what is wrong with the target of an action on jobs.

    `groups` says in words what a label may be; None where a missing one need not be told.
    """
    name = action.value["name"][1]
    word = name.text
    label, job = action.get("label"), action.get("job")
    if label is None and job is None:
        if groups is not None:
            report.add(name, f"{word} has no label", expected=f"label: {groups}; or job: event")
    elif label is not None and job is not None:
        report.add(action.key("job"), f"{word} has both label and job", expected="one of them")
    if job is not None and job.text == "event" and trigger is not None and trigger not in WITH_JOB:
        report.add(
            action.key("job"),
            f"a rule on {trigger} has no job that {word} could be about",
            value="job",
            expected="label in place of job, or a trigger that is about a job, such as job-start",
        )
