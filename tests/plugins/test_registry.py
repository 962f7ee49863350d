"""Finding optimizers and suites: installed ones, and files by their paths."""

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from bench_apts.core.errors import UserError
from bench_apts.plugins import entry_points, registry


@pytest.fixture
def installed(monkeypatch):
    """Lets tests install entry points in addition to the real ones."""
    real = entry_points.entry_points

    def install(*entries):
        monkeypatch.setattr(entry_points, "entry_points", lambda group: [
            *real(group=group), *(e for e in entries if e.group == group)])
        registry.forget()

    yield install
    monkeypatch.undo()
    registry.forget()


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown optimizer 'adm'; did you mean adam or nadamw"):
        registry.optimizer("adm")
    with pytest.raises(UserError, match=r"unknown suite 'digit'; did you mean digits"):
        registry.suite("digit")
    with pytest.raises(UserError, match=r"unknown suite 'qqqq'\. Known: .*digits"):
        registry.suite("qqqq")


@pytest.mark.parametrize("name", registry.suite_names())
def test_every_installed_suite_is_valid_and_named_as_its_file(name):
    assert registry.suite(name).name == name
    assert registry.suite_origin(name)


def test_a_suite_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    source = registry.suite_path("digits").read_text(encoding="utf-8")
    path.write_text(source.replace('name = "digits"\nsummary', 'name = "mine"\nsummary'))
    assert registry.suite(str(path), ("suite.batch_size=32",)).name == "mine"
    assert registry.suite_origin(str(path)) == str(path)
    with pytest.raises(UserError, match="cannot read suite"):
        registry.suite(str(tmp_path / "other.toml"))


def test_an_optimizer_by_its_path(plugin):
    path = plugin()
    found = registry.optimizer(str(path))
    assert found.backend.name == "mine"
    assert found.origin == found.reference == str(path)
    assert len(found.sha256) == 64


def test_a_trial_names_the_installed_backend_not_a_file_of_the_same_name(plugin):
    assert registry.installed_backend("bench_apts.optimizers.sgd:backend").name == "sgd"
    assert registry.installed_backend(str(plugin())) is None
    assert registry.installed_backend("gone.package:backend") is None


def test_the_source_hash_follows_the_source(plugin, tmp_path):
    path = plugin()
    first = registry.optimizer(str(path)).sha256
    assert registry.optimizer(str(path)).sha256 == first
    path.write_text(path.read_text() + "\n# changed\n")
    assert registry.optimizer(str(path)).sha256 != first


def test_the_source_hash_follows_declared_modules_and_packages(plugin, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "part_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("x = 1\n")
    (tmp_path / "helper_of_mine.py").write_text("y = 1\n")
    path = plugin(options='sources=("part_of_mine", "helper_of_mine", "no_such.module"),')
    hashes = [registry.optimizer(str(path)).sha256]
    (package / "inner.py").write_text("x = 2\n")
    hashes.append(registry.optimizer(str(path)).sha256)
    (tmp_path / "helper_of_mine.py").write_text("y = 2\n")
    hashes.append(registry.optimizer(str(path)).sha256)
    assert len(set(hashes)) == 3


def test_a_plugin_file_may_define_dataclasses(plugin):
    path = plugin()
    path.write_text(path.read_text() + (
        "\nfrom dataclasses import dataclass\n\n@dataclass\nclass Settings:\n    lr: float = 1\n"))
    assert registry.optimizer(str(path)).backend.name == "mine"


@pytest.mark.parametrize(("content", "expected"), [
    ("", "is no bench_apts.contract.Backend; a plug-in file defines one"),
    ("backend = 3", "is no bench_apts.contract.Backend"),
    ("import no_such_package", "cannot be imported: ModuleNotFoundError"),
    ("def broken(:", "cannot be imported: SyntaxError"),
    ("raise RuntimeError('of all things')", "cannot be imported: RuntimeError: of all things"),
])
def test_a_file_that_is_no_plugin_is_named_with_the_reason(tmp_path, content, expected):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        registry.optimizer(str(path))
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no optimizer file .*none\.py"):
        registry.optimizer(str(tmp_path / "none.py"))


def test_two_distributions_must_not_offer_the_same_name(installed):
    installed(EntryPoint("sgd", "somewhere.else:backend", registry.OPTIMIZERS))
    with pytest.raises(UserError, match="'sgd' is offered twice"):
        registry.optimizer("sgd")


def test_one_broken_distribution_does_not_hide_the_others(installed, cli):
    installed(EntryPoint("theirs", "no_such_package:backend", registry.OPTIMIZERS))
    with pytest.raises(UserError, match=r"'theirs' .*cannot be imported: ModuleNotFoundError"):
        registry.optimizer("theirs")
    listed = cli("list", "optimizers")
    assert listed.code == 0
    assert "sgd" in listed.out
    assert "theirs" in listed.out
    assert "unavailable" in listed.out


def test_installed_suites_of_others_are_found(installed, tmp_path, monkeypatch):
    package = tmp_path / "suites_of_others"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = registry.suite_path("digits").read_text(encoding="utf-8")
    (package / "theirs.toml").write_text(source.replace('"digits"\nsummary', '"theirs"\nsummary'))
    monkeypatch.syspath_prepend(tmp_path)
    installed(EntryPoint("others", "suites_of_others", registry.SUITES))
    assert {"theirs", "digits"} <= set(registry.suite_names())
    assert registry.suite("theirs").name == "theirs"


def test_built_in_names_say_so():
    assert registry.optimizer("sgd").origin == "built in"
    assert registry.suite_origin("digits") == "built in"
    entry = SimpleNamespace(dist=None)
    assert entry_points.distribution(entry) == "unknown"
