"""``bench-apts new``: a commented suite or optimizer that runs, to be changed part by part."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bench_apts.core.errors import UserError


class NewKind(StrEnum):
    """What to make."""

    suite = "suite"
    optimizer = "optimizer"


def command(
    what: Annotated[NewKind, Argument(help="What to make.", show_default=False)],
    name: Annotated[str, Argument(
        metavar="NAME", help="Its name; the files are called NAME.toml and NAME.py, or NAME.py "
                             "and test_NAME.py.",
        show_default=False)],
    folder: Annotated[Path, Option(
        help="Where to write them; made if it is not there.")] = Path("."),
) -> None:
    """Write a small suite or optimizer that runs, with comments.

    A suite is a TOML file, and data and network in Python; an optimizer is one Python file, and
    its test.
    """
    _require_name(name, what)
    if what is NewKind.suite:
        endings = {f"{name}.toml": "suite.toml", f"{name}.py": "suite.py"}
    else:
        endings = {f"{name}.py": "new_optimizer.py", f"test_{name}.py": "new_optimizer_test.py"}
    templates = files("bench_apts") / "templates"
    contents = {folder / file: (templates / template).read_text("utf-8").replace("NAME", name)
                for file, template in endings.items()}
    _write(contents)
    first, last = (shlex.quote(os.fspath(path)) for path in contents)
    print(f"wrote {' and '.join(map(str, contents))}; next:")
    print(f"  bench-apts test {first}")
    if what is NewKind.suite:
        print(f"  bench-apts run --suite {first} --gpus 1,2 --optimizers apts,sgd,adam --trials 4")
    else:
        print(f"  python -m pytest {last}")
        print(f"  bench-apts run --optimizers {first},adam,apts --gpus 1,2 --trials 4")


def _require_name(name: str, what: NewKind) -> None:
    """Refuse what no suite or optimizer, or its file, can be called.

    Raises:
        UserError: ``name`` is not allowed, or that of an installed one.
    """
    import msgspec

    from bench_apts.core.spec import Suite
    from bench_apts.plugins import registry

    suite = what is NewKind.suite
    article = "a" if suite else "an"
    kind = next(f.type for f in msgspec.structs.fields(Suite) if f.name == "name")
    try:
        msgspec.convert(name, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{article} {what} cannot be called '{name}': "
                        "write up to 64 letters, digits, dots, underscores and hyphens, a letter "
                        "or digit first") from error
    if name.endswith((".toml", ".py")):
        raise UserError(f"'{name}' is a file's name; leave out the ending")
    if name in (registry.suite_names() if suite else registry.optimizer_names()):
        origin = registry.suite_origin(name) if suite else registry.optimizer_origin(name)
        raise UserError(f"there is {article} {what} '{name}' already, {origin}; choose another "
                        "name")


def _write(contents: dict[Path, str]) -> None:
    """Write new files, all or none.

    Raises:
        UserError: One exists already, or cannot be written.
    """
    for path in contents:
        if os.path.lexists(path):
            raise UserError(f"{path} exists already; choose another name or --folder")
    made: list[Path] = []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(content)
    except OSError as error:
        for path in made:
            with suppress(OSError):
                path.unlink()
        raise UserError(f"cannot write {error.filename or path}: {error.strerror}; choose another "
                        "--folder") from error
