"""What a step sends by arithmetic, against what the meter counts in trainings over gloo."""

import os
from collections import Counter

import pytest
from harness_ranks import run_ranks

from bench_apts import CommMeter
from bench_apts.optimizers.strategy_traffic import (
    STRATEGIES,
    Message,
    NetworkSizes,
    TensorSize,
    _buckets,
    ddp,
)
from bench_apts.stats import network_model

STEPS = 4


def network(torch, wide):
    """Odd sizes, so that all that is padded shows; buffers of two types."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(7, wide), torch.nn.BatchNorm1d(wide), torch.nn.ReLU(),
        torch.nn.Linear(wide, 3))


def sizes_of(network):
    def size(tensor):
        return TensorSize(tuple(tensor.shape), tensor.element_size(), str(tensor.dtype))

    return NetworkSizes([*map(size, network.parameters())], [*map(size, network.buffers())])


def build(strategy, model, torch):
    """Return what makes a step, and the batch norms' effect on nothing else."""
    if strategy.startswith("zero"):
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["LOCAL_RANK"] = str(torch.distributed.get_rank())
        import deepspeed

        engine, *_ = deepspeed.initialize(
            model=model, optimizer=torch.optim.AdamW(model.parameters(), 1e-3), config={
                "train_micro_batch_size_per_gpu": 4, "gradient_clipping": 0.0,
                "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
                "zero_optimization": {"stage": int(strategy[-1])}})

        def step(inputs):
            engine.backward(engine(inputs).square().mean())
            engine.step()

        return step
    if strategy == "fsdp2":
        torch.distributed.fsdp.fully_shard(model)
        made = model
    else:
        made = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(made.parameters(), 1e-3)

    def step(inputs):
        optimizer.zero_grad()
        made(inputs).square().mean().backward()
        optimizer.step()
        if strategy == "fsdp2":
            made.reshard()

    return step


def trained(connect, strategies, wide):
    """The collectives of the last step by each strategy: their names, payloads and calls."""
    import torch
    import torch.distributed.fsdp

    connect()
    found = {}
    for strategy in strategies:
        model = network(torch, wide)
        sizes = sizes_of(model)
        with CommMeter() as meter:
            step = build(strategy, model, torch)
            for number in range(STEPS):
                with meter.during(f"step {number}"):
                    step(torch.ones(4, 7) * torch.arange(4).unsqueeze(1))
        listed = Counter()
        for _, calls in meter._counter.calls_by_group():
            for call in calls:
                if call.phase == f"step {STEPS - 1}":
                    listed[call.collective, call.payload_bytes] += call.calls
        found[strategy] = sizes, listed
    return found


def assert_formulas_hold(ranks, strategies, wide):
    for found in run_ranks(trained, ranks, strategies, wide):
        for strategy in strategies:
            sizes, counted = found[strategy]
            assert counted == Counter(map(tuple, STRATEGIES[strategy](sizes, ranks).messages)), (
                strategy)


def test_ddp_and_fsdp2_send_what_the_formula_says():
    assert_formulas_hold(2, ("ddp", "fsdp2"), 21)


@pytest.mark.slow
def test_ddp_fills_buckets_as_the_formula_says():
    assert_formulas_hold(2, ("ddp",), 60_001)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "wide"), [(2, 21), (3, 20_011)])
def test_zero_sends_what_the_formula_says(ranks, wide):
    pytest.importorskip("deepspeed")
    assert_formulas_hold(ranks, ("zero1", "zero2", "zero3"), wide)


def test_buckets_by_hand():
    mebi = TensorSize((1 << 18,))
    found = _buckets([mebi] * 30 + [TensorSize((3,), 2, "bfloat16")])
    assert [message.payload_bytes for message in found] == [1 << 20, 25 << 20, 6, 4 << 20]


def test_modelled_time_by_hand():
    sizes = NetworkSizes([TensorSize((250,))])
    network = network_model.Interconnect(network_model.Fabric(1e6, 1e-3, "round"))
    sent = ddp(sizes, 2)
    assert sent.messages == (Message("all_reduce", 1000),)
    assert sent.ideal(2) == 1000
    # Two hops, and the payload once.
    assert sent.seconds(2, network) == pytest.approx(2e-3 + 1e-3)


def test_the_command_prints_a_row_for_each_strategy(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef make(width=10):\n    return torch.nn.Linear(width, 1, bias=False)\n")
    done = cli("traffic", "--model", f"{tmp_path / 'mine.py'}:make", "--gpus", "4",
               "--model-args", '{"width": 1000}', "--fabric", "eth10g,wan")
    assert done.code == 0, done.err
    assert "1,000 parameters, N = 4" in done.out
    rows = {line.split()[0]: line.split() for line in done.out.splitlines() if line}
    assert rows["ddp"][1:6] == ["1", "4.00", "kB", "6.00", "kB"]
    assert rows["fsdp2"][4:6] == ["24.0", "kB"], "its one row is padded to four"
    # 4 chunks of 256 numbers in 4 bits with one step: 132 bytes to each of 3 ranks, twice, and a
    # float32 in the second message, in a round of 4 steps.
    assert rows["apts"][4:6] == ["201", "B"]
    assert "none is measured" in done.out


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--model", "torch.nn:Linear"), "cannot be made"),
    (("--model", "math:sqrt", "--model-args", "[]"), "expected names with values"),
    (("--model", "torch:zeros", "--strategy", "pipeline"), "unknown strategy"),
    (("--model", "torch:tensor", "--model-args", '{"data": 1}'), "expected a torch.nn.Module"),
    (("--model", "torch:tensor", "--fabric", "string"), "unknown fabric"),
])
def test_mistakes_end_in_one_line(cli, arguments, expected):
    done = cli("traffic", *arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert expected in done.err
