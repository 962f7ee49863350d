"""What users write, damaged in any way: a result or a UserError, and nothing is read or run."""

import resource
import tomllib

import msgspec
import pytest
from answers import Answer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import PIECES, STRANGE, changed, damaged, toml

from bench_apts.core import configuration
from bench_apts.core.spec import Entry, Study, Suite
from bench_apts.plugins import registry, suite_file
from bench_apts.stats import network_model
from bench_apts.study import preflight, resolve
from bench_apts.study.plan import Plan
from bench_apts.study.preflight import preflight_suite
from bench_apts.tasks import named_tasks

FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
CHANCE = st.randoms(use_true_random=False)
SUITES = sorted(registry.suite_names())
WORDS = st.one_of(
    st.text(), st.sampled_from([str(value)[:5_000] for value in STRANGE]),
    st.sampled_from([piece.decode(errors="replace") for piece in PIECES]),
    st.integers().map(str), st.floats().map(str))


def suite_text(name):
    return registry.suite_path(name).read_bytes()


@FUZZ
@given(st.sampled_from(SUITES), CHANCE, st.integers(1, 3), st.booleans())
def test_damaged_suites_are_read_or_refused(
        planted, effects, tmp_path_factory, name, chance, times, structured):
    content = suite_text(name)
    if structured:
        value = tomllib.loads(content.decode())
        for _ in range(times):
            value = changed(value, chance)
        content = toml(value).encode(errors="surrogatepass") if isinstance(value, dict) else b""
    else:
        for _ in range(times):
            content = damaged(content, chance)
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(content)
    named_tasks.names()  # looks at the installed packages, once in a process
    suite = None
    with effects.watched() as seen, Answer():
        suite = suite_file.load(path)
    assert set(seen) == {("open", str(path))}
    assert not planted.exists()
    if suite is not None:
        assert msgspec.json.decode(msgspec.json.encode(suite), type=Suite) == suite


@settings(FUZZ, max_examples=60)
@given(CHANCE, st.integers(1, 2))
def test_a_suite_that_is_read_is_planned_or_refused_before_memory_is_eaten(
        planted, digits, tmp_path_factory, chance, times):
    value = tomllib.loads(suite_text("digits").decode())
    for _ in range(times):
        value = changed(value, chance)
    path = tmp_path_factory.getbasetemp() / "changed.toml"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Answer():
        path.write_text(toml(value), encoding="utf-8", errors="replace")
        suite = suite_file.load(path)
        asked = Study((suite,), (Entry("sgd", "sgd"),), (1, 2), 2, 1, 0, "cpu")
        prepared = preflight.prepare_data(asked, None, offline=True)
        Plan(asked, prepared).tuning()
        preflight_suite(asked, suite, prepared[suite.data.name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB
    assert not planted.exists()


ABSURD = {
    "a model of 10^12 parameters": ("suite.model.options.hidden=[1_000_000, 1_000_000]",),
    "a model beyond 64 bits": ("suite.model.options.hidden=[4_000_000_000_000_000_000, 2]",),
    "a batch of 2^62": ("suite.batch_size=4_611_686_018_427_387_904",
                        "suite.budget.samples=9_000_000_000_000_000_000"),
    "a residual network of 10^9 blocks": ("suite.model.name=resnet",
                                          "suite.model.options.blocks=[1_000_000_000]"),
    "stages that double for ever": ("suite.model.name=resnet",
                                    f"suite.model.options.blocks={[1] * 60}"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_in_one_line(cli, monkeypatch, tmp_path, name):
    monkeypatch.setattr("bench_apts.study.scheduler.Launcher", NoLauncher)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    changes = [word for change in ABSURD[name] for word in ("--set", change)]
    done = cli("run", "--gpus", "1", "--optimizers", "sgd", "--offline", *changes)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("bench-apts: suite digits: ")
    assert not list(tmp_path.rglob("*.jsonl"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


class NoLauncher:
    """Stands in for the warm server, which these studies never reach."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--gpus", "1000000000"), "1,000,000,000 ranks take at least"),
    (("--gpus", str(10**4_000)), "write world sizes from 1 on"),
    (("--gpus", "9" * 5_000), "write world sizes from 1 on"),
    (("--trials", str(10**12)), "--trials 1000000000000: at most 10,000"),
    (("--seeds", str(10**12)), "--seeds 1000000000000: at most 10,000"),
    (("--base-seed", str(2**63)), "--base-seed 9223372036854775808: at most"),
    (("--base-seed", str(-2**70)), "--base-seed -1180591620717411303424: at most"),
    (("--set", "suite.budget.seconds=1e300"), "key 'budget.seconds': expected `float` <="),
    (("--set", "suite.batch_size=0x" + "f" * 9_000), "key 'batch_size': expected a number of"),
    (("--set", "suite.model.options." + ".".join("a" * 20_000) + "=1"), "nested deeper than 32"),
    (("--optimizers", "a" * 5_000 + ".py"), "no optimizer file aaa"),
    (("--optimizers", "sgd[lr=0x" + "f" * 9_000 + "]"), "expected float, got str"),
    (("--optimizers", "apts[minibatch=99999999999999999999]"), "expected int, got float"),
    (("--suite", "x" * 100_000), "unknown suite 'xxx"),
    (("--suite", "zero.toml"), "zero.toml is not a regular file"),
    (("--suite", "\x1b]0;owned\x07"), r"unknown suite '\x1b]0;owned\x07'"),
], ids=lambda value: value[0] + value[1][:12] if isinstance(value, tuple) else "")
def test_absurd_arguments_are_refused_in_one_line(cli, tmp_path, arguments, expected):
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    done = cli("run", "--optimizers", "sgd", "--offline", "--dry-run", *arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert expected in line
    assert line.isprintable()
    assert len(line) < 1_100


@pytest.mark.parametrize("text", [
    "," * 130_000, "a," * 65_000, "a[,]" * 30_000, "[" * 130_000, "]" * 130_000,
    "a[" + "," * 130_000], ids=lambda text: text[:6])
def test_long_lists_of_selectors_take_time_in_proportion(text):
    """A quadratic split takes 20 s for as much as one argument can hold; this is a second."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    configuration.split_selectors(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5


@FUZZ
@given(WORDS, WORDS, st.sampled_from(["{}", "sgd[{}={}]", "sgd[lr={}]", "apts[{},{}]", "{}[{}]",
                                      "apts[minibatch={}]", "{}.py", "sgd,{}"]))
def test_selectors_are_understood_or_refused(planted, word, other, form):
    text = form.format(word, other)
    if text.strip() == "planted.py":  # the one name that may be run, since it is named
        return
    for part in configuration.split_selectors(text):
        with Answer() as answer:
            entry = configuration.parse_selector(part)
            registry.optimizer(entry.optimizer).backend.configure(entry.pinned)
        if not answer.refused:
            assert msgspec.json.decode(msgspec.json.encode(entry), type=Entry) == entry
    assert not planted.exists() or "planted.py" in text


def test_a_plugin_runs_when_it_is_named_and_only_then(cli, planted):
    assert cli("list", "optimizers").code == 0
    assert cli("run", "--dry-run", "--offline", "--optimizers", "sgd").code == 0
    assert not planted.exists()
    done = cli("run", "--dry-run", "--offline", "--optimizers", planted.with_name("planted.py"))
    assert done.code == 2
    assert "is no bench_apts.contract.Backend" in done.err
    assert planted.exists()


@FUZZ
@given(st.lists(st.sampled_from(["suite", "batch_size", "budget", "samples", "model", "options",
                                 "target", "levels", "name", "", " ", "é", "`", "]"])
                | st.text(), max_size=6).map(".".join), WORDS)
def test_overrides_are_understood_or_refused(planted, key, value):
    with Answer() as answer:
        suite = registry.suite("digits", (f"suite.{key}={value}",))
    if not answer.refused:
        assert msgspec.json.decode(msgspec.json.encode(suite), type=Suite) == suite
    assert not planted.exists()


@FUZZ
@given(WORDS | st.lists(st.integers(), max_size=4).map(lambda n: ",".join(map(str, n))))
def test_world_sizes_are_understood_or_refused(text):
    with Answer() as answer:
        device, ranks = resolve.world_sizes(text, [])
    if not answer.refused:
        assert device in ("cpu", "cuda")
        assert all(1 <= rank < 2**31 for rank in ranks)
        assert len(set(ranks)) == len(ranks)


@settings(FUZZ, max_examples=60)
@given(CHANCE, st.booleans())
def test_damaged_fabrics_are_read_or_refused(tmp_path_factory, chance, structured):
    text = (registry.files("bench_apts.stats") / "fabrics.toml").read_bytes()
    content = (toml(changed(tomllib.loads(text.decode()), chance)).encode(errors="replace")
               if structured else damaged(text, chance))
    path = tmp_path_factory.getbasetemp() / "fabrics.toml"
    path.write_bytes(content)
    with Answer():
        network_model.load_fabrics(path)
