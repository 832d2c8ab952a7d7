"""Tactics by the editable timing cache (10.8 and later): what the cache says of an operator is what is built.

A build with an empty cache tunes every operator, tells the candidates in its log, and leaves its choices in the
cache. A build whose cache holds an entry takes it without tuning. So a choice is forced by writing it into the cache
beforehand, and was honoured if it is still there afterwards: an operator that was tuned again holds the fastest.
"""

import math
import re
from typing import Any, Dict, List, Optional, Set, Tuple

from .. import choices as words
from ..choices import Choice, Miss, TacticOrders, hexadecimal
from ..faults import Fault
from .cache import write_atomically
from .log import Log
from .tactics_log import Operator, TuningLog

#: `TimingCacheValue.kINVALID_TACTIC_HASH`: what a query for an unknown key returns.
_INVALID = 0xFFFFFFFFFFFFFFFF
_KEY = re.compile(r"0x[0-9a-f]{32}")
#: The most often that a network is built again because a forbidden choice came up.
_REBUILDS = 3


class EditedCache:
    """The timing cache of one build.

    Args:
        trt: the `tensorrt` module.
        config: the configuration of the build.
        log: TensorRT's log.
        orders: what to force and to forbid.

    Raises:
        Fault: `bad_request`: the cache of `orders` cannot be read, TensorRT refuses it, or a forced choice has no
            key.
    """

    def __init__(self, trt: Any, config: Any, log: Log, orders: TacticOrders) -> None:
        self._trt, self._log, self._orders = trt, log, orders
        self.tuning = TuningLog()
        self.builds = 1
        self._refused: List[Choice] = []
        self._names: Dict[str, Choice] = {choice.key: choice for choice in _keyed(orders)}
        self._forbidden: Dict[str, Set[str]] = {}
        for choice in orders.forbid:
            self._forbidden.setdefault(str(choice.key), set()).add(choice.tactic)
        config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
        config.clear_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
        if orders.strict:
            config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
        self._cache = config.create_timing_cache(_content(orders.cache_path))
        for choice in orders.force:
            if not self._write(choice):
                self._refused.append(choice)
        if not config.set_timing_cache(self._cache, ignore_mismatch=False):
            raise Fault(
                "bad_request",
                "TensorRT refuses the timing cache {}: it is of another release or GPU".format(
                    orders.cache_path
                ),
            )
        log.verbose_listeners.append(self.tuning.add)

    def again(self) -> bool:
        """After a build: whether a forbidden choice was taken that another build can avoid."""
        if self.builds >= _REBUILDS:
            return False
        edited = False
        for key in self._forbidden:
            entry = self._read(key)
            other = self._other_than_forbidden(key) if entry is not None else None
            if entry is not None and other is not None and entry[0] in self._forbidden[key]:
                edited = self._write(other) or edited
        self.builds += edited
        return edited

    def close(self) -> None:
        """Stop listening; keep the cache if that was asked for."""
        if self.tuning.add in self._log.verbose_listeners:
            self._log.verbose_listeners.remove(self.tuning.add)

    def save(self) -> None:
        """Write the cache to where the orders say, if they say so."""
        if self._orders.save_cache_path is not None:
            write_atomically(self._orders.save_cache_path, self._cache.serialize())

    def taken(self) -> Tuple[Choice, ...]:
        """What the cache holds after the build: one an operator, those that were tuned first."""
        operators = {operator.key: operator for operator in self.tuning.operators}
        keys = dict.fromkeys([*operators, *self._names, *self._all_keys()])
        found: List[Choice] = []
        for key in keys:
            entry = self._read(key)
            if entry is not None:
                found.append(self._choice(key, entry, operators.get(key)))
        return tuple(found)

    def alternatives(self) -> Tuple[Choice, ...]:
        """What was tuned and not taken, fastest first, as many an operator as were asked for."""
        found: List[Choice] = []
        for operator in self.tuning.operators:
            entry = self._read(operator.key)
            rest = [each for each in operator.candidates if entry is None or each.tactic != entry[0]]
            for each in rest[: self._orders.alternatives]:
                found.append(self._choice(operator.key, (each.tactic, each.milliseconds), operator))
        return tuple(found)

    @property
    def offered(self) -> int:
        """How many candidates were tuned."""
        return sum(len(operator.candidates) for operator in self.tuning.operators)

    def misses(self) -> Tuple[Miss, ...]:
        """The orders that were not carried out."""
        taken = {choice.key: choice for choice in self.taken()}
        found = [Miss("force", choice, words.NOT_OFFERED, taken.get(choice.key)) for choice in self._refused]
        for choice in self._orders.force:
            now = taken.get(choice.key)
            if choice not in self._refused and (now is None or now.tactic != choice.tactic):
                found.append(Miss("force", choice, words.NOT_TAKEN if now else words.NOT_ASKED, now))
        for choice in self._orders.forbid:
            now = taken.get(choice.key)
            if now is not None and now.tactic == choice.tactic:
                other = self._other_than_forbidden(str(choice.key))
                found.append(Miss("forbid", choice, words.NOT_TAKEN if other else words.NOTHING_ELSE, now))
        return tuple(found)

    def _other_than_forbidden(self, key: str) -> Optional[Choice]:
        """The fastest candidate that is not forbidden, as far as the log tells candidates."""
        for operator in self.tuning.operators:
            if operator.key == key:
                for each in operator.candidates:
                    if each.tactic not in self._forbidden[key]:
                        return self._choice(key, (each.tactic, each.milliseconds), operator)
        return None

    def _choice(self, key: str, entry: Tuple[str, Optional[float]], operator: Optional[Operator]) -> Choice:
        tactic, milliseconds = entry
        known = self._names.get(key)
        row = None if operator is None else operator.candidate(tactic)
        kernel = None if row is None else row.kernel
        if kernel is None and known is not None and known.tactic == tactic:
            kernel = known.kernel
        layer = operator.name if operator is not None else known.layer if known is not None else key
        nodes = operator.onnx_nodes if operator is not None else ()
        return Choice(
            layer=layer,
            tactic=tactic,
            key=key,
            kernel=kernel,
            milliseconds=milliseconds,
            onnx_nodes=nodes or (known.onnx_nodes if known is not None else ()),
        )

    def _all_keys(self) -> List[str]:
        """The keys in the cache as text; what does not read as a key is left out, its operators are in the log."""
        texts = [str(key).lower() for key in self._cache.queryKeys()]
        return [text for text in texts if _KEY.fullmatch(text)]

    def _read(self, key: str) -> Optional[Tuple[str, Optional[float]]]:
        """The tactic and the milliseconds that the cache holds for a key; None if it holds nothing."""
        value = self._cache.query(self._trt.TimingCacheKey.parse(key))
        if int(value.tacticHash) == _INVALID:
            return None
        milliseconds = float(value.timingMSec)
        valid = math.isfinite(milliseconds) and milliseconds >= 0
        return hexadecimal(value.tacticHash), milliseconds if valid else None

    def _write(self, choice: Choice) -> bool:
        key = self._trt.TimingCacheKey.parse(choice.key)
        value = self._trt.TimingCacheValue(int(choice.tactic, 16), choice.milliseconds or 0.0)
        return bool(self._cache.update(key, value))


def _keyed(orders: TacticOrders) -> Tuple[Any, ...]:
    ordered = (*orders.forbid, *orders.force)
    for choice in ordered:
        if choice.key is None or not _KEY.fullmatch(choice.key):
            raise Fault(
                "bad_request",
                "the choice for {!r} has no key of the timing cache: it was recorded with an algorithm selector, "
                "and cannot be ordered through the cache".format(choice.layer),
            )
    return ordered


def _content(path: Optional[str]) -> bytes:
    if path is None:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Fault("bad_request", "the timing cache cannot be read: {}".format(error)) from error
