"""A study with a searched learning rate, radii given by hand, and steps that were judged."""

import msgspec
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.core.spec import Entry, Searched, Study

RANKS = (1, 2, 4)
SEARCHED = Searched("random", "none", "narrow", 1, {"lr": (1e-3, 1.0), "momentum": (0.5, 0.99)})

DRAWS = {0.002: None, 0.01: 0.6, 0.03: 1.3, 0.1: 1.0, 0.2: 0.8, 0.97: 0.0}
"""Learning rate and how fast sgd learns with it; None: too slow, 0: it diverges."""

STARTS = {"apts": 1e-3, "apts[start=0.01]": 1e-2, "apts[start=0.1]": 0.1}


def judged(curve, at_bound=0.0, accepted=0.75):
    """Gives a curve the diagnostics of a method that judges each fifth of its 40 steps."""
    found = []
    for index, event in enumerate(curve):
        step = 40 * index
        found.append(msgspec.structs.replace(
            event, step=step, forwards=50 * index, backwards=40 * index,
            diagnostics={} if index == 0 else {
                "radius": 0.1, "rho": 0.5 + index / 100, "accepted": accepted, "judged": 0.2,
                "at_bound": at_bound, "local_passes": 60.0 * index,
                "predicted_reduction": 0.1 / index, "actual_reduction": 0.05 / index}))
    return found


def populate(folder, *, edge=False, at_bound=0.0, accepted=0.75):
    """Writes the study.

    Args:
        folder: Results folder.
        edge: Whether at N = 4 the largest learning rate is the best.
        at_bound: Share of judged steps after which apts' radius lay at a bound.
        accepted: Share of judged steps that it kept.
    """
    entries = (Entry("sgd", "sgd"), *(Entry(label, "apts", {"start": start})
                                      for label, start in STARTS.items()))
    plan = Study((fixture.SUITE,), entries, RANKS, len(DRAWS), 2, 0, "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", store.StudyFile(
        plan, ["bench-apts", "run"], "2026-01-02T03:00:00+00:00", fixture.ENVIRONMENT))
    shape = {"step_s": 0.0015, "backwards": 1, "every": 1}
    for ranks in RANKS:
        best = 0.97 if edge and ranks == 4 else 0.03
        for number, (lr, pace) in enumerate(DRAWS.items()):
            spec = fixture.trial("sgd", ranks, "tune", number, searched=SEARCHED,
                                 hyperparameters={"lr": lr, "momentum": 0.9})
            if lr == best:
                pace = 1.6
            if pace is None:
                fixture.write(folder, spec, fixture.evals(spec, pace=0.1, until=5, **shape),
                              "timeout")
            elif not pace:
                fixture.write(folder, spec, fixture.evals(spec, pace=0.01, until=4, **shape),
                              "diverged", reason="loss is not finite")
            else:
                curve = fixture.evals(spec, pace=pace, **shape)
                fixture.write(folder, spec, curve, "hit")
        for number in range(2):
            spec = fixture.trial("sgd", ranks, "report", number,
                                 hyperparameters={"lr": best, "momentum": 0.9})
            fixture.write(folder, spec, fixture.evals(spec, pace=1.6, **shape), "hit", test=0.95)
        for label, start in STARTS.items():
            for number in range(2):
                spec = fixture.trial(
                    label, ranks, "report", number, optimizer="apts", tuning_free=True,
                    hyperparameters={"start": start, "judge": True})
                slow = start == 0.1
                curve = fixture.evals(spec, pace=0.02 if slow else 0.9, step_s=0.004,
                                      backwards=1, every=8)
                fixture.write(folder, spec, judged(curve, at_bound, accepted),
                              "miss" if slow else "hit", test=0.9)
    return folder


def context(folder):
    """What a section about this study's suite is built from."""
    from bench_apts.reports.figure_style import looks
    from bench_apts.reports.gather import gather
    from bench_apts.reports.section_parts import Context

    gathered = gather(folder)
    return Context(gathered, fixture.SUITE, "digits", gathered.groups,
                   looks([entry.label for entry in gathered.file.study.entries]),
                   {ranks: ranks > 2 for ranks in RANKS}, None)
