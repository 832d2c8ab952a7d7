"""Tactics by the editable timing cache (10.8 and later): what the cache says of an operator is what is built.

A build with an empty cache tunes every operator, lists the candidates in its log, and leaves its choices in the
cache. A build whose cache holds an entry takes it without tuning. So a choice is forced by writing it into the cache
beforehand, and was honoured if it is still there afterwards: an operator that was tuned again holds the fastest.

Only entries that are there can be written to (`update` of an unknown key returns False), and none can be made from
nothing. So the entries of every build are kept in the process, and a build with orders starts from those of its
operators; where one is unknown, the network is built once to have it, and once more with what was ordered.
"""

import math
import re
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from ...protocol import NOT_ASKED, NOT_TAKEN, NOTHING_ELSE, Choice, Fault, Miss, TacticOrders, hexadecimal
from ..cache import write_atomically
from ..log import Log
from .tuning_log import Operator, TuningLog

#: `TimingCacheValue.kINVALID_TACTIC_HASH`: what a query for an unknown key returns.
_INVALID = 0xFFFFFFFFFFFFFFFF
_KEY = re.compile(r"0x[0-9a-f]{32}")
#: The most often that a network is built because an entry was missing or a forbidden choice came up.
_MOST_BUILDS = 4


class Shelf:
    """The entries of all builds of a process, to be overwritten in later ones."""

    def __init__(self) -> None:
        self._cache: Optional[Any] = None

    def content(self) -> bytes:
        """A serialized timing cache; empty before the first build."""
        return b"" if self._cache is None else bytes(self._cache.serialize())

    def keep(self, config: Any, cache: Any) -> None:
        """Keep the entries of a build; those that are there stay as they are."""
        if self._cache is None:
            self._cache = config.create_timing_cache(bytes(cache.serialize()))
        else:
            self._cache.combine(cache, ignore_mismatch=False)


class EditedCache:
    """The timing cache of one build.

    Raises:
        Fault: `bad_request`: the cache of `orders` cannot be read, TensorRT refuses it, or a forced choice has no
            key.
    """

    def __init__(self, trt: Any, config: Any, log: Log, orders: TacticOrders, shelf: Shelf) -> None:
        self._trt, self._config, self._log, self._orders, self._shelf = trt, config, log, orders, shelf
        self.tuning = TuningLog()
        self.builds = 1
        self._pending: List[Choice] = []
        self._names: Dict[str, Choice] = {choice.key: choice for choice in _keyed(orders)}
        self._forbidden: Dict[str, Set[str]] = {}
        for choice in orders.forbid:
            self._forbidden.setdefault(str(choice.key), set()).add(choice.tactic)
        config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
        if orders.strict:
            config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
        self._cache = config.create_timing_cache(self._content())
        self._forget_all_but(choice.key for choice in orders.force)
        self._pending = [choice for choice in orders.force if not self._write(choice)]
        if not config.set_timing_cache(self._cache, ignore_mismatch=False):
            raise Fault(
                "bad_request",
                "TensorRT refuses the timing cache {}: it is of another release or GPU".format(
                    orders.cache_path
                ),
            )
        log.verbose_listeners.append(self.tuning.add)

    def again(self) -> bool:
        """After a build: whether another one would take what could not be written, or avoid what is forbidden."""
        self._shelf.keep(self._config, self._cache)
        if self.builds >= _MOST_BUILDS:
            return False
        edited, pending = False, []
        for choice in self._pending:
            before = self._read(str(choice.key))
            if self._write(choice):
                edited = edited or before is None or before[0] != choice.tactic
            else:
                pending.append(choice)
        self._pending = pending
        for key in self._forbidden:
            entry = self._read(key)
            other = self._other_than_forbidden(key) if entry is not None else None
            if entry is not None and other is not None and entry[0] in self._forbidden[key]:
                edited = self._write(other) or edited
        self.builds += edited
        return edited

    def close(self) -> None:
        """Stop listening."""
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
        found: List[Miss] = []
        for choice in self._orders.force:
            now = taken.get(choice.key)
            if now is None or now.tactic != choice.tactic:
                found.append(Miss("force", choice, NOT_TAKEN if now else NOT_ASKED, now))
        for choice in self._orders.forbid:
            now = taken.get(choice.key)
            if now is not None and now.tactic == choice.tactic:
                other = self._other_than_forbidden(str(choice.key))
                found.append(Miss("forbid", choice, NOT_TAKEN if other else NOTHING_ELSE, now))
        return tuple(found)

    def _other_than_forbidden(self, key: str) -> Optional[Choice]:
        """The fastest candidate that is not forbidden, as far as the log lists candidates."""
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

    def _content(self) -> bytes:
        """What the cache starts with: a file, or if anything is forced the entries that are known, or nothing."""
        path = self._orders.cache_path
        if path is None:
            return self._shelf.content() if self._orders.force else b""
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise Fault("bad_request", "the timing cache cannot be read: {}".format(error)) from error

    def _forget_all_but(self, keys: Iterable[Optional[str]]) -> None:
        """Drop what was not ordered, so that it is tuned anew; an entry whose time is not a number is deleted."""
        if self._orders.cache_path is not None:
            return
        kept = set(keys)
        for key in self._all_keys():
            entry = self._read(key)
            if key not in kept and entry is not None:
                value = self._trt.TimingCacheValue(int(entry[0], 16), math.nan)
                self._cache.update(self._trt.TimingCacheKey.parse(key), value)

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
