"""The meter for scripts that know nothing of the harness: in code, and around a command."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch_names
from harness_ranks import run_ranks

from bench_apts import CommMeter
from bench_apts.meters.metered_files import read_ranks, table_of
from bench_apts.meters.traffic_table import TrafficRow, TrafficTable, compare, group_label

PAGE = Path(__file__).parents[2] / "docs" / "meter.md"
TRAINED, IN_CODE, TENSORBOARD, WANDB = re.findall(
    r"^```python(?: notest)?\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SIZE = 12 * 16 + 16  # parameters of the network below


def by_key(rows):
    return {(row.phase, row.collective, row.group): row for row in rows}


def network(torch):
    torch.manual_seed(0)
    return torch.nn.Linear(12, 16)


def ddp(connect, dispatch):
    """Three steps of DDP, a collective in a group of one's own, and one that nobody counts."""
    import torch
    import torch.distributed as dist

    if dispatch:
        os.environ["BENCH_APTS_COMM_METER"] = "dispatch"
    steps = []
    connect()
    with CommMeter(on_step=steps.append, time=True) as meter, CommMeter(
            automatic_steps=True) as other:
        one = dist.new_group([0])
        model = torch.nn.parallel.DistributedDataParallel(network(torch))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            model(torch.ones(4, 12)).sum().backward()
            optimizer.step()
            meter.step()
        with meter.during("evaluation"):
            dist.all_reduce(torch.ones(3))
            if dist.get_rank() == 0:
                dist.all_reduce(torch.ones(3), group=one)
        optimizer.register_step_pre_hook(lambda *_: dist.all_reduce(torch.ones(2)))
        optimizer.step()
        inside, table = meter.rows(), str(meter.table())
    dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()
    return (inside, meter.rows(), other.rows(), other.steps, steps, table, meter.audit(),
            meter.mechanism)


@pytest.mark.parametrize("dispatch", [
    pytest.param(False, marks=torch_names.hooked), True], ids=["pre-hook", "dispatcher"])
def test_a_training_by_ddp_has_its_known_answer(dispatch):
    for rank, (inside, after, other, steps, each, table, audit, mechanism) in enumerate(
            run_ranks(ddp, 2, dispatch)):
        assert mechanism == ("c10d dispatcher" if dispatch else torch_names.METER)
        assert inside == after, "nothing is counted after the block"
        rows = by_key(inside)
        gradients = rows["backward", "all_reduce", "all 2 ranks"]
        assert (gradients.calls, gradients.payload_bytes, gradients.ideal_bytes) == (
            3, 3 * 4 * SIZE, 3 * 4 * SIZE)
        assert rows["optimizer", "all_reduce", "all 2 ranks"].payload_bytes == 8
        assert rows["evaluation", "all_reduce", "all 2 ranks"].payload_bytes == 12
        alone = rows.get(("evaluation", "all_reduce", "rank 0"))
        assert (alone.ideal_bytes if alone else None) == (0 if rank == 0 else None)
        assert {row.phase for row in inside} >= {"setup", "backward", "optimizer", "evaluation"}
        # Both count all; the other one has no phase.
        assert sum(row.payload_bytes for row in other) == sum(row.payload_bytes for row in inside)
        assert steps == 4
        assert [step.step for step in each] == [1, 2, 3]
        assert each[0].payload_bytes > 4 * SIZE == each[2].payload_bytes
        assert each[2].actual_bytes > each[2].ideal_bytes == 4 * SIZE
        assert gradients.seconds > 0
        assert gradients.untimed == 0
        assert "share of the step" in table
        assert not audit.skipped
        (part,) = audit.parts.values()
        assert part.seen_bytes > 0
        assert abs(part.difference) <= part.unsure_bytes


def fsdp2(connect):
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    connect()
    with CommMeter(automatic_steps=True) as meter:
        model = network(torch)
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            model(torch.ones(4, 12)).sum().backward()
            optimizer.step()
    return meter.rows(), meter.steps


def test_fsdp2_gathers_parameters_and_scatters_gradients():
    for rows, steps in run_ranks(fsdp2, 2):
        assert steps == 2
        found = by_key(rows)
        scattered = found["backward", "reduce_scatter", "all 2 ranks"]
        assert (scattered.calls, scattered.payload_bytes) == (2, 2 * 4 * SIZE)
        gathered = [row for row in rows if row.collective == "all_gather"]
        assert sum(row.payload_bytes for row in gathered) >= 2 * 4 * SIZE


def as_torchrun_does(torch):
    """Tells launched libraries which rank this is."""
    rank, size = map(str, (torch.distributed.get_rank(), torch.distributed.get_world_size()))
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size,
                      MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu", ACCELERATE_USE_CPU="1")


def zero2(connect):
    import torch

    connect()
    as_torchrun_does(torch)
    deepspeed = pytest.importorskip("deepspeed")
    with CommMeter(automatic_steps=True) as meter:
        model = network(torch)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), config={
                "train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 2},
                "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False})
        for _ in range(2):
            engine.backward(engine(torch.ones(4, 12)).sum())
            engine.step()
    return meter.rows(), meter.steps


@pytest.mark.slow  # the import of DeepSpeed takes most of it
def test_deepspeed_is_counted():
    for rows, steps in run_ranks(zero2, 2):
        assert steps == 2
        for collective in ("all_reduce", "all_gather"):  # of gradients, and of parameters
            assert sum(row.payload_bytes for row in rows
                       if row.collective == collective) >= 2 * 4 * SIZE


def accelerated(connect):
    import torch
    from accelerate import Accelerator

    connect()
    as_torchrun_does(torch)
    with CommMeter(automatic_steps=True) as meter:
        accelerator = Accelerator(cpu=True)
        model = network(torch)
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
        for _ in range(2):
            accelerator.backward(model(torch.ones(4, 12)).sum())
            optimizer.step()
    return meter.rows(), meter.steps


def test_accelerate_is_counted():
    pytest.importorskip("accelerate", reason="pip install accelerate")
    for rows, steps in run_ranks(accelerated, 2):
        assert steps == 2
        found = by_key(rows)["backward", "all_reduce", "all 2 ranks"]
        assert found.payload_bytes == 2 * 4 * SIZE


def lightened(connect):
    import lightning
    import torch

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network(torch)

        def training_step(self, batch, _):
            return self.network(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with CommMeter(automatic_steps=True) as meter:
        lightning.Trainer(
            accelerator="cpu", strategy="ddp", devices=1, max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(Module(), torch.utils.data.DataLoader(torch.ones(8, 12), batch_size=4))
    return meter.rows(), meter.steps


def test_lightning_is_counted():
    pytest.importorskip("lightning", reason="pip install lightning")
    ((rows, steps),) = run_ranks(lightened, 1)
    assert steps == 2
    assert by_key(rows)["backward", "all_reduce", "all 1 rank"].payload_bytes == 2 * 4 * SIZE


def test_the_import_brings_none_of_the_harness():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from bench_apts import CommMeter\n"
         "print(*(name for name in sys.modules if name.startswith('bench_apts.')))\n"
         "print(*{'torch', 'typer', 'pandas', 'matplotlib', 'optuna', 'jinja2', 'psutil'} "
         "& set(sys.modules))"], capture_output=True, text=True, check=True)
    ours, heavy = done.stdout.splitlines()
    assert {name.split(".")[1] for name in ours.split()} == {"core", "meters"}
    assert heavy == ""


def test_a_meter_is_for_one_block():
    with CommMeter() as meter:
        pass
    assert str(meter.table()).startswith("no collectives")
    with pytest.raises(RuntimeError, match="one block"), meter:
        pass


def page_s_code(connect):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(IN_CODE, {})
    return said.getvalue()


def test_the_page_s_example_in_code_runs():
    (said,) = run_ranks(page_s_code, 1)
    assert said.startswith("1 1 4000\n2 1 4000\n3 1 4000\n1 rank, 3 steps")
    assert "gradients  all_reduce  all 1 rank      3    12 kB" in said


def page_s_tracker(connect, code, folder):
    """Run a tracker's example around three steps of one all-reduce of 4 kB each."""
    import torch
    import torch.distributed as dist

    def train(meter):
        for _ in range(3):
            dist.all_reduce(torch.ones(1000))
            meter.step()

    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    os.chdir(folder)
    connect()
    exec(code, {"CommMeter": CommMeter, "dist": dist, "train": train})


def test_the_page_s_tensorboard_example_writes_each_step(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_ranks(page_s_tracker, 2, TENSORBOARD, str(tmp_path))
    for rank in (0, 1):
        found = EventAccumulator(str(tmp_path / "runs" / f"rank-{rank}")).Reload()
        for name, value in (("ideal bytes", 4000), ("collectives", 1)):
            assert [(event.step, event.value) for event in found.Scalars(name)] == [
                (1, value), (2, value), (3, value)]


def test_the_page_s_wandb_example_writes_each_step(tmp_path):
    pytest.importorskip("wandb", reason="needs wandb")
    run_ranks(page_s_tracker, 2, WANDB, str(tmp_path))
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    written = path.read_bytes()
    assert written.count(b"ideal bytes") >= 3
    assert b"4000" in written


@pytest.fixture
def metered(environment, tmp_path):
    """Runs ``bench-apts meter`` in an empty folder, around a script."""

    def run(script, *options, launcher=(sys.executable,), **variables):
        (tmp_path / "train.py").write_text(script)
        return subprocess.run(
            [sys.executable, "-m", "bench_apts", "meter", *options, "--", *launcher, "train.py"],
            cwd=tmp_path, env=environment | variables,
            capture_output=True, text=True, check=False, timeout=300)

    return run


def test_a_command_is_metered_without_a_change_to_its_script(metered, tmp_path):
    """The page's own example, with a sitecustomize of the user's."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sitecustomize.py").write_text("import os; os.environ['MINE'] = 'yes'")
    done = metered(
        TRAINED + "import os, sys\nassert os.environ['MINE'] == 'yes'\n"
        "assert not any('bootstrap' in path for path in sys.path)\n",
        "--time", "--html", "page.html",
        launcher=(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        PYTHONPATH="mine", GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    ranks = read_ranks(tmp_path / "meter")
    assert [rank.header.rank for rank in ranks] == [0, 1]
    assert all(rank.last.end for rank in ranks)
    gradients = by_key(table_of(ranks).rows)["backward", "all_reduce", "all 2 ranks"]
    size = 4 * (64 * 256 + 256 + 256 * 10 + 10)
    assert (gradients.calls, gradients.payload_bytes) == (100, 100 * size)
    assert "2 ranks, 100 steps of" in done.stdout
    assert re.search(r"the kernel saw ([\d,]+) bytes, its collectives account for \1;",
                     done.stdout)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<table>") == 3
    assert "share of the step" in page


SRUN = """#!/bin/sh
case "$1 $2" in "--ntasks 2") shift 2;; *) exit 3;; esac
for task in 0 1; do
    SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
done
wait
"""

SRUN_TRAINED = '''
import os, torch, torch.distributed as dist
dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/store",
                        rank=int(os.environ["SLURM_PROCID"]),
                        world_size=int(os.environ["SLURM_NTASKS"]))
dist.all_reduce(torch.ones(5))
'''


def test_every_task_of_srun_is_metered(metered, tmp_path):
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    done = metered(SRUN_TRAINED, launcher=("srun", "--ntasks", "2", sys.executable),
                   PATH=f"{srun.parent}:{os.environ['PATH']}", GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    ranks = read_ranks(tmp_path / "meter")
    assert [(rank.header.rank, rank.header.world_size) for rank in ranks] == [(0, 2), (1, 2)]
    for rank in ranks:
        assert [(row.collective, row.payload_bytes) for row in rank.last.rows] == [
            ("all_reduce", 20)]


ALONE = '''
import os, sys, signal, time
import torch, torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dist.all_reduce(torch.ones(5))
'''


@pytest.mark.parametrize(("ending", "code", "note"), [
    pytest.param("raise ValueError('too large')", 1, "rank 0 ended in ValueError: too large",
                 marks=pytest.mark.slow),
    pytest.param("sys.exit(7)", 7, "", marks=pytest.mark.slow),
    ("time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL,
     "rank 0 did not end by itself"),
], ids=["raises", "exits", "killed"])
def test_what_dies_leaves_its_lines_and_its_exit_code(metered, tmp_path, ending, code, note):
    done = metered(ALONE + ending, "--out", "lines", "--interval", "0.2")
    assert done.returncode == code, done.stderr
    assert note in done.stdout
    lines = (tmp_path / "lines" / "rank-0.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert [(row["collective"], row["payload_bytes"]) for row in last["rows"]] == [
        ("all_reduce", 20)]
    assert last["end"] == (code != 128 + signal.SIGKILL)


@pytest.mark.parametrize(("arguments", "expected"), [
    ((), "meter takes a command"),
    (("--", "nothing-of-the-kind"), "no command nothing-of-the-kind"),
    (("--compare", "a", "b"), "a is not a folder"),
    (("--compare", "a", "b", "--", "python"), "no command"),
    (("--out", "full", "--", sys.executable, "-c", "0"), "full is not empty"),
])
def test_mistakes_end_in_one_line(cli, monkeypatch, tmp_path, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = cli("meter", *arguments)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert expected in done.err


def test_a_command_without_a_process_group_says_so(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = cli("meter", "--", sys.executable, "-c", "raise SystemExit(5)")
    assert done.code == 5
    assert "no process of the command made a process group" in done.err


def row(calls=1, payload=100, group="all 2 ranks", seconds=None, ranks=2, phase="backward"):
    return TrafficRow(phase, "all_reduce", group, ranks, calls, payload, float(payload), payload,
                      seconds)


def test_tables_of_ranks_are_means_and_many_groups_become_one_row():
    tables = [TrafficTable((row(2, 100 + i, "all 10 ranks", ranks=10),
                            row(1, 8, f"ranks {2 * i}, {2 * i + 1}")), 4, 0.5) for i in range(5)]
    found = TrafficTable.of_ranks(tables)
    assert found.ranks == 5
    assert [(r.group, r.calls, r.payload_bytes) for r in found.rows] == [
        ("all 10 ranks", 2, 102), ("5 groups of 2 ranks", 1, 8)]


def test_two_runs_are_compared_step_by_step():
    before = TrafficTable((row(10, 1000, seconds=1.0),), steps=10)
    after = TrafficTable((row(10, 4000, seconds=0.5), row(3, 9, phase="setup")), steps=5)
    head, rows, _ = compare(before, after)
    assert head[-3:] == ["time A", "time B", "B / A"]
    first, setup = rows
    assert first[3:8] == ["1", "2", "100\u202fB", "800\u202fB", "8.00"]
    assert first[-1] == "1.00"
    assert setup[:2] == ["setup", "all_reduce"]
    assert setup[7] == "∞"


@pytest.mark.parametrize(("members", "ranks", "world", "label"), [
    ((0, 1), 2, 2, "all 2 ranks"), ((0, 1, 2), 3, 8, "ranks 0-2"), ((0, 4), 2, 8, "ranks 0, 4"),
    ((3,), 1, 8, "rank 3"), ((), 4, 8, "4 ranks"),
    (tuple(range(0, 16, 2)), 8, 16, "ranks 0, 2, 4, 6, 8, 10 and 2 more")])
def test_groups_are_named_by_their_ranks(members, ranks, world, label):
    assert group_label(members, ranks, world) == label


def test_rows_are_plain_json():
    assert msgspec.json.decode(msgspec.json.encode(row()), type=TrafficRow) == row()
