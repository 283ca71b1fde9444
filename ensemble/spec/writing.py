# SPDX-License-Identifier: MIT
"""A tree of nodes as YAML again: what `validate --expand` shows.

Law of this file: what is written reads back, by `reader`, as what the nodes mean. So a string that would be read as
something else stands in quotes, and a number stands as it was written in the file.
"""

from __future__ import annotations

from typing import Any

import yaml

from ensemble.spec.faults import Report
from ensemble.spec.reader import Node, read


def text(root: Node) -> str:
    """The YAML of the tree."""
    written: str = yaml.dump(
        root.plainly(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False
    )
    return written


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        # lists stand indented below their key
        return super().increase_indent(flow, False)


def _string(dumper: yaml.SafeDumper, value: str) -> Any:
    if "\n" in value and not any(line.endswith(" ") for line in value.split("\n")):
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if _plainly(value) else '"')


def _plainly(value: str) -> bool:
    """Is it read as the string that it is where it stands without quotes?"""
    node = read(value, Report("", value)) if value and len(value) < 200 and "\n" not in value else None
    return node is None or node.kind != "scalar" or isinstance(node.value, str)


def _number(dumper: yaml.SafeDumper, value: Any) -> Any:
    kind = "int" if isinstance(value, int) else "float"
    words = getattr(value, "text", None) or {float("inf"): ".inf", -float("inf"): "-.inf"}.get(value) or repr(value)
    return dumper.represent_scalar(f"tag:yaml.org,2002:{kind}", words if value == value else ".nan")


def _mapping(dumper: yaml.SafeDumper, value: Any) -> Any:
    """On one line where it is short and flat, as people write actions."""
    small = 0 < len(value) <= 6 and all(not isinstance(one, (dict, list)) for one in value.values())
    short = sum(len(str(key)) + len(str(one)) + 4 for key, one in value.items()) <= 100
    flow = small and short and not any("\n" in str(one) for one in value.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=flow or not value)


def _list(dumper: yaml.SafeDumper, value: Any) -> Any:
    flat = all(not isinstance(one, (dict, list)) for one in value) and sum(len(str(one)) + 2 for one in value) <= 90
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


_Dumper.add_representer(str, _string)
_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(bool, yaml.SafeDumper.represent_bool)
_Dumper.add_multi_representer(int, _number)
_Dumper.add_multi_representer(float, _number)
