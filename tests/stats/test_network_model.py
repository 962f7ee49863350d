"""Networks by name: shipped with their sources, the user's own, and one line for mistakes."""

import pytest

from bench_apts.core.errors import UserError
from bench_apts.stats import network_model

MINE = '[mine]\nbytes_per_s = 1e9\nlatency_s = 5e-6\nsource = "measured"\n'


def test_the_shipped_ones_are_those_of_the_design():
    known = network_model.load_fabrics()
    assert {name: fabric.bytes_per_s for name, fabric in known.items()} == {
        "nvlink4": 450e9, "ib-ndr": 50e9, "eth100g": 12.5e9, "eth10g": 1.25e9, "wan": 125e6}
    assert known["wan"].latency_s == 0.03
    assert all(fabric.source for fabric in known.values())
    latencies = [fabric.latency_s for fabric in known.values()]
    assert latencies == sorted(latencies)


def test_own_ones_are_added_and_replace(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(MINE + MINE.replace("[mine]", "[wan]"))
    known = network_model.load_fabrics(path)
    assert known["mine"] == known["wan"]
    assert known["mine"].latency_s == 5e-6
    assert len(known) == 6


@pytest.mark.parametrize(("text", "words"), [
    ("[mine", "my.toml is not valid TOML"),
    ("mine = 3", "my.toml: fabric 'mine': Expected `object`, got `int`"),
    (MINE.replace("latency_s", "latency"), "fabric 'mine': Object contains unknown field"),
    (MINE.replace("latency_s = 5e-6\n", ""), "Object missing required field `latency_s`"),
    (MINE.replace("1e9", "0"), "Expected `float` > 0.0"),
    (MINE.replace("1e9", "'fast'"), "Expected `float`, got `str`"),
    (MINE.replace("1e9", "inf"), "fabric 'mine': bytes_per_s: expected a finite number"),
    (MINE.replace("5e-6", "nan"), "fabric 'mine': "),
    (MINE.replace("5e-6", "-1"), "Expected `float` >= 0.0"),
])
def test_mistakes_name_file_fabric_and_key(tmp_path, text, words):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        network_model.load_fabrics(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "my.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not valid TOML"):
        network_model.load_fabrics(path)


def test_nodes_are_joined_by_a_fabric_of_their_own():
    known = network_model.load_fabrics()
    assert network_model.networks(["wan"], known, 1, "nvlink4")["wan"].inner is None
    found = network_model.networks(["wan", "eth10g"], known, 8, "nvlink4")
    assert list(found) == ["wan", "eth10g"]
    assert found["eth10g"] == (known["eth10g"], known["nvlink4"], 8)
    for names, inner in ((["van"], "nvlink4"), (["wan"], "nvlink")):
        with pytest.raises(UserError, match="unknown fabric"):
            network_model.networks(names, known, 8, inner)
