"""The mean of a vector over the ranks, in messages of 2 to 32 bits a number.

Each rank cuts its vector into N chunks and sends chunk j to rank j (all-to-all); rank j averages
what it gets and sends the mean to all (all-gather). Both messages are quantised, block by block::

    step δ = max |x| / L  with  L = 2^(bits − 1) − 1,   code q = ⌊x / δ + u⌋,   x̂ = δ q

With u uniform in [0, 1) the mean of x̂ is x, and |x̂ − x| < δ (stochastic rounding, as in QSGD,
Alistarh et al., arXiv 1610.02132). With error feedback u = 1/2, so that |x̂ − x| ≤ δ/2 and ≤ |x|,
and what either message has lost is added to the next one of the same rank (DoubleSqueeze, Tang et
al., arXiv 1905.05957). A rank's own chunk enters its mean as it is. Bounds hold up to rounding in
float32. So the error of a mean is, for each number, below

    (1/N) Σ over the other ranks of their δ  +  δ of the mean.

Zeros stay zero. A block that holds a number that is not finite becomes NaN on all ranks. All ranks
decode the same bytes and end with the same bits.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from bench_apts.core.errors import UserError
from bench_apts.optimizers.quantized_layout import BITS, Layout
from bench_apts.plugins.state_copies import copied

if TYPE_CHECKING:
    from collections.abc import Iterator

# Older torch has only the name that newer torch warns of.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

_TILE = 1 << 16
"""Numbers that are quantised at a time, about: what temporaries hold."""


class QuantizedMean:
    """Averages vectors over the ranks; with one rank they stay as they are.

    Random numbers depend on the seed, the rank and the number of the round alone. Besides the
    messages (two of N chunks in bytes) and, with feedback, the errors (n + n/N numbers), no memory
    of the vector's size is used.

    Args:
        like: A vector as those that will be averaged, ``(n,)`` floats.
        bits: Of a number, one of ``BITS``.
        block: Numbers that share a step, a multiple of 8.
        seed: Of random numbers, the same on all ranks.
        feedback: Whether what messages lose is added to the next ones.
        group: The ranks; None for the default group, or one process without torch.distributed.

    Attributes:
        layout: How vectors are cut.

    Raises:
        UserError: ``bits`` or ``block`` cannot be used.
    """

    def __init__(
        self, like: torch.Tensor, bits: int, block: int = 256, *, seed: int = 0,
        feedback: bool = False, group: dist.ProcessGroup | None = None,
    ) -> None:
        if bits not in BITS:
            raise UserError(f"bits={bits}: expected one of {', '.join(map(str, BITS))}")
        if block < 8 or block % 8:
            raise UserError(f"block={block}: expected a multiple of 8")
        together = dist.is_available() and dist.is_initialized()
        self._group, self._seed = group, seed
        self._rank = dist.get_rank(group) if together else 0
        self.layout = Layout(like.numel(), dist.get_world_size(group) if together else 1,
                             bits, block)
        self._feedback = feedback and bits < 32 and self.layout.ranks > 1
        own = self.layout.span(self._rank)
        self._lost = torch.zeros_like(like) if self._feedback else None
        self._lost_mean = torch.zeros_like(like[own]) if self._feedback else None

    @torch.no_grad()
    def average(
        self, vector: torch.Tensor, number: int, scalars: torch.Tensor | None = None
    ) -> None:
        """Replace a vector by its quantised mean over the ranks; all ranks call it together.

        Args:
            vector: ``(n,)``, contiguous.
            number: Of the round: the same on all ranks, another one in each call.
            scalars: ``(k,)`` float32, replaced by their sums over the ranks, which are exact but
                for rounding and the same bits on all ranks; they travel with the second message.
        """
        layout, device = self.layout, vector.device
        if layout.ranks == 1:
            return
        own, many = layout.span(self._rank), layout.ranks * layout.chunk_bytes
        if scalars is None:
            scalars = torch.empty(0, device=device)
        answer_bytes = layout.chunk_bytes + 4 * len(scalars)
        answers = torch.empty(layout.ranks * answer_bytes, dtype=torch.uint8, device=device)
        answer = torch.empty_like(answers)
        sent, received = answers[:many], answer[:many]
        if self._lost is not None:
            vector.add_(self._lost)
            self._lost.zero_()
        draw = self._generator(device, number, 0)
        for rank, message in enumerate(torch.split(sent, layout.chunk_bytes)):
            if rank != self._rank:
                span = layout.span(rank)
                self._encode(vector[span], message, draw,
                             None if self._lost is None else self._lost[span])
        dist.all_to_all_single(received, sent, group=self._group)
        mean = vector[own]
        for rank, message in enumerate(torch.split(received, layout.chunk_bytes)):
            if rank != self._rank:
                self._decode(message, mean, add=True)
        mean.div_(layout.ranks)
        if self._lost_mean is not None:
            mean.add_(self._lost_mean)
        answer = answer[:answer_bytes]
        self._encode(mean, answer[: layout.chunk_bytes], self._generator(device, number, 1),
                     self._lost_mean)
        answer[layout.chunk_bytes :].view(torch.float32).copy_(scalars)
        _all_gather(answers, answer, group=self._group)
        scalars.zero_()
        for rank, message in enumerate(torch.split(answers, answer_bytes)):
            self._decode(message[: layout.chunk_bytes], vector[layout.span(rank)], add=False)
            scalars += message[layout.chunk_bytes :].view(torch.float32)

    def _generator(self, device: torch.device, number: int, phase: int) -> torch.Generator | None:
        """Return what draws u of a message; None where u is 1/2."""
        if self._feedback:
            return None
        text = f"{self._seed}/{self._rank}/{number}/{phase}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
        return torch.Generator(device).manual_seed(seed)

    def _encode(
        self, values: torch.Tensor, message: torch.Tensor, draw: torch.Generator | None,
        lost: torch.Tensor | None,
    ) -> None:
        """Write numbers into a message, and what is lost of them into ``lost``."""
        if self.layout.bits == 32:
            message.view(torch.float32)[: len(values)] = values
            message.view(torch.float32)[len(values):] = 0
            return
        message.zero_()  # the chunk may lack numbers at its end
        for begin, part, steps, codes in self._tiles(values, message):
            blocks = _blocks(part, self.layout.block)
            step, found = quantize(blocks, self.layout.bits, draw)
            steps.copy_(step)
            if lost is not None:
                kept = found.mul(step[:, None]).flatten()[: len(part)]
                lost[begin : begin + len(part)] = (part - kept).nan_to_num_(0.0, 0.0, 0.0)
            packed = pack(found.flatten()[: 8 * math.ceil(len(part) / 8)], self.layout.bits)
            codes[: len(packed)] = packed

    def _decode(self, message: torch.Tensor, out: torch.Tensor, *, add: bool) -> None:
        """Write the numbers of a message to ``out``, or add them."""
        if self.layout.bits == 32:
            found = message.view(torch.float32)[: len(out)]
            out.add_(found) if add else out.copy_(found)
            return
        for _, part, steps, codes in self._tiles(out, message):
            numbers = _blocks(unpack(codes, self.layout.bits)[: len(part)], self.layout.block)
            found = numbers.to(out.dtype).mul_(steps[:, None]).flatten()[: len(part)]
            part.add_(found) if add else part.copy_(found)

    def _tiles(
        self, values: torch.Tensor, message: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return parts of numbers, where they begin, and the places of their steps and codes."""
        block, bits = self.layout.block, self.layout.bits
        steps = message[: 4 * self.layout.steps].view(torch.float32)
        codes = message[4 * self.layout.steps :]
        tile = block * max(1, _TILE // block)
        for begin in range(0, len(values), tile):
            part = values[begin : begin + tile]
            first = begin // block
            end = begin + 8 * math.ceil(len(part) / 8)
            yield (begin, part, steps[first : first + math.ceil(len(part) / block)],
                   codes[begin * bits // 8 : end * bits // 8])

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the errors on this rank."""
        return copied({"lost": self._lost, "lost_mean": self._lost_mean})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        if self._lost is not None and self._lost_mean is not None:
            self._lost.copy_(state["lost"])
            self._lost_mean.copy_(state["lost_mean"])


def _blocks(values: torch.Tensor, block: int) -> torch.Tensor:
    """Return numbers as rows of a block each; zeros fill the last one."""
    missing = -len(values) % block
    return (torch.nn.functional.pad(values, (0, missing)) if missing else values).view(-1, block)


def quantize(
    blocks: torch.Tensor, bits: int, draw: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return steps and codes of blocks.

    Args:
        blocks: ``(k, block)`` floats.
        bits: Below 32.
        draw: Draws u; None for u = 1/2.

    Returns:
        δ, ``(k,)`` float32, NaN for a block with a number that is not finite; and the codes,
        ``(k, block)`` of the blocks' dtype, integers from −L to L.
    """
    levels = 2 ** (bits - 1) - 1
    largest = blocks.abs().amax(dim=1)
    tiny = torch.finfo(torch.float32).tiny
    step = (largest / levels).clamp_min_(tiny).to(torch.float32)
    step.masked_fill_(~largest.isfinite() | step.isinf(), math.nan)
    codes = blocks / step[:, None]
    codes += 0.5 if draw is None else _uniform(codes, draw)
    # Rounding may exceed L by one where a number is the largest of its block.
    return step, codes.floor_().clamp_(-levels, levels).nan_to_num_(0.0)


def _uniform(like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Return u, one of 65,536 values in equal strides whose mean is 1/2, in the shape of ``like``.

    Four of them are cut from one draw of 64 bits, which costs less than four draws; the mean of
    x̂ then differs from x by at most 2⁻¹⁷ δ.
    """
    words = torch.empty(math.ceil(like.numel() / 4), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=draw)
    halves = words.view(torch.int16)[: like.numel()].to(like.dtype)
    return halves.add_(2**15 + 0.5).mul_(2.0**-16).view(like.shape)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return codes as bytes, ``bits`` each.

    Args:
        codes: ``(8k,)``, integers from −L to L in any dtype.
        bits: 2, 3, 4, 8 or 16.
    """
    if bits == 16:
        return codes.to(torch.int16).view(torch.uint8)
    if bits == 8:
        return codes.to(torch.int8).view(torch.uint8)
    if bits == 4:  # of a pair of bytes, the first is the lower half of the word
        # Floats become bytes several times faster by way of 32 bits.
        pairs = codes.to(torch.int32).add_(7).to(torch.uint8).view(torch.int16)
        return (pairs >> 4).bitwise_or_(pairs).to(torch.uint8)
    # A group of codes fills whole bytes: 4 of 2 bits, 8 of 3.
    group = 8 if bits == 3 else 8 // bits
    shifts = torch.arange(0, bits * group, bits, dtype=torch.int32, device=codes.device)
    offset = codes.to(torch.int32).view(-1, group) + (2 ** (bits - 1) - 1)
    words = (offset << shifts).sum(dim=1, dtype=torch.int32)
    places = torch.arange(0, bits * group, 8, dtype=torch.int32, device=codes.device)
    packed: torch.Tensor = (words[:, None] >> places) & 255
    return packed.to(torch.uint8).flatten()


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the codes that ``pack`` made bytes of, as integers."""
    if bits == 16:
        return packed.view(torch.int16)
    if bits == 8:
        return packed.view(torch.int8)
    if bits == 4:
        words = packed.to(torch.int16)
        return (words << 4).bitwise_or_(words).bitwise_and_(0x0F0F).view(torch.int8).sub_(7)
    group = 8 if bits == 3 else 8 // bits
    places = torch.arange(0, bits * group, 8, dtype=torch.int32, device=packed.device)
    words = (packed.to(torch.int32).view(-1, len(places)) << places).sum(dim=1, dtype=torch.int32)
    shifts = torch.arange(0, bits * group, bits, dtype=torch.int32, device=packed.device)
    found: torch.Tensor = (words[:, None] >> shifts) & (2**bits - 1)
    return found.sub(2 ** (bits - 1) - 1).flatten()
