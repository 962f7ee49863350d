"""``bench-apts power``: how many seeds a factor takes, stated or from a study's scatter."""

import re

import pytest


@pytest.mark.parametrize(("arguments", "seeds"), [
    ((), 8), (("--factor", "1.02"), None), (("--rivals", "5"), 10)])
def test_a_stated_scatter(cli, arguments, seeds):
    done = cli("power", *arguments)
    assert (done.code, done.err) == (0, "")
    found = re.search(r"--seeds (\d+)", done.out)
    assert (int(found[1]) if found else None) == seeds
    assert found or "100 pairs of seeds tell a factor of 1.02 in only" in done.out


def test_the_scatter_of_a_study(cli, finished):
    done = cli("power", finished.folder, "--currency", "wire_bytes")
    assert (done.code, done.err) == (0, "")
    assert {line.split(",")[0].split(":")[0] for line in done.out.splitlines()} == {
        "digits at N = 1", "digits at N = 2"}


def test_a_factor_that_is_none_ends_in_one_line(cli, tmp_path):
    done = cli("power", "--factor", "1")
    assert done.code == 2
    assert "--factor 1" in done.err
    assert cli("power", tmp_path / "nowhere").code == 2
