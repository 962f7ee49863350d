"""Seeds: one for each purpose, the same for ever."""

from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.job import derive_seed

KEYS = st.tuples(st.integers(0, 2**31), st.sampled_from(["data", "init", "tune", "tune-data"]),
                 st.sampled_from(["digits", "mnist", "mnist-cnn"]), st.integers(0, 999))


@given(st.lists(KEYS, unique=True, min_size=2, max_size=50))
def test_every_purpose_has_a_seed_of_its_own(keys):
    assert len({derive_seed(*key) for key in keys}) == len(keys)


@given(KEYS)
def test_torch_and_numpy_take_every_seed(key):
    assert 0 <= derive_seed(*key) < 2**63


def test_seeds_never_change():
    # Were they to, results of before and after could not be compared.
    assert derive_seed(0, "data", "digits", 0) == 2_192_443_512_395_330_027
    assert derive_seed(7, "tune-init", "mnist", 3) == 8_443_727_359_548_379_204
