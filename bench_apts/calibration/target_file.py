"""A suite's file with a new target; comments and everything else stay as they are."""

from __future__ import annotations

import os
import site
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit

from bench_apts import registry, store, toml
from bench_apts.errors import UserError

if TYPE_CHECKING:
    from bench_apts.spec import Provenance, Target


def missing(name: str) -> tuple[str, ...]:
    """Return values, as ``--set`` takes them, of what a suite's file need not say yet.

    Args:
        name: The suite's name or file.
    """
    target = toml.read(registry.suite_path(name), "suite").get("target")
    if not isinstance(target, dict):
        return ()
    return (*([] if "value" in target else ["suite.target.value=1.0"]),
            *([] if "provenance" in target else [
                "suite.target.provenance={optimizer = 'none', trials = 0, seeds = 0}"]))


def writable(name: str) -> Path:
    """Return the file of a suite that is to be given a target.

    Raises:
        UserError: It belongs to an installed package, or cannot be written.
    """
    path = registry.suite_path(name).resolve()
    if not name.endswith(".toml") and any(path.is_relative_to(each) for each in _installed()):
        raise UserError(f"suite {name} is part of an installed package; copy {path}, and "
                        "calibrate the copy by its path")
    if not os.access(path, os.W_OK):
        raise UserError(f"cannot write {path}; make it writable, or leave out --write")
    return path


def _installed() -> set[Path]:
    places = {*site.getsitepackages(), site.getusersitepackages(),
              sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return {Path(place).resolve() for place in places}


def fragment(target: Target) -> str:
    """Return a target as it stands in a suite's file."""
    kept = {"metric": target.metric, "direction": target.direction, "value": target.value,
            "provenance": _table(target.provenance)}
    return tomlkit.dumps({"target": kept}).strip()


def write(path: Path, target: Target) -> None:
    """Write value and provenance of a target into a suite's file.

    Raises:
        UserError: The file cannot be read or written.
    """
    try:
        document = tomlkit.parse(path.read_bytes().decode())
        table: Any = document["target"]
        table["value"] = target.value
        if "provenance" in table:
            for key, value in _table(target.provenance).items():
                table["provenance"][key] = value
        else:
            table["provenance"] = _table(target.provenance)
        store.write_bytes(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; copy the target from above into "
                        "it") from error
    except (ValueError, KeyError) as error:  # it was changed while trials ran
        raise UserError(f"{path} is no longer a suite: {error}; copy the target from above into "
                        "it") from error


def _table(provenance: Provenance) -> dict[str, Any]:
    return {"optimizer": provenance.optimizer, "trials": provenance.trials,
            "seeds": provenance.seeds, "note": provenance.note}
