"""Records of one training that was run twice."""

from msgspec.structs import replace

from bench_apts.meters import soundness

CLOCKS = {"train_s", "wall_s", "cpu_s", "all_ranks_cpu_s", "peak_memory_bytes", "tensor_bytes",
          "comm", "counted"}


def assert_alike(one, other):
    """Checks that two records tell of the same course."""
    assert one.end.status == other.end.status
    assert one.end.test == other.end.test
    assert one.end.final_weights_sha256 == other.end.final_weights_sha256
    assert len(one.evals) == len(other.evals)
    for first, second in zip(one.evals, other.evals, strict=True):
        for name in set(first.__struct_fields__) - CLOCKS:
            assert getattr(first, name) == getattr(second, name), (name, first.samples)
        assert replace(first.counted, steps_s=0) == replace(second.counted, steps_s=0)
        for phase in ("train", "validate", "eval"):
            assert first.comm.get(phase) == second.comm.get(phase), (phase, first.samples)
    for phase in ("train", "validate", "eval"):
        assert one.end.comm.get(phase) == other.end.comm.get(phase)
        assert ([c for c in one.end.calls if c.phase == phase]
                == [c for c in other.end.calls if c.phase == phase])
    for record in (one, other):
        for name, part in record.end.audit.parts.items():
            assert abs(part.difference) <= part.unsure_bytes, (name, part)
        assert soundness.ledger_gap(record) is None
