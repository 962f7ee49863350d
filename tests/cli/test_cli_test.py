"""``bench-apts test``: what it takes for an optimizer, and mistakes in one."""

import pytest

from bench_apts.plugins import registry


def test_an_optimizer_that_cannot_train_fails_with_its_line(cli, plugin):
    path = plugin(on_step="raise ValueError('no luck')")
    done = cli("test", f"{path}[lr=0.2]")
    assert (done.code, done.err) == (2, "")
    *lines, last = done.out.splitlines()
    levels = {line[9:].partition(":")[0]: line.split()[0] for line in lines}
    assert [name for name, level in levels.items() if level == "failed"] == ["training"]
    failed = next(line for line in lines if line.startswith("failed"))
    assert "N = 1" in failed
    assert "no luck (mine.py:" in failed
    assert last == "1 failure, 0 warnings"


@pytest.mark.parametrize(("text", "token"), [
    ("import nowhere_to_be_found", "nowhere_to_be_found"), ("x = 1", "Backend"),
    ("raise SystemExit(3)", "SystemExit"), ("def", "SyntaxError"),
])
def test_a_file_that_is_no_optimizer_is_one_line(cli, tmp_path, text, token):
    (tmp_path / "bad.py").write_text(text)
    done = cli("test", "bad.py")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert "bad.py" in done.err
    assert token in done.err


def test_an_unavailable_one_is_one_line(cli, plugin):
    done = cli("test", plugin(options='requires=("nowhere_to_be_found",),'))
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert "nowhere_to_be_found" in done.err


@pytest.mark.parametrize(("name", "token"), [
    ("none.py", "no optimizer file"), ("sgd[learning=1]", "unknown hyperparameter"),
    ("none[lr=1]", "unknown optimizer"), ("adm", "did you mean adam"),
    ("digit", "did you mean digits"), ("apts@large", "unknown suite 'apts'"),
    ("sgd[lr", "is not a selector"),
])
def test_mistakes_are_one_line(cli, name, token):
    done = cli("test", name)
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert token in done.err


def test_a_name_of_both_kinds_asks_which_is_meant(cli, monkeypatch):
    monkeypatch.setattr(registry, "optimizer_names", lambda: ["digits"])
    done = cli("test", "digits")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert "digits.toml" in done.err
    assert "digits[]" in done.err
