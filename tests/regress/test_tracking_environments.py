"""Environments that asv builds for itself, offline from a wheelhouse.

With ``BENCH_APTS_WHEELHOUSE``, a folder with the wheels of all dependencies and of what asv
needs, asv.conf.json is used as it is. Without it torch and the other dependencies, gigabytes,
are not installed: one key of the configuration is replaced, and another loses an entry, so that
the environment links those that are installed here. All else is the same: the environment is made
by virtualenv, its tools come from wheels, and each commit's wheel is built, cached and installed.
"""

import json
import os
import sysconfig

import clones
import pytest
import scratch
import wheelhouse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

GIVEN = os.environ.get("BENCH_APTS_WHEELHOUSE")
LINKED = ["in-dir={env_dir} python -m pip install --no-deps {wheel_file}",
          "python -c \"import sysconfig, pathlib; pathlib.Path(sysconfig.get_path('purelib'), "
          f"'linked.pth').write_text('{sysconfig.get_path('purelib')}')\""]


@pytest.fixture
def offline(tracked, tmp_path):
    """Arguments of asv that name its configuration, with pip confined to a wheelhouse."""
    from asv.util import load_json

    wheels, arguments = GIVEN, []
    if not GIVEN:
        wheels = tmp_path / "wheelhouse"
        wheels.mkdir()
        wheelhouse.fill(wheels, "pip", "setuptools", "wheel", "build", "asv-runner", "pympler")
        config = load_json(str(tracked.folder / "asv.conf.json"), js_comments=True)
        config["install_command"] = LINKED
        del config["matrix"]["req"]["torch"]
        linked = tracked.folder / "asv.linked.json"  # asv works where its configuration lies
        linked.write_text(json.dumps(config))
        arguments = ["--config", linked.name]
    tracked.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels),
                            "PIP_CONFIG_FILE": os.devnull}
    assert tracked.run("asv", "machine", "--yes").returncode == 0
    return arguments


def test_base_and_head_are_built_and_compared(tracked, offline):
    clone = tracked.folder
    base = clones.git(clone, "rev-parse", "HEAD")
    scratch.edit(clone / "bench_apts" / "cli" / "__init__.py", "import signal\n",
                 "import signal\nimport this\n")
    head = clones.commit(clone, "an import too many")
    done = tracked.run("asv", *offline, "continuous", "--split", "--factor", "1.001", "--bench",
                       "track_modules_at_start", base, head)
    assert done.returncode == 1, scratch.shown_output(done)  # asv's word for a regression
    assert "PERFORMANCE DECREASED" in done.stdout

    (environment,) = (clone / ".asv" / "env").iterdir()
    cached = [path.name for path in environment.glob("asv-build-cache/*/*.whl")]
    assert len(cached) == 2
    assert all(name.startswith("bench_apts-") for name in cached)
    stored = {json.loads(path.read_text())["commit_hash"]: json.loads(path.read_text())
              for path in tracked.files()}
    assert set(stored) == {base, head}
    name = "harness.track_modules_at_start"
    before, after = (stored[commit]["results"][name][0] for commit in (base, head))
    assert after == [modules + 1 for modules in before]
    for file in stored.values():
        assert file["env_vars"] == dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

    made = (environment / "pyvenv.cfg").stat().st_mtime_ns
    last = clones.commit(clone, "nothing changed")
    done = tracked.run("asv", *offline, "run", "--bench", "track_modules_at_start", "main^!")
    assert done.returncode == 0, scratch.shown_output(done)
    assert (environment / "pyvenv.cfg").stat().st_mtime_ns == made
    assert any(path.name.startswith(last[:8]) for path in tracked.files())
