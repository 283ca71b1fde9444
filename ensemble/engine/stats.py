# SPDX-License-Identifier: MIT
"""The one place that knows river: streaming statistics of one variable.

Law of this file: `update` and `get`, nothing else, plus a JSON form that restores bit for bit. A statistic has no
value (None) before the first update; variance, std and sem have none below two. NaN and infinity are refused by
`update`, so that one bad value cannot poison a mean for good. Formulas are river's: Welford for the moments, the P2
algorithm for quantiles, iqr and mad, so that the last three are estimates.
"""

from __future__ import annotations

import base64
import math
from typing import Any, Callable, Dict, FrozenSet, Iterable, Optional

from river import stats as river

from ensemble.errors import RecordError

#: what river's Var alone answers
_MOMENTS = frozenset({"n", "mean", "variance", "std", "sem"})
_SIMPLE: Dict[str, Callable[[], Any]] = {
    "sum": river.Sum,
    "min": river.Min,
    "max": river.Max,
    "iqr": river.IQR,
    "mad": river.MAD,
    "ewm": river.EWMean,
}
#: river object -> attribute that holds a Rust object, whose state is a plain byte string
_RUST = {river.Quantile: "_quantile", river.IQR: "_iqr", river.EWMean: "_ewmean"}
_PLAIN = {river.Sum: "sum", river.Min: "min", river.Max: "max"}


def _make(stat: str) -> Any:
    if stat in _SIMPLE:
        return _SIMPLE[stat]()
    q = 0.5 if stat == "median" else int(stat[1:]) / 100
    return river.Quantile(q)


class Statistics:
    """The wanted statistics of one stream of numbers.

    `stats` are names of `ensemble.spec.metrics.STATS` or p01 to p99; what is not wanted is not computed.
    """

    __slots__ = ("_last", "_moments", "_n", "_others", "refused", "wanted")

    def __init__(self, stats: Iterable[str]) -> None:
        self.wanted: FrozenSet[str] = frozenset(stats)
        self._n = 0
        self._last: Optional[float] = None
        self._moments: Any = river.Var() if self.wanted & (_MOMENTS - {"n"}) else None
        self._others: Dict[str, Any] = {s: _make(s) for s in sorted(self.wanted - _MOMENTS - {"last"})}
        #: values that were no finite number
        self.refused = 0

    def want(self, stat: str) -> None:
        """Compute this one too, from the next value on."""
        if stat in self.wanted:
            return
        self.wanted |= {stat}
        if stat in _MOMENTS - {"n"}:
            self._moments = river.Var() if self._moments is None else self._moments
        elif stat not in ("n", "last"):
            self._others[stat] = _make(stat)

    def get_n(self) -> int:
        """Values so far."""
        return self._n

    def update(self, x: float) -> bool:
        """Feed one value. False, and nothing is fed, if it is NaN or infinite."""
        if not math.isfinite(x):
            self.refused += 1
            return False
        x = float(x)
        self._n += 1
        self._last = x
        if self._moments is not None:
            self._moments.update(x)
        for stat in self._others.values():
            stat.update(x)
        return True

    def get(self, stat: str) -> Optional[float]:
        """The statistic's value, or None where it has none. Raises KeyError for one that was not wanted."""
        if stat not in self.wanted:
            raise KeyError(stat)
        if stat == "n":
            return self._n
        if self._n == 0:
            return None
        if stat == "last":
            return self._last
        value: Optional[float]
        if stat == "mean":
            # none where it was wanted only after the last value
            value = self._moments.mean.get() if self._moments.mean.n else None
        elif stat in _MOMENTS:
            n = self._moments.mean.n
            if n < 2:
                return None
            value = max(0.0, self._moments.get())
            if stat == "std":
                value = math.sqrt(value)
            elif stat == "sem":
                value = math.sqrt(value / n)
        else:
            value = self._others[stat].get()
        return value if value is not None and math.isfinite(value) else None

    def values(self) -> Dict[str, float]:
        """Every wanted statistic that has a value."""
        found = {stat: self.get(stat) for stat in sorted(self.wanted)}
        return {stat: x for stat, x in found.items() if x is not None}

    def to_json(self) -> Dict[str, Any]:
        """The state as JSON-able data; floats are written as hexadecimal strings to stay exact."""
        moments = self._moments
        return {
            "stats": sorted(self.wanted),
            "n": self._n,
            "last": None if self._last is None else self._last.hex(),
            "refused": self.refused,
            "moments": None
            if moments is None
            else [int(moments.mean.n), *(float(v).hex() for v in (moments.mean._mean, moments._S))],
            "others": {name: _dump(stat) for name, stat in self._others.items()},
        }

    @classmethod
    def from_json(cls, state: Any) -> Statistics:
        """The statistics that `to_json` wrote. Raises RecordError for a damaged record."""
        try:
            self = cls(state["stats"])
            self._n = int(state["n"])
            self._last = None if state["last"] is None else float.fromhex(state["last"])
            self.refused = int(state["refused"])
            if self._moments is not None:
                n, *floats = state["moments"]
                mean, s = (float.fromhex(v) for v in floats)
                self._moments.mean.n = type(self._moments.mean.n)(n)
                self._moments.mean._mean = mean
                self._moments._S = s
            for name, stat in self._others.items():
                _load(stat, state["others"][name])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # a panic of river's Rust side on damaged bytes is no Exception
            raise RecordError(f"this is no state of statistics ({exc!r}): {str(state)[:120]}") from exc
        return self


def _dump(stat: Any) -> Any:
    if type(stat) in _PLAIN:
        return float(getattr(stat, _PLAIN[type(stat)])).hex()
    if isinstance(stat, river.MAD):
        return [_dump_rust(stat), _dump_rust(stat.median), bool(stat.median._is_updated)]
    return [_dump_rust(stat), bool(getattr(stat, "_is_updated", True))]


def _dump_rust(stat: Any) -> str:
    raw = getattr(stat, _attribute(stat)).__getstate__()
    return base64.b64encode(bytes(raw)).decode("ascii")


def _load(stat: Any, state: Any) -> None:
    if type(stat) in _PLAIN:
        setattr(stat, _PLAIN[type(stat)], float.fromhex(state))
        return
    updated = bool(state[-1])
    _load_rust(stat, state[0])
    if isinstance(stat, river.MAD):
        _load_rust(stat.median, state[1])
        stat.median._is_updated = updated
    if hasattr(stat, "_is_updated"):
        stat._is_updated = updated


def _load_rust(stat: Any, text: str) -> None:
    inner = getattr(stat, _attribute(stat))
    raw = base64.b64decode(text, validate=True)
    # before its first values it is at its smallest; older releases of river grow with the first five
    least = len(inner.__getstate__())
    if len(raw) < least:
        raise ValueError(f"a state of {len(raw)} bytes, where river has {least} or more")
    inner.__setstate__(raw)
    if bytes(inner.__getstate__()) != raw:
        raise ValueError("a state that river reads as another one")


def _attribute(stat: Any) -> str:
    return next(name for cls, name in _RUST.items() if isinstance(stat, cls))
