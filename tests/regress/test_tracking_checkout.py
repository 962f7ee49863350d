"""What is measured must be what is checked out and what is installed, or nothing is."""

import subprocess
import sys

import clones
import pytest

from bench_apts.core.errors import UserError
from bench_apts.regress import asv_tracking

pytestmark = pytest.mark.usefixtures("git")


@pytest.fixture
def repository(tmp_path):
    """Two commits of another project, with a configuration of asv's."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "asv.conf.json").write_text('{"version": 1, "repo": ".", "results_dir": "kept"}')
    clones.git(folder, "init", "--quiet", "--initial-branch", "main")
    clones.commit(folder, "first")
    (folder / "code.py").write_text("1")
    clones.commit(folder, "second")
    return folder


def refused(done, *expected):
    assert done.code == 2
    assert len(done.err.splitlines()) == 1, done.err
    assert "Traceback" not in done.out + done.err
    for part in expected:
        assert part in done.err


def test_a_folder_outside_of_a_checkout(cli):
    pytest.importorskip("asv")
    refused(cli("track"), "is in no checkout of bench-apts", "go to your clone")


def test_another_project(cli, repository, monkeypatch):
    pytest.importorskip("asv")
    monkeypatch.chdir(repository)
    refused(cli("track"), "what is installed is not this checkout: bench_apts comes from",
            f"pip install --editable {repository}")
    (repository / "asv.conf.json").unlink()
    refused(cli("track"), f"{repository} has no asv.conf.json")


def test_no_git(cli, repository, monkeypatch, tmp_path):
    pytest.importorskip("asv")
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(cli("track"), "git is not installed")


def test_no_asv(cli, repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setitem(sys.modules, "asv", None)
    refused(cli("track"), "asv is not installed; `pip install 'bench-apts[dev]'`")


def test_every_package_must_be_the_checkouts(monkeypatch):
    asv_tracking.require_installed(clones.ROOT)
    from bench_apts import reports

    monkeypatch.setattr(reports.__spec__, "submodule_search_locations", ["/elsewhere/reports"])
    with pytest.raises(UserError, match=r"bench_apts\.reports comes from /elsewhere/reports"):
        asv_tracking.require_installed(clones.ROOT)


def test_what_is_not_committed_is_named(repository):
    head = clones.git(repository, "rev-parse", "HEAD")
    assert asv_tracking.find_checkout(repository) == (repository, head, [])
    below = repository / "a folder"
    below.mkdir()
    (below / "new.py").write_text("")
    (repository / "code.py").write_text("2")
    (repository / ".gitignore").write_text("*.log\n")
    (repository / "a.log").write_text("")
    found = asv_tracking.find_checkout(below)
    assert found.root == repository
    assert found.changed == ["code.py", ".gitignore", '"a folder/new.py"']


def test_a_hook_of_another_repository_does_not_mislead(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(clones.ROOT / ".git"))
    assert asv_tracking.find_checkout(repository).root == repository


def test_only_a_commit_with_these_files(repository):
    found = asv_tracking.find_checkout(repository)
    first = asv_tracking.resolved(repository, "main~1")
    with pytest.raises(UserError, match=f"--commit {first[:8]}: .* is at {found.commit[:8]}"):
        asv_tracking.require_content(found, first)
    clones.commit(repository, "third, of the same files")
    asv_tracking.require_content(found, asv_tracking.resolved(repository, "main"))
    with pytest.raises(UserError, match="no commit '--all'"):
        asv_tracking.resolved(repository, "--all")
    with pytest.raises(UserError, match="no commit 'nowhere'"):
        asv_tracking.resolved(repository, "nowhere")


def test_a_checkout_that_changes_under_way_is_told(cli, repository, monkeypatch):
    pytest.importorskip("asv")
    monkeypatch.chdir(repository)
    monkeypatch.setattr(asv_tracking, "require_installed", lambda root: None)
    monkeypatch.setattr(asv_tracking, "require_machine", lambda root: "box")

    def run(*_, **__):
        (repository / "code.py").write_text("2")
        return asv_tracking.BenchmarkRun(repository / "kept.json", False)

    monkeypatch.setattr(asv_tracking, "run_benchmarks", run)
    refused(cli("track"), f"{repository} changed while it was measured", "kept.json may hold")


def test_settings_are_asvs(repository):
    pytest.importorskip("asv")
    assert asv_tracking.read_asv_settings(repository) == (repository / "kept", {})
    (repository / "asv.conf.json").write_text("{")
    with pytest.raises(UserError, match=r"asv\.conf\.json"):
        asv_tracking.read_asv_settings(repository)


def test_help_needs_no_asv():
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; sys.modules['asv'] = None; sys.argv = ['bench-apts', 'track', '--help']\n"
         "from bench_apts.cli import main; main()"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--dirty" in done.stdout
