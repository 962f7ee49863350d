"""The checks of an optimizer: what is concluded from what the ranks of its trainings saw."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from bench_apts.study import examined_ranks
from bench_apts.study.check_findings import CheckFinding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bench_apts.core.observations import RankLog, Stage
    from bench_apts.plugins.backend import Backend
    from bench_apts.plugins.optimizer_contract import TrafficFormula
    from bench_apts.study.examined_ranks import ExaminedRanks

_SAME_COURSE = 1e-4
"""Relative difference between losses of N ranks and of one rank by rounding."""

_IN_ANY_ORDER = 2
"""Ranks whose sum is the same in any order.

With more a wrapper that rearranges its messages in its second step, as
DistributedDataParallel does, changes the last bits. That steps are undone at these N is proved
where they are (``warmup.prove_undone``).
"""

_FAILING: dict[Stage, str] = {
    "start": "training", "plain": "training", "repeated": "checkpoint", "warmed": "warm-up",
    "cleared": "gradients", "resumed": "checkpoint", "unequal": "decisions",
    "convolution": "parameters", "end": "leftovers"}
"""The check that a failure belongs to, by what was being done."""


def check_optimizer(
    backend: Backend, formula: TrafficFormula | None, launches: Sequence[ExaminedRanks]
) -> list[CheckFinding]:
    """Return what all checks found.

    Args:
        backend: The optimizer's.
        formula: Of its bytes at the hyperparameters of the launches; None if none is known.
        launches: What was seen at each number of ranks, in ascending order.
    """
    def check(name: str, otherwise: str, look: Callable[[ExaminedRanks], Iterator[str] | None]
              ) -> CheckFinding:
        return _checked(name, otherwise, launches, look)

    return [
        check_declaration(backend),
        check("training", f"{_steps(launches)} steps run and report what they must", _trains),
        check("loss", "it falls", _loss_falls),
        check("replicas", "parameters and buffers are the same on all ranks wherever they agree",
              lambda seen: _replicas(seen, backend.moves_weights)),
        check("decisions", "unequal losses leave ranks with the same weights",
              lambda seen: _decisions(seen, backend.moves_weights)),
        check("repetition", "the same seed gives the same losses, bit for bit",
              lambda seen: examined_ranks.unequal_courses(seen, "repeated", "plain", (
                  "two equal trainings differ: draw random numbers from torch's global generator, "
                  "and let nothing depend on the time or on an earlier stepper"))),
        check("warm-up", "steps that are undone leave nothing", _warm_up),
        _check_checkpoint(check, launches),
        check("gradients", "no step uses what an earlier one left in .grad",
              lambda seen: examined_ranks.unequal_courses(seen, "cleared", "plain", (
                  "steps use gradients that earlier ones left in .grad, which no state_dict() "
                  "holds: call zero_grad() before the backward pass"))),
        check("passes", "all passes and samples are reported", _passes),
        check_bytes(formula, launches),
        _check_kernel(check, launches),
        check_world_sizes(backend.rank_invariant, launches),
        _check_parameters(check, launches),
        check("global state", "seeds, settings, environment and torch's functions are left alone",
              _global_state),
        check("channels", "ranks exchange data through torch.distributed alone", _channels),
        check("leftovers", "no thread and no process is left running", _leftovers),
    ]


def _steps(launches: Sequence[ExaminedRanks]) -> int:
    return max((len(seen[0].losses) for each in launches
                if (seen := each.trainings("plain"))), default=0)


def _checked(
    name: str, otherwise: str, launches: Sequence[ExaminedRanks],
    look: Callable[[ExaminedRanks], Iterator[str] | None],
) -> CheckFinding:
    """Join what a check finds at each N.

    Args:
        name: The check.
        otherwise: What to say where nothing is wrong.
        launches: What was seen.
        look: Returns what is wrong at one N; None where that does not apply, or was not reached.
    """
    problems: dict[str, dict[int, None]] = {}
    reached = []
    for each in launches:
        found = look(each)
        failed = bool(each.failure) and _FAILING[each.stage] == name
        if found is not None or failed:
            reached.append(each.ranks)
        texts = list(itertools.islice(found or (), 3))
        for text in [each.failure, *texts] if failed else texts:
            problems.setdefault(text, {})[each.ranks] = None
    if problems:
        return CheckFinding(name, "failed", "; ".join(
            f"{_at(ranks)}: {text}" for text, ranks in problems.items()))
    if not reached:
        return CheckFinding(name, "skipped", _unreached(launches))
    return CheckFinding(name, "ok", f"{otherwise} ({_at(reached)})")


def _at(ranks: Iterable[int]) -> str:
    return f"N = {', '.join(map(str, ranks))}"


def _unreached(launches: Sequence[ExaminedRanks]) -> str:
    if any(each.failure for each in launches):
        return "not reached, as another check failed before"
    return "it takes several ranks"


def check_declaration(backend: Backend) -> CheckFinding:
    """Look at what the backend declares, beyond what is checked when it is made."""
    def found() -> Iterator[str]:
        if not backend.summary.strip() or "\n" in backend.summary:
            yield "summary is not one line; `bench-apts list` shows it"
        for name, knob in backend.hyperparameters.items():
            if not knob.meaning.strip():
                yield f"hyperparameter {name} has no meaning; write it in a few words"
        if not backend.tuning_free and not backend.searched():
            yield ("no hyperparameter has a search and it is not tuning_free: give one a search, "
                   "or set tuning_free=True")

    problems = list(found())
    if problems:
        return CheckFinding("declaration", "failed", "; ".join(problems))
    tuned = list(backend.searched())
    return CheckFinding("declaration", "ok", "tuning-free" if backend.tuning_free else
                        f"tuning turns {', '.join(tuned)}")


def _trains(seen: ExaminedRanks) -> Iterator[str] | None:
    trainings = seen.trainings("plain")
    if trainings is None:
        return None

    def found() -> Iterator[str]:
        for rank, training in enumerate(trainings):
            for number, loss in enumerate(training.losses, 1):
                if not math.isfinite(loss):
                    yield (f"the loss of step {number} is {loss} on rank {rank}: the defaults "
                           "diverge on a small network")
                    return

    return found()


def _loss_falls(seen: ExaminedRanks) -> Iterator[str] | None:
    trainings = seen.trainings("plain")
    if trainings is None:
        return None
    first, *_, last = trainings[0].values
    if last < first:
        return iter(())
    return iter((f"the loss over all samples is {first:.4g} before and {last:.4g} after "
                 f"{len(trainings[0].losses)} steps: check the sign and length of the step at the "
                 "default hyperparameters",))


def _replicas(seen: ExaminedRanks, moved: bool) -> Iterator[str] | None:
    if seen.ranks == 1 or not any(seen.finished("unequal")):
        return None
    return (f"{where} ({stage} training), {problem}: average gradients or weights in step(), "
            "report agreed=False where ranks differ, align buffers in evaluation_model() "
            "(align_buffers)"
            for stage, trainings in seen.finished("unequal")
            for where, problem in examined_ranks.differences(trainings, moved))


def _decisions(seen: ExaminedRanks, moved: bool) -> Iterator[str] | None:
    trainings = seen.trainings("unequal")
    if trainings is None:
        return None
    return (f"{where}, {problem} once their losses differ much: decide by numbers that all ranks "
            "have, such as an all-reduced loss"
            for where, problem in examined_ranks.differences(trainings, moved))


def _warm_up(seen: ExaminedRanks) -> Iterator[str] | None:
    if seen.ranks > _IN_ANY_ORDER:
        return None if seen.trainings("warmed") is None else iter(())
    return examined_ranks.unequal_courses(seen, "warmed", "plain", (
        "a training after undone steps differs: state_dict() leaves out something that decides a "
        "step, or load_state_dict() does not restore it"))


def _check_checkpoint(
    check: Callable[..., CheckFinding], launches: Sequence[ExaminedRanks]
) -> CheckFinding:
    found: CheckFinding = check(
        "checkpoint", "a resumed training goes on bit for bit",
        lambda seen: examined_ranks.unequal_courses(seen, "resumed", "repeated", (
            "a training resumed in another process differs: state_dict() leaves out something "
            "that decides a step (weights, buffers, moments, a step count)")))
    for each in launches:
        for training in each.trainings("repeated") or ():
            if training.unsaved and found.level != "failed":
                return CheckFinding("checkpoint", "skipped", (
                    f"none can be written, as {training.unsaved}; return tensors, numbers, "
                    "strings, and lists and dictionaries of them"))
    return found


def _passes(seen: ExaminedRanks) -> Iterator[str] | None:
    if not any(seen.finished()):
        return None
    return itertools.chain.from_iterable(
        examined_ranks.unreported(seen.ranks, trainings) for _, trainings in seen.finished())


def check_bytes(
    formula: TrafficFormula | None, launches: Sequence[ExaminedRanks]
) -> CheckFinding:
    """Compare what steps sent with the declared formula."""
    if formula is None:
        return CheckFinding("bytes", "skipped", "no formula is declared (Backend.traffic)")
    note = f"; it {formula.note}" if formula.note else ""

    def look(seen: ExaminedRanks) -> Iterator[str] | None:
        trainings = seen.trainings("warmed")
        if trainings is None:
            return None
        return itertools.chain.from_iterable(
            examined_ranks.wrong_bytes(formula, seen.ranks, training) for training in trainings)

    return _checked("bytes", f"{formula.words} a {formula.unit}, as declared{note}", launches,
                    look)


def _check_kernel(
    check: Callable[..., CheckFinding], launches: Sequence[ExaminedRanks]
) -> CheckFinding:
    reasons = [log.unaudited for each in launches for log in each.logs if log.unaudited]
    if reasons:
        return CheckFinding("kernel", "skipped", reasons[0])
    found: CheckFinding = check(
        "kernel", "its counters agree with the bytes that were counted",
        lambda seen: _audited(seen, lambda log: log.bytes_complaints))
    return found


def _audited(seen: ExaminedRanks, what: Callable[[RankLog], list[str]]
             ) -> Iterator[str] | None:
    if not all(log.audited for log in seen.logs):
        return None
    return iter(dict.fromkeys(text for log in seen.logs for text in what(log)))


def _channels(seen: ExaminedRanks) -> Iterator[str] | None:
    return _audited(seen, lambda log: log.channel_complaints)


def _leftovers(seen: ExaminedRanks) -> Iterator[str] | None:
    if any(log.stage != "end" for log in seen.logs):
        return None
    return iter(dict.fromkeys(
        f"{name} goes on running when the stepper is gone: end it, or start none"
        for log in seen.logs for name in log.left))


def _global_state(seen: ExaminedRanks) -> Iterator[str] | None:
    texts = list(dict.fromkeys(text for log in seen.logs for text in [
        *log.changed,
        *(f"build() calls {name}, and so decides what others draw: use a generator of your own"
          for name in log.reseeded)]))
    return iter(texts) if texts or seen.trainings("plain") else None


def check_world_sizes(declared: bool, launches: Sequence[ExaminedRanks]) -> CheckFinding:
    """Compare the courses of one rank and of several at the same global batch."""
    name = "world size"
    if not declared:
        return CheckFinding(name, "skipped", "it is not declared to be the same method at any N "
                                             "(Backend.rank_invariant)")
    means = {each.ranks: [sum(losses) / each.ranks for losses in
                          zip(*(seen.losses for seen in trainings), strict=False)]
             for each in launches if (trainings := each.trainings("plain"))}
    one = means.pop(1, None)
    if one is None or not means:
        return CheckFinding(name, "skipped", _unreached(launches))
    for ranks, losses in means.items():
        for number, (a, b) in enumerate(zip(one, losses, strict=False), 1):
            if not math.isclose(a, b, rel_tol=_SAME_COURSE):
                return CheckFinding(name, "failed", (
                    f"the mean loss of step {number} is {a:.6g} at N = 1 and {b:.6g} at N = "
                    f"{ranks}: average over all samples of the global batch, or leave out "
                    "rank_invariant"))
    return CheckFinding(name, "ok", f"{_at(means)} take the steps of one rank, up to rounding")


def _check_parameters(
    check: Callable[..., CheckFinding], launches: Sequence[ExaminedRanks]
) -> CheckFinding:
    if all(each.refused for each in launches):
        return CheckFinding("parameters", "skipped", launches[0].failure)

    def look(seen: ExaminedRanks) -> Iterator[str] | None:
        trainings = seen.trainings("convolution")
        return None if trainings is None else itertools.chain.from_iterable(
            map(examined_ranks.unusual_parameters, trainings))

    found: CheckFinding = check(
        "parameters", "4-D, frozen and tied ones train as they must", look)
    return found
