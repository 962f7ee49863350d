"""The kernel's count of bytes against the meter's, and backends that try to hide theirs."""

import comm_ranks
import pytest
from comm_ranks import every_collective, training, uneven
from harness_ranks import run_ranks

from bench_apts.meters.audit import Audit, complaints
from bench_apts.meters.comm import CommMeter
from bench_apts.records import Audited, AuditPart

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
        assert complaints(audited) == []


@pytest.mark.parametrize(("predicted", "seen", "unsure", "fails"), [
    (0, 1000, 0, False), (0, 1001, 0, True), (5000, 3999, 0, True), (0, 1008, 8, False),
    (10_000_000, 10_010_000, 0, False), (10_000_000, 10_010_001, 0, True),
    (10_000_000, 9_989_999, 0, True)])
def test_a_thousand_bytes_or_a_thousandth_are_allowed(predicted, seen, unsure, fails):
    lines = complaints(Audited(rank=3, parts={"train": AuditPart(predicted, seen, unsure)}))
    assert bool(lines) == fails
    assert lines in ([], [f"rank 3 sent {seen} bytes in train, its collectives account for "
                          f"{predicted}: something communicated behind the meter's back"])


def test_an_audit_that_cannot_run_says_why(monkeypatch):
    meter = CommMeter()
    assert Audit(meter).skipped == "collectives are not counted"
    meter.name = "some meter"
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    audit = Audit(meter)
    audit.bill("train")
    assert audit.result(0) == Audited("the bytes of nccl cannot be predicted")
    assert complaints(audit.result(0)) == []
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    monkeypatch.setattr("sys.platform", "darwin")
    assert Audit(meter).skipped == "darwin does not tell a socket's bytes"


def test_an_old_kernel_is_no_reason_to_fail(monkeypatch):
    class Short:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def getsockopt(self, *asked):
            return bytes(192)

    meter = CommMeter()
    meter.name = "some meter"
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    monkeypatch.setattr("socket.socket", Short)
    assert Audit(meter).skipped.startswith("this kernel does not tell a socket's bytes")


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


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("how", [
    (comm_ranks.zero_stage_0,), (comm_ranks.backend, ("zero1",)), (comm_ranks.backend, ("zero2",)),
    (comm_ranks.backend, ("zero3",))], ids=["zero0", "zero1", "zero2", "zero3"])
def test_and_of_deepspeed(how, size):
    assert_exact(run_ranks(training, size, *how, patience_s=200))
