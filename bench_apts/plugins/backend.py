"""What an optimizer plug-in declares: one ``Backend``, checked when it is made.

Importing this module does not import torch, and a backend's module should not either before
its ``build`` is called: ``bench-apts list`` reads all of them.
"""

from __future__ import annotations

import contextlib
import operator
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from bench_apts.core.configuration import Hyperparameter, coerce
from bench_apts.core.errors import UserError, unknown
from bench_apts.core.gpu_devices import cuda_compiler, gpu_count
from bench_apts.plugins import backend_checks
from bench_apts.plugins.optimizer_contract import Build, Sampling, TrafficFormula

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec

    from bench_apts.core.spec import Scalar

_CALLS = {"build": ("model", "loss", "values", "world"),
          "batch_size": ("suite_batch", "values", "ranks"),
          "sampling": ("values",)}
"""The arguments, all by position, that the harness calls a backend's functions with."""


@dataclass(frozen=True)
class Backend:
    """An optimizer as the harness sees it: metadata, knobs and a way to build a stepper.

    Attributes:
        name: As written in ``--optimizers``.
        summary: One line for ``bench-apts list``.
        hyperparameters: By name. The search space belongs to the optimizer, not to a suite.
        build: Makes a stepper from the model (already on the device, the same weights on every
            rank), the loss, the hyperparameters and the world.
        tuning_free: Claims that its defaults serve everywhere; it is then never tuned.
        requires: Importable packages it needs.
        install: What ``pip install`` takes to bring them, for instance
            ``"bench-apts[rivals]"``, several with a space between them; names of modules are not
            those of distributions.
        gpu_only: Why it runs on GPUs alone; "" where it runs on CPUs too.
        nvcc: Whether CUDA's compiler builds kernels of it when it is first used.
        min_ranks: The smallest world it makes sense in.
        batch_size: Given the suite's global batch, the hyperparameters and N, the global batch
            this optimizer wants; None for the suite's.
        sampling: Given the hyperparameters, how minibatches overlap and grow; None for neither.
        presets: Bundles of defaults, chosen by a hyperparameter named ``preset``; what the user
            pins overrides them.
        ordered: Configurations that tuning tries in this order instead of drawing, one a trial
            and no trial more than there are; what the user pins overrides them.
        follows: Name of the optimizer whose trajectory this one claims to take, with the same
            hyperparameters and the same search space: that one's search may then serve both.
        space_version: Raised for a fresh series of draws. Optimizers with equal spaces and equal
            versions draw equal configurations.
        sources: Further modules or packages whose source decides what it does; with the file
            that defines ``build`` they make the plug-in's hash.
        moves_weights: Whether ``evaluation_model`` puts other weights into the model than those
            that are trained, for instance an average; else a trial in which it does is an error.
        rank_invariant: Whether N ranks take the steps of one rank on the same global minibatch, up
            to rounding; `bench-apts test` then compares them.
        family: What reports call the method that this optimizer stands for, for instance
            ``"APTS"``. They say how each family fared, and compare the others with the cheapest
            optimizer that declares one. "" for none.
        traffic: The bytes it must send; None where no formula is known.
        saves_communication: Sends less than a sum of gradients a step though no formula says so;
            it belongs to the group ``low-communication`` then.
        developed_on: Names of the suites on whose validation splits its defaults were chosen.

    Raises:
        UserError: A field cannot be used as declared; names the backend, the field and what was
            expected.
    """

    name: str
    summary: str
    hyperparameters: Mapping[str, Hyperparameter]
    build: Build
    tuning_free: bool = False
    requires: tuple[str, ...] = ()
    install: str = ""
    gpu_only: str = ""
    nvcc: bool = False
    min_ranks: int = 1
    batch_size: Callable[[int, Mapping[str, Any], int], int] | None = None
    sampling: Callable[[Mapping[str, Any]], Sampling] | None = None
    presets: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    ordered: tuple[Mapping[str, Scalar], ...] = ()
    follows: str = ""
    space_version: int = 1
    sources: tuple[str, ...] = ()
    moves_weights: bool = False
    rank_invariant: bool = False
    family: str = ""
    traffic: TrafficFormula | None = None
    saves_communication: bool = False
    developed_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        backend_checks.require_name("a backend's name", self.name)
        if self.name.endswith(".py"):
            raise UserError(f"a backend's name: {backend_checks.shown(self.name)} would be taken "
                            "for a file; leave out .py")
        where = self.name
        for name, kind in {"summary": str, "install": str, "gpu_only": str, "follows": str,
                           "family": str, "nvcc": bool, "tuning_free": bool,
                           "moves_weights": bool, "rank_invariant": bool,
                           "saves_communication": bool, "space_version": int,
                           "min_ranks": int}.items():
            backend_checks.require_type(f"{where}: {name}", getattr(self, name), kind)
        if self.min_ranks < 1:
            backend_checks.fail(f"{where}: min_ranks", "a number of at least 1", self.min_ranks)
        if self.follows == where:
            backend_checks.fail(f"{where}: follows", "the name of another optimizer", self.follows)
        for name in ("requires", "sources"):
            for module in backend_checks.require_tuple(f"{where}: {name}", getattr(self, name)):
                if not isinstance(module, str) or not all(
                        part.isidentifier() for part in module.split(".")):
                    backend_checks.fail(f"{where}: {name}",
                                        "names of modules as `import` takes them", module)
        for suite in backend_checks.require_tuple(f"{where}: developed_on", self.developed_on):
            if not isinstance(suite, str):
                backend_checks.fail(f"{where}: developed_on", "names of suites", suite)
        for name, arguments in _CALLS.items():
            function = getattr(self, name)
            if function is not None or name == "build":
                backend_checks.require_function(f"{where}: {name}", function, arguments)
        self._check_traffic()
        backend_checks.check_hyperparameters(where, self.hyperparameters)
        backend_checks.check_bundles(where, self.hyperparameters, self.presets, self.ordered)
        turned = [name for name, knob in self.hyperparameters.items() if knob.search or knob.wide]
        if self.tuning_free and (turned or self.ordered):
            what = f"the search of {turned[0]}" if turned else "ordered configurations"
            raise UserError(f"{where}: tuning_free contradicts {what}; leave one of them out")

    def _check_traffic(self) -> None:
        where, formula = f"{self.name}: traffic", self.traffic
        if formula is None:
            return
        if not isinstance(formula, TrafficFormula):
            backend_checks.fail(where, "a TrafficFormula", formula)
        backend_checks.require_type(f"{where}: words", formula.words, str)
        backend_checks.require_type(f"{where}: note", formula.note, str)
        if formula.unit not in ("step", "round"):
            backend_checks.fail(f"{where}: unit", "step or round", formula.unit)
        backend_checks.require_function(f"{where}: payloads", formula.payloads,
                                        ("parameters", "ranks"))
        for name in formula.where:
            if name not in self.hyperparameters:
                backend_checks.fail(f"{where}: where", "names of hyperparameters", name)

    def formula(self, values: Mapping[str, Scalar]) -> TrafficFormula | None:
        """Return the formula of the bytes at these hyperparameters; None if none is known.

        It is not, where a hyperparameter that it depends on is missing, as in records of an
        earlier version that lacked it.
        """
        if self.traffic is None:
            return None
        met = all(name in values and values[name] == value
                  for name, value in self.traffic.where.items())
        return self.traffic if met else None

    def unavailable(self) -> str | None:
        """Return why the backend cannot run here, or None if it can."""
        missing = [name for name in self.requires if not installed(name)]
        reasons = []
        if missing:
            packages = "package {} is" if len(missing) == 1 else "packages {} are"
            names = " ".join(f"'{each}'" for each in self.install.split())
            reasons.append(f"{packages.format(', '.join(missing))} not installed"
                           + (f": pip install {names}" if names else ""))
        if self.gpu_only and not gpu_count():
            reasons.append(f"needs GPUs: {self.gpu_only}")
        if self.nvcc and not cuda_compiler():
            reasons.append("needs nvcc, which builds its kernels: install CUDA's toolkit, or set "
                           "CUDA_HOME to where it lies")
        return "; ".join(reasons) or None

    def searched(
        self, pinned: Mapping[str, Scalar] = {}, space: Literal["narrow", "wide"] = "narrow"
    ) -> dict[str, Hyperparameter]:
        """Return the hyperparameters that tuning turns and the user has not pinned.

        They are those that the ordered configurations name, or where there are none those with
        a distribution in the space, which is then their ``search``.
        """
        if self.ordered:
            turned = {key for values in self.ordered for key in values}
            known = {key: self.hyperparameters[key] for key in self.hyperparameters
                     if key in turned}
        else:
            known = {key: replace(knob, search=(space == "wide" and knob.wide) or knob.search)
                     for key, knob in self.hyperparameters.items()}
            known = {key: knob for key, knob in known.items() if knob.search is not None}
        return {key: knob for key, knob in known.items() if key not in pinned}

    def configure(self, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Complete ``values`` with the preset's settings and the defaults.

        Raises:
            UserError: A name is unknown, or a value is of another kind than the default, out of
                its range or not among the options.
        """
        full = {key: knob.default for key, knob in self.hyperparameters.items()}
        preset = self.presets.get(str(values.get("preset", full.get("preset"))), {})
        for key, value in {**preset, **values}.items():
            if key not in full:
                raise unknown(f"hyperparameter of {self.name}", key, full)
            full[key] = coerce(f"{self.name}[{key}={value}]", value, self.hyperparameters[key])
        return full

    def minibatch(self, suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
        """Return the global minibatch that this optimizer wants, in samples.

        Args:
            suite_batch: The suite's global minibatch.
            values: All hyperparameters.
            ranks: World size N.

        Raises:
            UserError: ``batch_size`` raises, or returns no whole number from 1 on.
        """
        if self.batch_size is None:
            return suite_batch
        where = f"{self.name}: batch_size({suite_batch}, …, {ranks})"
        found = _call(where, self.batch_size, suite_batch, values, ranks)
        try:
            number = 0 if isinstance(found, bool) else operator.index(found)
        except TypeError:
            number = 0
        if not 1 <= number < 2**63:
            raise UserError(f"{where} returned {backend_checks.shown(found)}, which cannot be "
                            f"shared by {ranks} ranks; expected a whole number of samples from 1 "
                            "on")
        return number

    def slicing(self, values: Mapping[str, Any]) -> Sampling | None:
        """Return how minibatches overlap and grow; None for neither.

        Raises:
            UserError: ``sampling`` raises, or returns no ``Sampling``.
        """
        if self.sampling is None:
            return None
        found = _call(f"{self.name}: sampling(…)", self.sampling, values)
        if not isinstance(found, Sampling):
            raise UserError(f"{self.name}: sampling(…) returned {backend_checks.shown(found)}; "
                            "expected a Sampling")
        return found


def _call(where: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a backend's function; its exceptions become errors that name the backend."""
    try:
        return function(*arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:
        raise UserError(f"{where} raised {type(error).__name__}: {error}") from error


def installed(module: str) -> bool:
    """Say whether a module, possibly inside a package, can be found."""
    return find_module(module) is not None


def find_module(module: str) -> ModuleSpec | None:
    """Return where a module is, or None if there is none.

    The packages around it are not imported, other than by ``importlib.util.find_spec``: some take
    seconds, and plug-ins are listed without torch.
    """
    spec, places = None, None
    names = module.split(".")
    for number in range(1, len(names) + 1):
        name = ".".join(names[:number])
        if name in sys.modules:
            loaded = sys.modules[name]
            spec = getattr(loaded, "__spec__", None)
            places = getattr(loaded, "__path__", None)
        elif number > 1 and places is None:
            return None
        else:
            spec = _find_spec(name, places)
            places = spec.submodule_search_locations if spec else None
    return spec


def _find_spec(name: str, places: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        with contextlib.suppress(Exception):
            if spec := finder.find_spec(name, places):
                return spec
    return None
