"""The kernel's count of bytes against the meter's, and backends that try to hide theirs."""

import comm_ranks
import pytest
from comm_ranks import every_collective, training, uneven, variants
from harness_ranks import run_ranks

from bench_apts.core import store
from bench_apts.core.records import Audited, AuditPart
from bench_apts.core.wire import traffic_complaints
from bench_apts.meters import soundness
from bench_apts.meters.audit import Audit
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.optimizers.presets import PRESETS, SOLVERS

TRAININGS = {
    "ddp": (comm_ranks.ddp,),
    "ddp_batchnorm": (comm_ranks.ddp_batchnorm,),
    "fp16_compression": (comm_ranks.fp16_compression,),
    "accumulation": (comm_ranks.accumulation,),
    "power_sgd": (comm_ranks.power_sgd,),
    "zero_redundancy": (comm_ranks.zero_redundancy,),
    "post_local_sgd": (comm_ranks.post_local_sgd,),
    "fsdp2": (comm_ranks.fsdp2,),
    "apts": (comm_ranks.backend, ("apts",)),
    "apts-paper": (comm_ranks.backend, ("apts-paper",)),
}


def test_the_kernel_counts_what_is_predicted_of_every_collective():
    for size, n in ((2, 12), (2, 3_000_001), (4, 12), (3, 1001)):
        for _, _, audited, unwatched in run_ranks(every_collective, size, n):
            differences = {kind: part.difference for kind, part in audited.parts.items()}
            assert set(differences.values()) == {0}, (size, n, differences)
            assert len(differences) > 30
            assert audited.parts["all_gather"].seen_bytes > 4 * n
            assert unwatched == []


def test_an_uneven_all_to_all_is_known_to_be_uncertain():
    for audited in run_ranks(uneven, 3):
        part = audited.parts["train"]
        assert abs(part.difference) <= part.unsure_bytes < 100
        assert traffic_complaints(audited) == []


@pytest.mark.parametrize(("predicted", "seen", "unsure", "fails"), [
    (0, 1000, 0, False), (0, 1001, 0, True), (5000, 3999, 0, True), (0, 1008, 8, False),
    (10_000_000, 10_010_000, 0, False), (10_000_000, 10_010_001, 0, True),
    (10_000_000, 9_989_999, 0, True)])
def test_a_thousand_bytes_or_a_thousandth_are_allowed(predicted, seen, unsure, fails):
    part = AuditPart(predicted, seen, unsure)
    lines = traffic_complaints(Audited(rank=3, parts={"train": part}))
    assert bool(lines) == fails
    assert lines in ([], [f"rank 3 sent {seen} bytes in train, its collectives account for "
                          f"{predicted}: something communicated behind the meter's back"])


def test_an_audit_that_cannot_run_says_why(monkeypatch):
    meter = CollectiveCounter()
    assert Audit(meter).skipped == "collectives are not counted"
    meter.name = "some meter"
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    audit = Audit(meter)
    audit.bill("train")
    assert audit.result(0) == Audited("the bytes of nccl cannot be predicted")
    assert traffic_complaints(audit.result(0)) == []
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    monkeypatch.setattr("sys.platform", "darwin")
    assert Audit(meter).skipped == "darwin does not count a socket's bytes"


def test_an_old_kernel_is_no_reason_to_fail(monkeypatch):
    class Short:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def getsockopt(self, *asked):
            return bytes(192)

    meter = CollectiveCounter()
    meter.name = "some meter"
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    monkeypatch.setattr("socket.socket", Short)
    assert Audit(meter).skipped.startswith("this kernel does not count a socket's bytes")


def assert_exact(results):
    for counts, audited, (worst, doubts) in results:
        assert audited.parts["train"].difference == 0
        assert audited.parts["train"].seen_bytes > 0
        # Who opened a connection to whom is not known.
        setup = audited.parts["setup"]
        assert 0 <= setup.difference <= setup.unsure_bytes
        assert doubts is None
        assert worst.skipped == ""
        actual = sum(t["actual_bytes"] for t in counts["train"].values())
        barriers = audited.parts["train"].seen_bytes - actual
        assert 0 < barriers < 1000


@pytest.mark.parametrize("name", TRAININGS)
def test_the_kernel_counts_what_is_predicted_of_a_training(name):
    assert_exact(run_ranks(training, 2, *TRAININGS[name]))


@pytest.mark.parametrize("name", ["ddp_batchnorm", "post_local_sgd", "fsdp2", "apts"])
def test_and_of_one_on_four_ranks(name):
    assert_exact(run_ranks(training, 4, *TRAININGS[name]))


APTS = [
    ("apts", {}), ("apts", {"bits": 32}), ("apts", {"preset": "2026-11"}),
    ("apts", {"radius": 0.01}), ("apts", {"sharing": 0.0}),
    ("apts", {"sharing": 1.0}), ("apts", {"judge": False}), ("apts", {"schedule": False}),
    ("apts", {"longest_round": 1}), ("apts", {"rounds_per_length": 1}),
    ("apts", {"longest_round": 1, "sharing": 0.0, "radius": 0.05}),
    *(("apts-paper", {"solver": solver, "global_solver": other})
      for solver in SOLVERS for other in SOLVERS),
    *(("apts-paper", {"norm": norm, "consistency": consistency, "capped": capped})
      for norm in ("l2", "linf") for consistency in ("gradient", "value")
      for capped in (True, False)),
    *(("apts-paper", {"preset": preset}) for preset in PRESETS),
    ("apts-paper", {"retries": 3, "radius": 1.0}), ("apts-paper", {"window": 5}),
    ("apts-paper", {"global_pass": False}), ("apts-paper", {"local_iterations": 1}),
    *(("napts", {"preset": preset}) for preset in PRESETS),
    *(("tr", {"preset": preset}) for preset in PRESETS),
    ("tr", {"global_solver": "l-sr1", "norm": "linf"}),
    ("tr", {"global_solver": "tr-adam", "window": 3, "retries": 2}),
]


@pytest.mark.parametrize("size", [
    1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_and_of_every_kind_of_apts(size):
    n = 64 * 48 + 48 + 48 * 10 + 10
    for counts, audited, doubts in run_ranks(variants, size, APTS):
        for number, kind in enumerate(APTS):
            part = audited.parts[str(number)]
            assert part.difference == 0, kind
            if size == 1:
                assert part.seen_bytes == 0, kind
                assert str(number) not in counts, kind
            else:
                few_bits = kind[0] == "apts" and not {"bits", "preset"} & set(kind[1])
                assert part.seen_bytes > (n if few_bits else 4 * n), kind
                assert set(counts[str(number)]) == (
                    {"all_to_all", "all_gather", "all_reduce"} if few_bits else {"all_reduce"}
                ), kind
                if few_bits:  # the ranks' counts of samples, once
                    assert counts[str(number)]["all_reduce"]["calls"] == 1, kind
        assert doubts is None


DEEPSPEED = {
    **{f"engine-{stage}-{precision}": (comm_ranks.engine, (stage, precision))
       for stage in range(4) for precision in ("fp32", "bf16")},
    **{f"zero{stage}-{precision}": (comm_ranks.backend, (f"zero{stage}", {}, precision))
       for stage in (1, 2, 3) for precision in ("fp32", "bf16")},
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", DEEPSPEED)
def test_and_of_deepspeed(name, size):
    assert_exact(run_ranks(training, size, *DEEPSPEED[name], patience_s=200))


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
def test_bf16_halves_the_bytes_of_deepspeeds_weights_and_gradients(stage):
    payloads = []
    for precision in ("fp32", "bf16"):
        (counts, *_), _ = run_ranks(training, 2, comm_ranks.engine, (stage, precision))
        payloads.append(sum(traffic["payload_bytes"] for traffic in counts["train"].values()))
    full, half = payloads
    assert half == pytest.approx(full / 2, rel=1e-3)  # norms stay in float32


@pytest.mark.slow
def test_trials_are_exact_in_mixed_precision_and_with_minibatches_of_their_own(command, tmp_path):
    done = command(
        "run", "--gpus", "1,2,4", "--optimizers",
        "adam,zero1,zero2,zero3,apts,apts-paper[overlap=0.5],apts-paper[preset=2026],"
        "napts[minibatch=40,growth=2.0],tr[minibatch=64,growth=1.5]",
        "--trials", "0", "--seeds", "1", "--offline", "--set", "suite.precision=bf16",
        "--set", "suite.budget.samples=1280", "--set", "suite.evaluation.every_samples=640",
        "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    records = store.read_trials(tmp_path / "digits")
    assert len(records) >= 9 * 3
    for record in records:
        for name in ("train", "eval"):
            assert record.end.audit.parts[name].difference == 0, record.trial.label
    assert soundness.check(tmp_path / "digits") == (len(records), [])
