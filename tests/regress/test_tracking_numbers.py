"""The numbers that asv keeps of the whole study are the known answers."""

import json

import pytest
import scratch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

N = 6570
"""Parameters of the digits' network."""

BYTES_OF_TWO = {
    "sgd": 4 * N, "adam": 4 * N, "tr": 4 * (N + 2), "apts-paper": 4 * (3 * N + 4),
    "napts": 4 * (3 * N + 4),
    # f = 1/2: all-reduces of n floats and of 4 bytes, an all-gather of the padded parameters;
    "zero1": 4 * N + 4 + (4 * -(-N // 4) * 4) / 2, "zero2": 4 * N + 4 + (4 * -(-N // 4) * 4) / 2,
    # reduce-scatter and all-gather of all parameters, an all-reduce of 8 bytes.
    "zero3": 4 * N + 8,
}
"""Ideal bytes that a rank sends in a step at N = 2."""


def test_asv_stores_exact_numbers(tracked, regressions):
    costs = regressions("backend_costs")
    done = tracked.track("--bench", r"^(per_step|to_target|memory|report)\.")
    assert done.returncode == 0, scratch.shown_output(done)
    (file,) = tracked.files()
    stored = json.loads(file.read_text())["results"]
    keys = [(backend, ranks) for backend in costs.BACKENDS for ranks in costs.RANKS]

    def numbers(name):
        return dict(zip(keys, stored[name][0], strict=True))

    assert len(stored) == 11
    assert all(value is not None for row in stored.values() for value in row[0])
    sent = numbers("per_step.track_bytes_per_step")
    assert {name: sent[name, 2] for name in BYTES_OF_TWO} == BYTES_OF_TWO
    assert all(sent[name, 1] == 0 for name in costs.BACKENDS)
    # f is 3/4 at N = 4: half as much again, but for what DeepSpeed and messages of few bits pad.
    assert all(sent[name, 4] == pytest.approx(1.5 * sent[name, 2], rel=1e-12)
               for name in costs.BACKENDS
               if not name.startswith("zero") and name not in ("apts", "local-adam"))
    backwards = numbers("per_step.track_backwards_per_step")
    assert {value for (name, _), value in backwards.items()
            if name not in ("apts-paper", "napts")} == {1}
    # The same trajectory at the same rate: ZeRO is Adam, in other words.
    samples = numbers("to_target.track_samples_to_target")
    errors = numbers("to_target.track_error_at_fixed_budget")
    for ranks in costs.RANKS:
        assert {samples[name, ranks] for name in ("zero1", "zero2", "zero3")} == {
            samples["adam", ranks]}
        assert {errors[name, ranks] for name in ("zero1", "zero2", "zero3")} == {
            errors["adam", ranks]}
    assert all(0 < error < 1 for error in errors.values())
    assert all(2**26 < value < 2**32 for value in numbers("memory.track_peak_memory").values())
