"""What ranks reported together, compared with what was counted and seen on all of them."""

from __future__ import annotations

from bench_apts.core.errors import ContractError


def require_true(
    unequal: str, reported: int, samples: float, forwards: float, backwards: float
) -> None:
    """Refuse claims that what all ranks saw together disproves.

    Args:
        unequal: What of the evaluated model differs between ranks.
        reported: Samples of all ranks as reported.
        samples: Samples of all ranks as counted.
        forwards: Forward passes counted beyond those reported, on the worst rank.
        backwards: Backward passes likewise.

    Raises:
        ContractError: On all ranks.
    """
    if unequal:
        raise ContractError(
            f"after {reported} samples the ranks' {unequal} differ, though they claim to "
            "hold one model: average gradients or weights in step(), report agreed=False "
            "where ranks differ, align buffers in evaluation_model() (align_buffers)")
    for what, more in (("forward", forwards), ("backward", backwards)):
        if more > 0:
            raise ContractError(f"{more:.0f} {what} passes more were counted on a rank than "
                                f"its steps reported as StepReport.{what}s")
    if samples > reported:
        raise ContractError(
            f"steps reported {reported:,} samples of all ranks and {samples:,.0f} were "
            "counted: a sample counts at each forward pass, and when it is handed out")
