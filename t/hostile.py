# SPDX-License-Identifier: MIT
"""Payloads that no honest client sends, for hypothesis: any JSON, the right keys with wrong values, far too much."""

from __future__ import annotations

from typing import Any, Dict

from hypothesis import strategies as st

#: any JSON, that of a strict writer
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from([-1, 0, 2**31, 2**63, 2**64, 10**400, -0.0, 1e308, "", "\0", "\ud800", "../../etc", "%s%n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
#: every key that some endpoint knows
KEYS = (
    "id", "ids", "since", "max", "start", "group", "limits", "text", "file", "submitter", "environment", "cwd", "umask",
    "rlimits", "older_than", "keep", "name", "data", "values", "key", "matchtag", "job", "signal",
)  # fmt: skip
FILE = "jobs: [{name: a, command: 'true'}]\nrules: [{trigger: timer, after: 1h, action: {name: submit, label: a}}]\n"
#: FILE's name, an unknown id, a beginning of many, a file, odd numbers
LIKELY = st.sampled_from(["hostile", "nobody", "b", FILE, 0, 1, 10**9, -1, "x" * 300, None, [], {}, True])

PAYLOADS = st.one_of(
    JSON,
    st.dictionaries(st.sampled_from(KEYS), JSON | LIKELY, max_size=6),
    st.fixed_dictionaries({"id": st.just("hostile")}, optional=dict.fromkeys(KEYS[2:7], JSON | LIKELY)),
)
#: what is JSON in no sense, or is too much of it
RAW = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"", b"{", b"[" * 20_000, b'{"a":' * 20_000, b"\xff\xfe\x00", b'{"x": NaN}', b'{"x": Infinity}', b'"', b"null",
            b'{"id": "hostile", "id": "nobody"}', b"9" * 5000, b'{"id": ' + b"9" * 5000 + b"}", b'{"id": "\\ud800"}',
        ]
    ),
)  # fmt: skip

#: bytes of payloads far beyond what is right: one long word, many keys, a long list, a big number of levels
OVERSIZED: Dict[str, Any] = {
    "a long word": {"id": "x" * (3 << 20)},
    "many keys": {f"k{n}": n for n in range(100_000)},
    "a long list": {"ids": ["x"] * 200_000},
    "a long file": {"text": "#" * (3 << 20), "file": "f.yaml", "submitter": {}},
    "many variables": {"text": FILE, "submitter": {"environment": {f"V{n}": "x" * 20 for n in range(50_000)}}, "x": 1},
}
