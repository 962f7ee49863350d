"""Slower or not: silent where nothing changed, whatever the machine does; loud at 1.3."""

import math

import numpy as np
import pytest

from bench_apts.stats.timing_noise import ALPHA, LOOKS, Ratios, judge_slowdown, settle_slowdowns

CELLS = 4


class Machine:
    """Times of runs in blocks on a machine that drifts, wanders and is disturbed now and then."""

    def __init__(self, seed, slow=1.0, run=0.03, cell=0.05, outliers=0.08, drift=0.02):
        self.random = np.random.default_rng(seed)
        self.slow, self.run, self.cell, self.outliers = slow, run, cell, outliers
        self.rate = self.random.normal(0, drift)
        self.level, self.runs, self.blocks = 0.0, 0, []
        self.found = {cell: Ratios([], []) for cell in range(CELLS)}

    def times(self, new):
        """Log times of all cells in one run; cell 0 is the one that may be slower."""
        self.runs += 1
        self.level += self.random.normal(0, 0.02) + self.rate
        times = self.level + self.random.normal(0, self.run) + self.random.normal(
            0, self.cell, CELLS)
        hit = self.random.random(CELLS) < self.outliers
        times += np.where(hit, self.random.exponential(0.7, CELLS), 0.0)
        times[0] += math.log(self.slow) if new else 0.0
        return times

    def measure(self, cells, pairs):
        self.blocks.append((tuple(cells), pairs))
        while len(self.found[cells[0]].pairs) < pairs:
            order = "ABBA" if self.runs % 8 == 0 else "BAAB"
            runs = [self.times(letter == "B") for letter in order]
            a1, a2 = (runs[i] for i in range(4) if order[i] == "A")
            b1, b2 = (runs[i] for i in range(4) if order[i] == "B")
            for cell in cells:
                self.found[cell].pairs.extend([b1[cell] - a1[cell], b2[cell] - a2[cell]])
                self.found[cell].equal.extend([a2[cell] - a1[cell], b1[cell] - b2[cell]])
        return self.found


def verdicts(machine):
    found = settle_slowdowns(list(range(CELLS)), machine.measure, 6, 1.10)
    return {cell: slowdown.verdict for cell, slowdown in found.items()}


@pytest.mark.parametrize("noise", [
    {"run": 0.01, "cell": 0.02, "outliers": 0.02, "drift": 0.0}, {},
    {"run": 0.1, "cell": 0.15, "drift": 0.05}, {"outliers": 0.3}, {"drift": 0.1},
], ids=["quiet", "usual", "noisy", "disturbed", "drifting"])
def test_equal_code_is_never_called_slower(noise):
    for seed in range(25):
        assert "slower" not in verdicts(Machine(seed, **noise)).values(), seed


def test_a_slowdown_of_a_third_is_found_and_nothing_else_is():
    found = [verdicts(Machine(seed, slow=1.3)) for seed in range(25)]
    assert sum(v[0] == "slower" for v in found) >= 23
    assert not any(v[cell] == "slower" for v in found for cell in range(1, CELLS))


def test_a_tolerated_slowdown_is_tolerated():
    for seed in range(10):
        machine = Machine(seed, slow=1.05, run=0.01, cell=0.01, outliers=0.0, drift=0.0)
        assert verdicts(machine)[0] == "alike"


def test_only_what_is_open_is_measured_again():
    machine = Machine(0, slow=1.3, run=0.01, cell=0.02, outliers=0.0, drift=0.0)
    assert verdicts(machine) == {0: "slower", 1: "alike", 2: "alike", 3: "alike"}
    # Six pairs of one comparison among four can never be claimed, twelve can.
    assert machine.blocks == [((0, 1, 2, 3), 6), ((0,), 12)]
    assert 1 / math.comb(12, 6) > ALPHA / (CELLS * len(LOOKS)) > 1 / math.comb(24, 12)


def test_what_equal_code_does_is_no_slowdown():
    pairs, equal = [0.3, 0.31, 0.29, 0.32, 0.28, 0.3], [0.0, 0.01, -0.01, 0.02, -0.02, 0.005]
    assert judge_slowdown(Ratios(pairs, equal), 1.1, 0.01).verdict == "slower"
    assert judge_slowdown(Ratios(pairs, equal), 1.4, 0.01).verdict == "alike"
    found = judge_slowdown(Ratios(pairs, [0.5, -0.4, 0.45, -0.5, 0.6, -0.55]), 1.1, 0.01)
    assert found.verdict == "open"
    assert found.ratio == pytest.approx(math.exp(0.3), rel=0.01)
    assert found.noise > found.ratio
    faster = judge_slowdown(Ratios([-p for p in pairs], equal), 1.1, 0.01)
    assert faster.verdict == "faster"
    assert faster.ratio == pytest.approx(math.exp(-0.3), rel=0.01)


def test_one_ratio_is_refused():
    with pytest.raises(ValueError, match="no interval"):
        judge_slowdown(Ratios([0.1], [0.1, 0.2]), 1.1, 0.01)
