"""A suite's file with a new target; comments and everything else stay as they are."""

from __future__ import annotations

import os
import site
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit

from bench_apts.core import configuration
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_bytes
from bench_apts.plugins import registry

if TYPE_CHECKING:
    from bench_apts.core.spec import Provenance, Target

def missing_target(name: str) -> tuple[str, ...]:
    """Return values, as ``--set`` takes them, of what a suite's file need not say yet.

    Args:
        name: The suite's name or file.
    """
    target = configuration.read_toml(registry.suite_path(name), "suite").get("target")
    if not isinstance(target, dict):
        return ()
    floor = target.get("floor")
    value = floor if isinstance(floor, int | float) and floor > 0 else 1.0
    return (*([] if "value" in target else [f"suite.target.value={value}"]),
            *([] if "provenance" in target else [
                "suite.target.provenance={optimizer = 'none', trials = 0, seeds = 0}"]))


def require_writable_file(name: str) -> Path:
    """Return the file of a suite that is to be given a target.

    Raises:
        UserError: It belongs to an installed package, or cannot be written.
    """
    path = registry.suite_path(name).resolve()
    if ".toml" not in name and any(path.is_relative_to(each) for each in _installed()):
        raise UserError(f"suite {name} is part of an installed package; copy {path}, and "
                        "calibrate the copy by its path")
    if not os.access(path, os.W_OK):
        raise UserError(f"cannot write {path}; make it writable, or leave out --write")
    return path


def _installed() -> set[Path]:
    places = {*site.getsitepackages(), site.getusersitepackages(),
              sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return {Path(place).resolve() for place in places}


def target_fragment(target: Target, variant: str = "") -> str:
    """Return a target as it stands in a suite's file, or in the table of its variant."""
    table = {"metric": target.metric, "direction": target.direction, "value": target.value,
             "provenance": _table(target.provenance)}
    whole = {"target": table}
    return tomlkit.dumps({"variant": {variant: whole}} if variant else whole).strip()


def write_target(path: Path, target: Target, variant: str = "") -> None:
    """Write value and provenance of a target into a suite's file; a new value is a new version.

    Args:
        path: The file.
        target: The target.
        variant: The variant of the suite that it belongs to; "" for the suite itself.

    Raises:
        UserError: The file cannot be read or written.
    """
    try:
        document: Any = tomlkit.parse(path.read_bytes().decode())
        place = document["variant"][variant] if variant else document
        if variant and "target" not in place:
            place["target"] = {}
        table = place["target"]
        if table.get("value", target.value) != target.value:
            table["version"] = table.get("version", 1) + 1
        table["value"] = target.value
        if "provenance" in table:
            for key, value in _table(target.provenance).items():
                table["provenance"][key] = value
        else:
            table["provenance"] = _table(target.provenance)
        write_bytes(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; copy the target from above into "
                        "it") from error
    except (ValueError, KeyError) as error:  # it was changed while trials ran
        raise UserError(f"{path} is not a valid suite file: {error}; copy the target from above "
                        "into it") from error


def _table(provenance: Provenance) -> dict[str, Any]:
    return {"optimizer": provenance.optimizer, "trials": provenance.trials,
            "seeds": provenance.seeds, "note": provenance.note}
