"""Options of ``run`` and ``tune`` from a file: TOML, or the ``study.json`` of another study.

What a file says takes the place of the options' defaults, so that the command line and variables
of the environment go before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from bench_apts.core.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_IN_FILES = frozenset({"--config", "--help"})


def _apply(context: typer.Context, config: Path | None) -> Path | None:
    """Let a file's options be the defaults of a command; eager, before they are looked up."""
    if config is None or context.resilient_parsing:
        return config
    # A file for `run` serves `tune` too, which has fewer options.
    known = _options(_run_command(context)) | _options(context.command)
    own = {option.name for option in context.command.params}
    found = {}
    for key, value in _read(config).items():
        if key not in known:
            raise unknown(f"key of {config}", key, known)
        option = known[key]
        written = _written(f"{config}: key '{key}'", value, option)
        try:
            option.process_value(context, written)
        except typer.BadParameter as error:
            message = error.message.removeprefix("Value error, ").rstrip(".")
            raise UserError(f"{config}: key '{key}': {message}") from error
        if option.name in own:
            found[option.name] = written
    context.default_map = found
    return config


ConfigFile = Annotated[Path | None, Option(
    "--config", metavar="FILE", is_eager=True, callback=_apply, show_default=False,
    help="Options from a TOML file, or the study of a study.json; other options go before it "
         "(docs/formats.md).")]


def _run_command(context: typer.Context) -> Any:
    group: Any = context.parent.command if context.parent else None
    return group.get_command(context.parent, "run") if group else context.command


def _options(command: Any) -> dict[str, Any]:
    """Return a command's options by their names without dashes."""
    return {name.removeprefix("--"): option for option in command.params for name in option.opts
            if name.startswith("--") and name not in _NOT_IN_FILES}


def _read(path: Path) -> Mapping[str, Any]:
    """Return options by name.

    Raises:
        UserError: The file cannot be read, or is neither TOML nor a ``study.json``.
    """
    if path.suffix == ".toml":
        from bench_apts.core.configuration import read_toml

        return read_toml(path, "study file")
    if path.suffix != ".json":
        raise UserError(f"--config {path}: name a .toml file or the study.json of a results "
                        "folder")
    from bench_apts.study import resolve

    study = resolve.stored_study(path)
    assert study is not None
    names = (entry.optimizer + "".join(entry.label.partition("[")[1:]) for entry in study.entries)
    return {"gpus": list(study.ranks), "optimizers": list(names), "trials": study.trials,
            "seeds": study.seeds, "base-seed": study.base_seed, "twins": study.twins,
            "sampler": study.sampler, "pruner": study.pruner, "space": study.space,
            "share": study.share}


def _written(where: str, value: Any, option: Any) -> Any:
    """Return a value as the command line has it: text, a list of texts, or a truth value."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UserError(f"{where}: expected true or false, got {value!r}")
        return value
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str | int | float) and not isinstance(each, bool)
                             for each in values):
        raise UserError(f"{where}: expected a text, a number or a list of them, got {value!r}")
    texts = [str(each) for each in values]
    return texts if option.multiple else ",".join(texts)
