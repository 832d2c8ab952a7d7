'''A generic search for the few units that are at fault, with as few evaluations as can be.

It knows nothing of ONNX or TensorRT. There are units (strings). A configuration is the set of units that are
*treated*, for example kept in FP32. An oracle evaluates a configuration: pass, fail, or unresolved. Treating
nothing fails; treating everything passes; which few units are enough?

    from harness.search import Budget, Journal, Outcome, SearchOptions, Problem, Trial, search

    def oracle(treated: frozenset[str]) -> Trial:
        """Build and run with `treated` in FP32; say how bad it is."""
        ...

    problem = Problem(units=nodes, identity=hash_of_all_that_decides, scores=introduced_errors)
    with Journal.resume(path, problem) as journal:
        result = search(problem, oracle, journal=journal, budget=Budget(evaluations=40))
    if result.answered:
        print(result.culprits, result.minimal)

Design
------
**One invariant.** A search holds a set that was *seen* to have the wanted property and only ever replaces it by
a smaller one that was seen to have it too. Whatever is assumed along the way decides how many evaluations are
spent, never whether the answer is right. `Result.minimal` is true only if each culprit was left out once, alone,
and the property was lost each time; monotonicity is used, then checked by that proof, and reported.

**Three values.** Unresolved is neither pass nor fail: no unit is dismissed or blamed because of it. A bisection
walks around it, a group that cannot be judged is split, and a unit that cannot be judged alone stays in the answer
and is listed in `Result.untested`.

**Three layers.** `Session` (session.py) turns the oracle into a memory: each configuration is evaluated once,
journalled before its outcome is used, and charged to the budget. `Predicate` (predicate.py) is the property of sets
of units that is tested: "treating these passes" (cure), "treating all but these fails" (cause), or both. The
strategies are functions over a predicate and know neither journal nor direction, so each of them works for each
predicate.

**Strategies**, from the cheapest: a set that is known beforehand, or the top of a ranking (ranked.py); the
smallest prefix that is enough, by bisection (bisect.py); the relatives of the first culprit: its group, and the
units at the same place in repeated structures (hierarchy.py); group testing with galloping sizes for several
culprits, and delta debugging where unresolved outcomes stopped it (splitting.py); where errors accumulate, an
exchange of units by their measured effects (refine.py). strategy.py chooses among them by what is found; driver.py
checks the ends, proves and repeats the answer.

**Both ends are checked before a failure is believed.** A configuration that passes proves by itself that
treatment helps. One that fails says something about its units only if treating everything passes, so that is
evaluated at the first failure: a good prior costs two evaluations, not three.

**A contradiction is evaluated again.** Where something passes and more of it fails, both are evaluated again: if one
of them changes, the oracle does not repeat itself and the verdict is `flaky`, with counts, instead of a made-up
culprit; if neither does, it is not monotone, which is reported. `SearchOptions.repeats` asks for repetitions without
that occasion.

**A search resumes because it is deterministic.** It depends on nothing but its arguments and the outcomes. So a
resumed search is the same search, its first evaluations answered from the journal; what was being evaluated when
the process died is all that is repeated. Budgets count replayed evaluations, so that the answer is the same too.

Sources: A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2), 2002
(ddmin, 1-minimality, unresolved outcomes). M. Bentley et al., "Multi-level analysis of compiler-induced variability
and performance tradeoffs", HPDC 2019 (FLiT: several independent culprits). F. K. Hwang, "A method for detecting all
defective members in a population by group testing", JASA 67, 1972 (splitting groups). J. L. Bentley and A. C. Yao,
"An almost optimal algorithm for unbounded searching", IPL 5(3), 1976 (galloping).
'''

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
