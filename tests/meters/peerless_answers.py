"""What each optimizer must ask of its process group in a step, by hand."""

PERSISTENT = 100_000
"""Elements below which ZeRO-3 gathers a parameter after the step, not where it is used."""


def padded(size, multiple):
    return -(-size // multiple) * multiple


def known(name, sizes, ranks, steps):
    """Collectives and payload bytes of each training step, in order.

    ``name`` is one of the cases of the tests, ``sizes`` are the elements of each parameter.
    """
    n = sum(sizes)
    loss, message = ("all_reduce", 4), ("all_reduce", 4 * (n + 1))
    each = [("all_gather", 4 * padded(size, ranks)) for size in sizes]
    whole = sum(payload for _, payload in each)
    used = [call for call, size in zip(each, sizes, strict=True) if size >= PERSISTENT]
    kept = [call for call, size in zip(each, sizes, strict=True) if size < PERSISTENT]
    after = [("reduce_scatter", whole), ("all_reduce", 8), *kept]
    partitioned = [("all_reduce", 4 * n), ("all_reduce", 4),
                   ("all_gather", 4 * padded(n, 2 * ranks))]
    step = {
        "sgd": [("all_reduce", 4 * n)],
        "adam": [("all_reduce", 4 * n)],
        "apts-paper": [message, message, message, loss],
        "apts-paper, l-sr1": [message, message, message, loss],
        "apts-paper, local": [message, message, loss],
        "napts": [message, message, message, loss],
        "tr": [message, loss],
        "tr, l-sr1": [message, message],
        "apts, unjudged": [("all_reduce", 4 * n)],
        "zero1": partitioned,
        "zero2": partitioned,
        "zero3": [*used, *after],
    }[name]
    return [step] * steps


def rounds(steps):
    """Which local steps of ``apts`` end a round: H = 1, 2, 4, 8, then 16, 16 rounds of each."""
    ends, last = [], -1
    while last < steps:
        last += min(16, 1 << len(ends) // 16)
        ends.append(last)
    return [step in ends for step in range(steps)]
