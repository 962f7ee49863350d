"""The choke point of communication: where every collective of this process can be counted.

    dist.all_reduce   DDP's reducer (C++)   DeepSpeed   compiled programs   worker threads
          └──────────────────┴────────┬───────┴──────────────┴────────────────────┘
                          operators c10d::allreduce_, …
                                      │   ◄── by_dispatch: overrides (torch before 2.14)
                        ProcessGroup::allreduce, …
                                      │   ◄── by_hook: pre-hook of the group (torch 2.14)
                              gloo, NCCL, …

Above it, a TorchDispatchMode or the profiler would miss what worker threads issue; below it are
backends, each another (docs/measurement.md, 3).
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.errors import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Finish = Callable[[], None] | None  # to be called when a collective is complete

Fields = tuple[Any, ...]
"""The fields of a ``wire.Call``, as a plain tuple: one is made for every collective."""

_ids = itertools.count(0x0A9750)


def new_hook_id() -> int:
    """Return a number for hooks that no other counter of this process has."""
    return next(_ids)


def by_hook(group: Any, count: Callable[[Fields, int], Finish], hook_id: int, timed: bool = False
            ) -> None:
    """Report the collectives of one process group; needs torch 2.14's ``register_pre_hook``.

    Args:
        group: The process group.
        count: Is called with the collective and the number that c10d gives it.
        hook_id: By which the hooks can be removed, see ``remove_hooks``.
        timed: Whether what ``count`` returns is to be called at the end of the collective.
    """
    names = _operations()
    running: dict[int, tuple[str, Callable[[], None]]] = {}

    def hook(args: Any) -> None:
        try:
            finish = count(_fields(names[args.name.value], args.root, args.input_tensors,
                                   args.output_tensors), args.op_id)
            if finish is not None:
                running[args.op_id] = names[args.name.value], finish
        except Exception as error:  # raised on, it would end the training
            name, number = _attribute(args, "name"), _attribute(args, "op_id")
            count(unread(str(_attribute(name, "name") or "UNKNOWN"),
                         _attribute(args, "input_tensors"), _attribute(args, "output_tensors"),
                         error), number if isinstance(number, int) else -1)

    def issued(args: Any) -> None:
        with contextlib.suppress(Exception):  # not timed, then
            operation, finish = running.pop(args.op_id)
            _call_at_end(args.work, finish, operation, not args.async_op)

    group.register_pre_hook(hook_id, hook)
    if timed:
        group.register_post_hook(hook_id, issued)


def remove_hooks(groups: Iterable[Any], hook_id: int) -> None:
    """Remove from process groups what ``by_hook`` set, where it is set."""
    for group in groups:
        for remove in ("unregister_pre_hook", "unregister_post_hook"):
            with contextlib.suppress(Exception):
                getattr(group, remove)(hook_id)


def _call_at_end(work: Any, finish: Callable[[], None], operation: str, waits: bool) -> None:
    """Call ``finish`` when a collective is complete; never, where that cannot be known.

    Args:
        work: c10d's handle.
        finish: What to call.
        operation: c10d's name.
        waits: Whether the caller waits at once, so that to wait here changes nothing.
    """
    if work is None:  # NCCL: it was queued on the present stream
        finish()
        return
    try:
        work.get_future().add_done_callback(lambda _: finish())
    except RuntimeError:
        # A message's handle can be waited for only once.
        if waits and not operation.startswith(("SEND", "RECV")):
            work.wait()
            finish()


def _operations() -> dict[int, str]:
    """Return c10d's names by number: an enumeration's own take longer to find than the rest."""
    from torch._C import _distributed_c10d

    members: Mapping[str, Any] = _distributed_c10d.HookOpName.__members__
    return {member.value: name for name, member in members.items()}


class _Operator(NamedTuple):
    """A c10d operator: its name among the hooks and where its arguments stand."""

    operation: str
    group: int
    inputs: int | None
    outputs: int | None
    root: int | None
    splits: int | None


_ROLES = {
    "group": {"process_group"},
    "inputs": {"input_tensors", "input_tensor", "inputs", "input", "input_list", "tensors",
               "tensor"},
    "outputs": {"output_tensors", "output_tensor", "outputs", "output", "output_lists"},
    "root": {"root_rank", "dst", "src"},
    "splits": {"input_split_sizes"},
}
"""What c10d calls the arguments of its operators, by what they are to the meter."""


def operators() -> dict[str, _Operator]:
    """Return c10d's operators on a process group in this torch, by name, from their schemas."""
    import torch

    found = {}
    for full in torch._C._dispatch_get_all_op_names():
        name = full.removeprefix("c10d::")
        if name == full or "." in name:
            continue
        arguments = [argument.name for argument in torch._C._get_schema(full, "").arguments]
        group, inputs, outputs, root, splits = (
            next((at for at, argument in enumerate(arguments) if argument in known), None)
            for known in _ROLES.values())
        if group is None:
            continue
        if name.startswith("recv"):  # received into the tensors that it is given
            inputs, outputs = None, inputs
        operation = name.strip("_").upper()
        if operation.endswith("BARRIER"):  # its tensor only names the device
            inputs = None
        found[name] = _Operator(operation, group, inputs, outputs, root, splits)
    return found


_listeners: list[Callable[[Any, Fields], Finish]] = []
_overrides: list[Any] = []
"""The library of overrides, which goes when it is removed from here."""


def by_dispatch(count: Callable[[Any, Fields], Finish]) -> Callable[[], None]:
    """Have the collectives of every process group reported by overrides of c10d's operators.

    Args:
        count: Is called with the process group, None if it cannot be read, and the collective.

    Returns:
        What ends the reports.
    """
    if not _listeners:
        _overrides.append(_override_operators())
    _listeners.append(count)

    def remove() -> None:
        if count in _listeners:
            _listeners.remove(count)
            if not _listeners:
                _overrides.pop()._destroy()

    return remove


def _override_operators() -> Any:
    """Override c10d's operators so that every listener is called before a collective is issued.

    BackendSelect is the one key that all calls pass, those in inference mode included.
    """
    import torch

    below = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)
    unbox = torch.distributed.ProcessGroup.unbox
    library: Any = torch.library.Library("c10d", "IMPL")  # type: ignore[no-untyped-call]

    def override(name: str, operator: _Operator) -> None:
        overload = getattr(torch.ops.c10d, name).default

        def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            def argument(place: int | None) -> Any:
                return () if place is None else args[place]

            group = None
            try:
                group = unbox(args[operator.group])
                call = _fields(
                    operator.operation, -1 if operator.root is None else args[operator.root],
                    _flat(argument(operator.inputs)), _flat(argument(operator.outputs)),
                    tuple(argument(operator.splits)))
            except Exception as error:  # raised on, it would end the training
                inputs, outputs = (() if place is None else args[place:place + 1]
                                   for place in (operator.inputs, operator.outputs))
                call = unread(operator.operation, inputs, outputs, error)
            finishes = [finish for count in _listeners if (finish := count(group, call))]
            found = overload.redispatch(keyset & below, *args, **kwargs)
            if finishes:
                with contextlib.suppress(Exception):  # not timed, then
                    work = found[-1] if isinstance(found, tuple) else found
                    work = torch.distributed.Work.unbox(work)
                    for finish in finishes:
                        _call_at_end(work, finish, operator.operation, False)
            return found

        library.impl(name, kernel, "BackendSelect", with_keyset=True)

    for name, operator in operators().items():
        override(name, operator)
    return library


def _fields(
    operation: str, root: int, inputs: Sequence[Any], outputs: Sequence[Any],
    splits: tuple[int, ...] = (),
) -> Fields:
    first = inputs or outputs
    return (operation, root, first[0].dtype if first else None,
            _sizes(inputs), _sizes(outputs), splits)


def unread(operation: str, inputs: Any, outputs: Any, error: Exception) -> Fields:
    """Return the fields of a collective that could not be read.

    Args:
        operation: c10d's name for it.
        inputs: Tensors that go in, of which those count that can be read.
        outputs: Tensors that come out, likewise.
        error: Why it could not be read.
    """
    return (operation, -1, None, _readable(inputs), _readable(outputs), (), describe_error(error))


def _readable(tensors: Any) -> tuple[int, ...]:
    found = []
    for tensor in _flat(tensors):
        try:
            found += [int(size) for size in _sizes([tensor])]
        except Exception:  # counted as unmeasured in any case
            continue
    return tuple(found)


def _attribute(value: Any, name: str) -> Any:
    """Return an attribute of something of an unexpected kind; None where it has none."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _sizes(tensors: Sequence[Any]) -> tuple[int, ...]:
    """Return the bytes of each tensor; the usual case, a single one, is the fastest.

    Raises:
        RuntimeError: A tensor is sparse.
    """
    if not tensors:
        return ()
    if len(tensors) == 1:
        return (tensors[0].nbytes,)
    return tuple([tensor.nbytes for tensor in tensors])


def _flat(tensors: Any) -> list[Any]:
    """Return the tensors of an argument: one, a list of them, or a list of lists."""
    if not isinstance(tensors, (list, tuple)):
        return [tensors]
    nested: Iterable[Any] = tensors
    return [tensor for part in nested for tensor in _flat(part)]
