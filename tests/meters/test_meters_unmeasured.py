"""What the meter cannot account for ends no trial, and no number stands for it."""

import csv
from pathlib import Path

import pytest
import torch_names
from comm_ranks import watched
from harness_ranks import run_ranks
from unmeasured import ARGUMENTS, GAPS

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.wire import COLLECTIVES, Call
from bench_apts.meters import collective_hooks, comm, soundness
from bench_apts.meters.calls import call_mismatches, describe_call, fold_calls, sum_calls

PLUGIN = Path(__file__).with_name("unmeasured.py")
BY_HOOK = {*ARGUMENTS, "no hook"}
AUDIT_ONLY = {"reading sockets of one rank", "closing a group"}
KNOWN = {"no gap", *AUDIT_ONLY}


@pytest.fixture(scope="module", params=[
    "pre-hook", pytest.param("dispatch", marks=pytest.mark.slow if torch_names.HOOKED else ())])
def study(request, tmp_path_factory, command, environment):
    """Records of real trials over gloo, by gap, and their folder."""
    kinds = [kind for kind in GAPS if request.param == "pre-hook" or kind not in BY_HOOK]
    if request.param == "pre-hook" and not torch_names.HOOKED:
        pytest.skip("this torch has no pre-hook")
    folder = tmp_path_factory.mktemp("unmeasured")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "dispatch":
            patch.setitem(environment, comm.MECHANISM, "dispatch")
        done = command(
            "run", "--gpus", "2", "--optimizers",
            ",".join(f"{PLUGIN}[kind={kind}]" for kind in kinds), "--trials", "0", "--seeds", "1",
            "--no-twins", "--no-report", "--offline", "--set", "suite.budget.samples=2560",
            "--set", "suite.evaluation.every_samples=640", "--set", "suite.target.value=0.2",
            "--out", folder)
    assert done.returncode == 0, done.stderr
    records = {record.trial.hyperparameters["kind"]: record
               for record in store.read_trials(folder / "digits")}
    assert set(records) == set(kinds)
    return records, folder / "digits"


def test_each_trial_ends_with_an_answer(study):
    records, _ = study
    assert {kind: (record.end.status, record.end.reason) for kind, record in records.items()
            if record.end.status != "hit"} == {}


def test_each_record_states_its_gap(study):
    records, _ = study
    for kind, record in records.items():
        assert bool(record.uncounted) == (kind not in KNOWN), (kind, record.uncounted)
        assert bool(record.end.audit.skipped) == (kind != "no gap"), kind
        unknown = {(phase, name) for phase, collectives in record.end.comm.items()
                   for name, traffic in collectives.items() if traffic.actual_bytes is None}
        gaps = {(phase, name) for phase, collectives in record.end.comm.items()
                for name, traffic in collectives.items() if traffic.unmeasured}
        assert unknown == gaps, kind
        assert list(call_mismatches(record.end.calls, record.end.comm)) == []
    assert "a stand-in" in records["closing a group"].end.audit.skipped
    assert records["reading sockets of one rank"].end.audit.rank == 1
    assert "a stand-in" in records["pricing"].uncounted


def test_payload_is_kept_where_tensors_are_known(study):
    records, _ = study
    for kind, collective in (("unknown operation", "broadcast"), ("pricing", "broadcast"),
                             ("single tensors", "broadcast"), ("nested tensors", "broadcast")):
        if kind in records:
            record = records[kind]
            traffic = record.end.comm["train"][collective]
            assert traffic.payload_bytes == 48 * record.evals[-1].step, kind
            assert traffic.calls == record.evals[-1].step


def test_check_names_each_and_no_other(study):
    records, folder = study
    _, problems = soundness.check(folder)
    for kind, record in records.items():
        mine = [str(line) for line in problems if record.header.run_id in str(line)]
        assert len(mine) == (kind != "no gap"), (kind, mine)
        if kind in AUDIT_ONLY:
            assert "audit" in mine[0]
        elif mine:
            assert record.uncounted in mine[0]


def test_the_report_shows_no_number_for_it(study, command, undrawn):
    records, folder = study
    reports.build(folder, ("html", "csv"))
    with (folder / "tables" / "main.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    for row in rows:
        kind = next(kind for kind in GAPS if f"kind={kind}]" in row["optimizer"])
        for column in ("wire_bytes_per_step", "wire_bytes_to_target"):
            assert bool(row[column]) == (kind in KNOWN), (kind, column)
        assert row["train_s_to_target"]
    page = (folder / "report.html").read_text()
    assert "Bytes were not measured" in page
    assert "Bytes were not audited" in page
    done = command("cost", folder, "--currency", "wire_bytes")
    assert done.returncode == 0, done.stderr


def lost_groups(connect):
    """A group whose hook cannot be set, next to one whose can."""
    w = watched(connect)
    register = w.dist.ProcessGroup.register_pre_hook

    def refuse(*arguments):
        raise RuntimeError("no more hooks")

    w.dist.ProcessGroup.register_pre_hook = refuse
    group = w.dist.new_group()
    w.dist.ProcessGroup.register_pre_hook = register
    w.dist.all_reduce(w.torch.ones(12), group=group)
    w.dist.all_reduce(w.torch.ones(12))
    return w.meter.snapshot(), w.meter.unwatched_groups(), w.meter.unmeasured()


@torch_names.hooked
def test_a_group_that_cannot_be_watched_is_unmeasured_and_no_cheat():
    for counts, complaints, reason in run_ranks(lost_groups, 2):
        assert complaints == []
        assert "no more hooks" in reason
        assert counts["setup"]["all_reduce"].calls == 1


@torch_names.hooked
def test_a_torch_in_which_the_meter_finds_no_place_is_not_counted(monkeypatch):
    monkeypatch.delattr("torch.distributed.distributed_c10d._register_pg_in_world")
    meter = comm.CollectiveCounter()
    meter.install()
    assert meter.name.startswith("none (AttributeError")
    assert not meter.counting


def test_the_dispatcher_reads_every_operator_of_this_torch():
    found = collective_hooks.operators()
    assert {"allreduce_", "alltoall_base_", "send", "recv_", "barrier"} <= found.keys()
    for name, operator in found.items():
        if operator.operation not in COLLECTIVES:
            continue
        assert (operator.inputs is None) == (name in (
            "recv_", "recv_any_source_", "barrier", "monitored_barrier_")), name


@pytest.mark.parametrize("call", [
    Call("NOVELTY", inputs=(12,), outputs=(24,)),
    Call("ALLTOALL", inputs=(8, 8, 8)),
    Call("SCATTER", 0, inputs=(8, 8)),
    Call("BROADCAST", -1, inputs=(24,)),
    Call("REDUCE", None, inputs=(24,)),
    Call("ALLREDUCE", inputs=(24,), unmeasured="TypeError: a stand-in"),
], ids=str)
def test_what_cannot_be_priced_says_why(call):
    one = describe_call(call, 0, 4, "gloo")
    assert one.actual_bytes is None
    assert one.unmeasured.startswith(f"{call.operation}: ")
    assert one.payload_bytes >= 24


def test_reasons_survive_folding():
    calls = [
        describe_call(Call("NOVELTY", inputs=(size,)), 0, 2, "gloo") for size in range(4, 40, 4)
    ]
    whole = sum_calls(calls)
    assert whole[""]["novelty"].unmeasured == "NOVELTY: the operation is not known"
    assert sum_calls(fold_calls(calls, 2)) == whole
