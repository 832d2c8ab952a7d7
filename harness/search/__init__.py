'''A generic search for the few units that are at fault, with as few evaluations as can be.

It knows nothing of ONNX or TensorRT. There are units (strings). A configuration is the set of units that are
*treated*, for example kept in FP32. An oracle evaluates a configuration: pass, fail, or unresolved. Treating
nothing fails; treating everything passes; which few units are enough?

    from harness.search import Budget, Journal, Options, Outcome, Problem, Trial, search

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

**Three values.** Unresolved is neither pass nor fail: nothing is dismissed and nobody is convicted on it. A
bisection walks around it, a group that cannot be judged is split, and a unit that cannot be judged alone stays
in the answer and is listed in `Result.untested`.

**Three layers.** `Session` (oracle.py) turns the oracle into a memory: each configuration is evaluated once, or
voted on (votes.py), journalled before its outcome is used, and charged to the budget. `Inquiry` (inquiry.py) is
the question put to it, a property of sets of units: "treating these passes" (cure), "treating all but these
fails" (cause), or both. The strategies are functions over an inquiry and know neither journal nor votes nor
direction, so each of them works for each question.

**Strategies**, from the cheapest: a set that is known beforehand, or the top of a ranking (ranked.py); the
smallest prefix that is enough, by bisection (bisect.py); what hangs together with the first culprit: its group,
and the units that play its part in repeated structures (hierarchy.py); group splitting with galloping sizes for
several culprits (independent.py); where errors accumulate, an exchange of units by their measured effects
(refine.py); delta debugging where unresolved outcomes stopped the splitting, and on request (ddmin.py). narrow.py
chooses among them by what is found; chooser.py checks the ends, proves and double-checks the answer.

**The far end is checked before a failure is believed.** A configuration that passes proves by itself that
treatment helps. One that fails says something about its units only if treating everything passes, so that is
evaluated at the first failure: a good prior costs two evaluations, not three.

**A contradiction is looked into.** Where something passes and more of it fails, both are evaluated again: if one
of them changes, the oracle does not repeat itself and the verdict is `flaky`, with counts, instead of a made-up
culprit; if neither does, it is not monotone, which is reported. `Options.repeats` asks for repetitions without
that occasion. An oracle that is known to be noisy is voted on, `Options.votes`, with a stated confidence; more
dissent than the votes allow for is `flaky` again.

**Determinism is the resume.** A search depends on nothing but its arguments and the outcomes. So a resumed search
is the same search, its first evaluations answered from the journal; what was being evaluated when the process
died is all that is repeated. Budgets count replayed evaluations, so that the answer is the same too.

Sources: A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2), 2002
(ddmin, 1-minimality, unresolved outcomes). F. Févotte and B. Lathuilière, "Debugging and optimization of HPC
programs with the Verrou tool", Correctness 2019 (rddmin). M. Bentley et al., "Multi-level analysis of
compiler-induced variability and performance tradeoffs", HPDC 2019 (FLiT: several independent culprits, and the
check of that assumption). F. K. Hwang, "A method for detecting all defective members in a population by group
testing", JASA 67, 1972 (splitting groups). J. L. Bentley and A. C. Yao, "An almost optimal algorithm for
unbounded searching", IPL 5(3), 1976 (galloping). A. Wald, "Sequential tests of statistical hypotheses", Annals
of Mathematical Statistics 16(2), 1945 (votes).
'''

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
