"""Mistakes that a user can make and mend: one line, exit code 2, no traceback."""

import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from bench_apts.core import files
from bench_apts.plugins import registry

RUN = ("run", "--suite", "digits", "--gpus", "1", "--optimizers", "sgd", "--offline")


def assert_one_line(done, *expected):
    assert done.code == 2
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("bench-apts: ")
    assert "Traceback" not in done.out + done.err
    for part in expected:
        assert part in done.err


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--suite", "digit"), ["unknown suite 'digit'; did you mean digits"]),
    (("--suite", "mnsit"), ["unknown suite 'mnsit'; did you mean mnist"]),
    (("--suite", "none.toml"), ["cannot read suite none.toml: No such file"]),
    (("--optimizers", "sgdd"), ["unknown optimizer 'sgdd'; did you mean sgd?"]),
    (("--optimizers", "none.py"), ["no optimizer file none.py"]),
    (("--optimizers", ""), ["--optimizers names none"]),
    (("--optimizers", "sgd[lr=fast]"), ["sgd[lr=fast]: expected float, got str"]),
    (("--optimizers", "sgd[lr=nan]"), ["sgd[lr=nan]: expected a finite number"]),
    (("--optimizers", "sgd[lr=-1]"), ["sgd[lr=-1]: expected a number above 0"]),
    (("--optimizers", "sgd[learning=1]"), ["unknown hyperparameter of sgd 'learning'"]),
    (("--optimizers", "sgd[lr=1"), ["is not a selector; write name or name[key=value"]),
    (("--gpus", "0"), ["--gpus 0: write world sizes from 1 on"]),
    (("--gpus", "two"), ["--gpus two: write world sizes from 1 on"]),
    (("--gpus", ""), ["write world sizes from 1 on"]),
    (("--device", "cuda"), ["there is no GPU here with CUDA_VISIBLE_DEVICES=", "--device cpu"]),
    (("--gpus", "3"), ["batch of 64 cannot be shared by 3 ranks", "--set suite.batch_size=66"]),
    (("--study", "../mine"), ["--study ../mine: write a name", "--out"]),
    (("--study", ".."), ["--study ..: write a name"]),
    (("--study", ""), ["--study : write a name"]),
    (("--set", "nonsense"), ["--set nonsense: write suite.KEY=VALUE"]),
    (("--set", "suite.batch=32"), ["unknown key 'batch'; did you mean batch_size or "]),
    (("--set", "suite.batch_size=many"), ["key 'batch_size': expected `int`, got `str`"]),
    (("--set", "suite.budget.seconds=inf"), ["'budget.seconds': expected a finite number"]),
    (("--data-dir", "nowhere", "--suite", "mnist"), ["data folder nowhere", "is not a folder"]),
    (("--set", "suite.summary=\udcff"), ["'suite.summary=\\udcff' is not valid UTF-8"]),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_mistakes_on_the_command_line(cli, arguments, expected):
    assert_one_line(cli(*RUN, *arguments), *expected)


@pytest.mark.parametrize("declared", [
    "0.1", "Hyperparameter(0.1, '', [1e-3, 1e-1])", "Hyperparameter(0.1, '', LogUniform(1, 1e-3))",
    "Hyperparameter(0.1, '', LogUniform(0, 1))"])
def test_a_plugin_file_that_cannot_be_used_is_named_with_its_line(cli, plugin, declared):
    path = plugin()
    text = path.read_text()
    path.write_text(text.replace(
        'Hyperparameter(0.1, "learning rate", LogUniform(1e-2, 1.0))', declared))
    line = text.splitlines().index("backend = Backend(") + 1
    assert_one_line(cli("run", "--optimizers", path, "--gpus", "1", "--offline"),
                    f"{path}:{line}: mine: hyperparameter lr: ", "expected")
    assert_one_line(cli("tune", "--optimizers", f"{path}[lr=0.2]", "--gpus", "1", "--offline"),
                    f"{path}:{line}: mine: hyperparameter lr: ")


@pytest.mark.parametrize(("options", "expected"), [
    ("batch_size=lambda batch, values, ranks: batch / 2,", "batch_size(64, …, 1) returned float"),
    ("sampling=lambda values: 2,", "sampling(…) returned int 2")])
def test_what_a_plugin_answers_is_checked_before_the_first_trial(cli, plugin, options, expected):
    done = cli("run", "--optimizers", plugin(options=options), "--gpus", "1", "--offline")
    assert_one_line(done, f"mine: {expected}")


@pytest.mark.parametrize(("assignment", "expected"), [
    ("suite.model.name=mpl", "unknown model 'mpl'; did you mean mlp?"),
    ("suite.model.options.hiden=[8]", "unknown option of model 'mlp' 'hiden'; did you mean hid"),
    ("suite.data.validation=5000", "data.validation = 5000 of the 1497 training samples"),
    ("suite.data.name=digit", "unknown data set 'digit'; did you mean digits?"),
])
def test_what_does_not_fit_is_found_before_the_first_trial(
        cli, monkeypatch, tmp_path, assignment, expected):
    monkeypatch.setattr("bench_apts.study.scheduler.Launcher", lambda *args: _NoLauncher())
    assert_one_line(cli(*RUN, "--set", assignment, "--out", tmp_path / "out"), expected)
    assert list(tmp_path.glob("out/digits/trials/*")) == []
    assert list(tmp_path.glob("out/digits/study.json")) == []


@pytest.mark.parametrize(("gpus", "lacks", "expected"), [
    (0, "torch.distributed.is_available", ["is built without gloo", "pytorch.org"]),
    (0, "torch.distributed.is_gloo_available", ["is built without gloo", "pytorch.org"]),
    (1, "torch.distributed.is_nccl_available", ["is built without NCCL", "pytorch.org"]),
    (1, "torch.backends.cuda.is_built", ["built without CUDA", "--device cpu"]),
])
def test_a_torch_that_lacks_what_ranks_need(
        cli, monkeypatch, tmp_path, gpus, lacks, expected):
    monkeypatch.setattr("bench_apts.study.scheduler.Launcher", lambda *args: _NoLauncher())
    monkeypatch.setattr("bench_apts.core.gpu_devices.gpu_count", lambda: gpus)
    for name in ("backends.cuda.is_built", "distributed.is_nccl_available"):
        monkeypatch.setattr(f"torch.{name}", lambda: True)
    monkeypatch.setattr(lacks, lambda: False)
    assert_one_line(cli(*RUN, "--out", tmp_path), *expected)
    assert not (tmp_path / "digits" / "study.json").exists()


class _NoLauncher:
    """Stands in for the warm server, which these mistakes never reach."""

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass


def test_broken_toml(cli, tmp_path):
    source = registry.suite_path("digits").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(source.replace("batch_size = 64", "batch_size ="))
    assert_one_line(cli(*RUN, "--suite", "mine.toml"), "mine.toml is not valid TOML", "line ")
    (tmp_path / "mine.toml").write_text(source.replace("batch_size = 64", "batch_size = 'x'"))
    assert_one_line(cli(*RUN, "--suite", "mine.toml"),
                    "mine.toml: key 'batch_size': expected `int`, got `str`")


def test_no_data(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_APTS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    done = cli(*RUN, "--suite", "mnist", "--data-dir", tmp_path / "data")
    assert_one_line(done, "no data for 'mnist'", str(tmp_path / "data"), "--data-dir",
                    "drop --offline")


def test_a_results_folder_that_cannot_be_made(cli, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(cli(*RUN, "--out", tmp_path / "file" / "below"), "cannot write to",
                    "choose another folder with --out")


@pytest.mark.parametrize(("theirs", "ours"), [("", ()), ("shared", ()), ("", ("--shared",))])
def test_a_results_folder_in_use(cli, tmp_path, theirs, ours):
    code = ("import sys; from pathlib import Path\n"
            "from bench_apts.study.shared_folder import open_results_folder\n"
            "with open_results_folder(Path(sys.argv[1]), bool(sys.argv[2])):\n"
            "    print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "digits"), theirs],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert_one_line(cli(*RUN, *ours, "--out", tmp_path), "another bench-apts is working in",
                        str(tmp_path / "digits"))
        holder.stdin.close()


def test_a_results_folder_that_cannot_be_locked(cli, tmp_path):
    (tmp_path / "digits" / ".lock.db").mkdir(parents=True)
    assert_one_line(cli(*RUN, "--out", tmp_path), "cannot write to", str(tmp_path / "digits"))


def test_too_little_disk(cli, monkeypatch, tmp_path, digits):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 10 * 2**20))
    assert_one_line(cli(*RUN, "--out", tmp_path), "has 10 MiB free, at least 64 MiB are needed")
    assert not (tmp_path / "digits" / "study.json").exists()


def test_a_full_disk_in_the_middle(cli, monkeypatch, tmp_path):
    def full(path, *args):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("bench_apts.study.scheduler.Launcher", lambda *args: _NoLauncher())
    monkeypatch.setattr(files, "write_bytes", full)
    assert_one_line(cli(*RUN, "--out", tmp_path), "study.json: No space left on device",
                    "finished trials are kept")


def test_a_missing_package(cli, plugin):
    path = plugin(options='requires=("no_such_package",),')
    assert_one_line(cli(*RUN, "--optimizers", f"sgd,{path}"), "is unavailable",
                    "package no_such_package is not installed")


@pytest.mark.parametrize("content", ["backend = 3", "import no_such_package", "def broken(:",
                                     "raise RuntimeError('two\\nlines')"])
def test_a_broken_plugin(cli, tmp_path, content):
    (tmp_path / "mine.py").write_text(content)
    assert_one_line(cli(*RUN, "--optimizers", "mine.py"), "mine.py")


def test_reports_of_what_is_no_results_folder(cli, tmp_path):
    assert_one_line(cli("report", tmp_path / "nowhere"), "is not a results folder")
    assert_one_line(cli("report", tmp_path), "is not a results folder", "study.json")
    (tmp_path / "study.json").write_text("{")
    assert_one_line(cli("report", tmp_path), "study.json is broken")
    (tmp_path / "study.json").write_text('{"schema": 99}')
    assert_one_line(cli("report", tmp_path), "install a newer bench-apts")


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--ranks", "8,x"), ["--ranks 8,x: write world sizes from 1 on"]),
    (("--ranks", "0"), ["--ranks 0: write world sizes from 1 on"]),
    (("--fabric", "eth10"), ["unknown fabric 'eth10'; did you mean eth10g"]),
    (("--fabric", ""), ["unknown fabric ''"]),
    (("--node-ranks", "8", "--node-fabric", "nvlink"), ["unknown fabric 'nvlink'"]),
    (("--node-ranks", "0"), ["--node-ranks"]),
    (("--algorithm", "rings"), ["'rings'"]),
    (("--algorithm", "hierarchical"), ["needs nodes of several ranks", "--node-ranks 8"]),
    (("--algorithm", "hierarchical", "--node-ranks", "8", "--ranks", "4,12"),
     ["--ranks 12 does not fill nodes of 8"]),
    (("--scaling", "both"), ["'both'"]),
    (("--fabrics", "none.toml"), ["cannot read fabrics none.toml: No such file"]),
    (("--fabrics", "."), ["cannot read fabrics: . is not a regular file"]),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_mistakes_in_projecting(cli, finished, arguments, expected):
    assert_one_line(cli("project", finished.folder, *arguments), *expected)


def test_checking_and_projecting_what_is_no_results_folder(cli, tmp_path):
    for command in ("check", "project"):
        assert_one_line(cli(command, tmp_path / "nowhere"), "is not a results folder")
        assert_one_line(cli(command, tmp_path), "is not a results folder", "study.json")


@pytest.mark.parametrize("arguments", [("cost", "--no-replay"), ("project",)])
def test_tables_that_cannot_be_written(cli, finished, tmp_path, arguments):
    folder = tmp_path / "digits"
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / "tables")
    (folder / "tables").write_text("")
    done = cli(arguments[0], folder, *arguments[1:])
    assert_one_line(done, f"cannot write {folder / 'tables'}", "copy the results folder")
    assert "digits: " in done.out


def test_a_comparison_that_cannot_be_written(cli, finished, tmp_path):
    done = cli("compare", finished.folder, "sgd", "adam", "--csv", tmp_path)
    assert_one_line(done, f"cannot write {tmp_path}", "name another file with --csv")
    assert "sgd" in done.out


def test_corrupt_records(cli, finished, undrawn, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(finished.folder, folder)
    path = min(folder.glob("trials/*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:-9] + b"\n", *lines[2:]]))
    assert_one_line(cli("report", folder), f"{path.name}, line 2", "corrupt, move it away")
    assert_one_line(cli(*finished.arguments, "--out", tmp_path), f"{path.name}, line 2")
    path.unlink()
    assert cli("report", folder).code == 0


def test_the_real_command_too_ends_in_one_line(command, tmp_path):
    done = command("run", "--suite", "digit", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        line for line in done.stderr.splitlines() if line.startswith("bench-apts: unknown suite")]
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("run", "--trials", "-1"), ("run", "--seeds", "0"),
                                       ("run", "--gpu", "1"), ("rnu",), ("list", "models"),
                                       ("report",), ("run", "--grace", "inf"),
                                       ("run", "--grace", "nan"), ("run", "--grace", "1e300"),
                                       ("run", "--rendezvous-timeout", str(10**20))])
def test_what_typer_refuses_ends_in_one_line_too(cli, arguments):
    done = cli(*arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("bench-apts: ")
    command = "bench-apts" if arguments == ("rnu",) else f"bench-apts {arguments[0]}"
    assert line.endswith(f"see `{command} --help`")
