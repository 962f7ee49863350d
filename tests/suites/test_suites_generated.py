"""Generated data: pinned bit for bit, known floors, and no short cuts to the answer."""

import hashlib
import itertools
import math

import numpy as np
import pytest

from bench_apts.core.errors import UserError
from bench_apts.suites.generated import collocation, derived, draws, friedman, graphs, recall, text

IMAGES = (np.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4) * 2).astype(np.uint8)
TARGETS = np.arange(100) * 7 % 10

SMALL = {
    "text": lambda seed=0: text.grammar_text(3_000, 16, seed),
    "recall": lambda seed=0: recall.recall(20, 10, 16, 3, 17, seed),
    "graphs": lambda seed=0: graphs.graphs(30, 12, seed),
    "friedman": lambda seed=0: friedman.friedman(50, 20, seed=seed),
    "denoising": lambda seed=0: derived.denoising(IMAGES[:2], IMAGES[2:], seed=seed),
    "collocation": lambda seed=0: collocation.collocation(40, 5, seed),
    "noniid": lambda seed=0: derived.noniid(TARGETS, 3, 0.5, seed),
    "sorted": lambda seed=0: derived.noniid(TARGETS, 3, seed=seed),
    "longtail": lambda seed=0: [derived.longtail(TARGETS, 5, seed)],
}
PINNED = {
    "text": "dd1daca2512c3847",
    "recall": "7f6216816ad6e8d9",
    "graphs": "47f8d34229955514",
    "friedman": "941adfd6b3a56da8",
    "denoising": "a984353bcf9c2369",
    "collocation": "e38dd6ebe87d134d",
    "noniid": "31b0c0b5959a016a",
    "sorted": "d7cbbbdde4527430",
    "longtail": "95526db3d6e4f304",
}


@pytest.fixture(autouse=True)
def _cache(monkeypatch, cache):
    monkeypatch.setenv("BENCH_APTS_CACHE", str(cache))


def arrays(made):
    """Return the arrays of a data set in a fixed order."""
    if isinstance(made, list):
        return made
    return [array for split in made.values() for array in split]


def digest(made):
    total = hashlib.sha256()
    for array in arrays(made):
        total.update(f"{array.dtype.str} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()[:16]


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_gives_the_same_bytes_on_every_machine(name):
    assert digest(SMALL[name]()) == PINNED[name]


@pytest.mark.parametrize("name", SMALL)
def test_another_seed_gives_other_data(name):
    assert digest(SMALL[name](1)) != digest(SMALL[name](0))


@pytest.mark.parametrize("name", [name for name in SMALL if name not in
                                  ("noniid", "sorted", "longtail")])
def test_splits_have_equal_layouts_and_share_no_draws(name):
    made = SMALL[name]()
    assert set(made) - {"validation"} == {"train", "test"}
    rows = set()
    for inputs, targets in made.values():
        assert len(inputs) == len(targets) > 0
        for array, first in zip((inputs, targets), made["train"], strict=True):
            assert (array.dtype, array.shape[1:]) == (first.dtype, first.shape[1:])
        new = {row.tobytes() for row in inputs}
        assert not rows & new
        rows |= new


# --- draws


def test_normals_have_the_moments_of_the_normal_distribution():
    made = draws.PortableDraws("moments", 0).normals(1_000_000)
    assert abs(made.mean()) < 5e-3
    assert abs(made.var() - 1) < 1e-2
    assert abs((made**3).mean()) < 2e-2
    assert abs((made**4).mean() - 2.9) < 5e-2  # 3 - 1.2/12 for a sum of twelve uniforms
    assert np.abs(made).max() < 6


def test_uniforms_integers_and_orders_are_uniform():
    source = draws.PortableDraws("uniform", 0)
    made = source.uniforms(100_000)
    assert made.min() >= 0
    assert made.max() < 1
    counts = np.bincount((made * 10).astype(int))
    assert np.square(counts - 10_000).sum() / 10_000 < 30  # chi-square of 9 degrees
    counts = np.bincount(source.integers(7, 70_000))
    assert len(counts) == 7
    assert np.square(counts - 10_000).sum() / 10_000 < 25
    counts = np.unique(source.orders(6_000, 3), axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.square(counts - 1_000).sum() / 1_000 < 25


def test_the_sine_is_right_to_the_last_bits():
    x = np.linspace(0, 1, 1_001)
    assert np.abs(draws.sine_of_pi_times(x) - np.sin(np.pi * x)).max() < 1e-15


# --- text


def log_probability(grammar, words):
    """Return the log-probability of whole sentences by reading them from left to right.

    It knows the language, not the rules: phrases of a determiner, adjectives and a noun, each
    with a clause or without, and the verb that agrees with the first noun.
    """
    table = {}
    for category, productions in grammar.rules.items():
        total = sum(weight for weight, _ in productions)
        for weight, production in productions:
            if len(production) == 1 and production[0].startswith(" "):
                assert production[0] not in table, "a word of two meanings"
                table[production[0]] = (category, math.log(weight / total))
    total, position = 0.0, 0

    def take(kind):
        nonlocal total, position
        category, log_p = table[" " + words[position]]
        assert category.split("-")[0] == kind
        total += log_p
        position += 1
        return category[-1]

    def phrase():
        """Return the number of the first noun; the clauses that follow it are read too."""
        nonlocal total
        number = take("determiner")
        while table[" " + words[position]][0] == "adjective":
            take("adjective")
            total += math.log(1 / 3)
        total += math.log(2 / 3)
        assert take("noun") == number
        if position < len(words) and table.get(" " + words[position], ("",))[0][:4] == "that":
            total += math.log(1 / 4)
            assert take("that") == number
            assert take("verb") == number
            total += math.log(1 / 2)
            phrase()
        else:
            total += math.log(3 / 4)
        return number

    while position < len(words):
        total += math.log(1 / 2)
        number = phrase()
        assert take("verb") == number
        total += math.log(1 / 2)
        phrase()
        assert words[position] == "."
        position += 1
    return total


def test_the_entropy_rate_is_that_of_a_long_text():
    grammar = text.Grammar.random(3)
    sample = grammar.sample(600_000, 3)
    sample = sample[: sample.rindex(".") + 1]
    found = -log_probability(grammar, sample.replace(".", " .").split()) / len(sample)
    entropy, counts = grammar.expected()
    assert found == pytest.approx(entropy / sum(counts.values()), rel=5e-3)
    assert text.grammar_text(200, 10, 3).floor == entropy / sum(counts.values())


def test_the_expected_counts_of_characters_are_those_of_a_long_text():
    grammar = text.Grammar.random(3)
    sample = grammar.sample(600_000, 3)
    counts = grammar.expected()[1]
    length = sum(counts.values())
    frequent = [c for c in counts if counts[c] / length > 0.01]
    assert len(frequent) > 10
    assert [sample.count(c) / len(sample) for c in frequent] == pytest.approx(
        [counts[c] / length for c in frequent], rel=0.1)
    p = np.array([n for n in counts.values() if n]) / length
    assert text.grammar_text(200, 10, 3).baseline == pytest.approx(-(p * np.log(p)).sum())


def test_windows_are_contiguous_and_targets_come_next():
    made = text.grammar_text(5_000, 16, seed=2)
    whole = text.Grammar.random(2).sample(5_000, 2)
    for split, part in (("train", whole[:4_500]), ("test", whole[4_500:])):
        inputs, targets = made[split]
        assert inputs.min() >= 0
        assert inputs.max() < len(text.ALPHABET)
        seen = "".join(text.ALPHABET[i] for i in inputs.ravel())
        assert seen == part[: len(seen)]
        assert len(part) - len(seen) <= 16
        following = "".join(text.ALPHABET[i] for i in targets.ravel())
        assert following == part[1 : len(seen) + 1]


# --- recall


def test_each_key_is_asked_once_and_its_value_is_the_target():
    inputs, targets = recall.recall(200, 10, length=20, pairs=4, vocabulary=21)["train"]
    for row, target in zip(inputs, targets, strict=True):
        table = dict(zip(row[:8:2].tolist(), row[1:8:2].tolist(), strict=True))
        assert len(table) == 4
        assert all(1 <= key <= 10 < value <= 20 for key, value in table.items())
        asked = np.flatnonzero(target != recall.IGNORED)
        assert asked.min() >= 8
        assert {row[i]: target[i] for i in asked} == table
        assert (np.delete(row[8:], asked - 8) == 0).all()


# --- graphs


def test_graphs_are_simple_balanced_and_of_one_degree_sequence():
    inputs, targets = graphs.graphs(150, 10)["train"]
    adjacency, features = inputs[:, :, :24].astype(int), inputs[:, :, 24:]
    assert set(np.unique(adjacency)) == {0, 1}
    assert (adjacency == adjacency.transpose(0, 2, 1)).all()
    assert (np.trace(adjacency, axis1=1, axis2=2) == 0).all()
    # No function of the degrees can tell two graphs apart: the sorted degrees are all the same.
    degrees = adjacency.sum(axis=1)
    assert (np.sort(degrees, axis=1) == graphs.DEGREES).all()
    assert (features == 1).all()
    assert np.bincount(targets).tolist() == [50, 50, 50]
    # Nor the position of a node.
    assert len(np.unique(degrees[:, 0])) == 2
    low = degrees == 2
    mixed = np.einsum("gi,gij,gj->g", low, adjacency, ~low)
    for label in range(3):
        assert set(np.unique(mixed[targets == label])) == set(graphs.MIXED[label])


def test_all_simple_graphs_are_drawn_alike():
    # Of equal numbers of mixed edges, so that every low node meets each high one equally often.
    mixed = np.full(3_000, 10)
    made = graphs._simple(draws.PortableDraws("test", 0), mixed)
    frequency = made[:, :12, 12:].mean(axis=0)
    assert np.abs(frequency - 10 / 144).max() < 5 * math.sqrt(10 / 144 / 3_000)


# --- friedman


def test_the_constants_of_the_friedman_function_are_its_mean_and_deviation():
    nodes, weights = np.polynomial.legendre.leggauss(40)
    x, w = (nodes + 1) / 2, weights / 2
    sines = np.sin(np.pi * np.outer(x, x))
    mean = 10 * w @ sines @ w + 20 / 12 + 5 + 2.5
    variance = (100 * (w @ sines**2 @ w - (w @ sines @ w) ** 2)
                + 400 * (1 / 80 - 1 / 144) + 100 / 12 + 25 / 12)
    assert mean == pytest.approx(friedman.MEAN, rel=1e-12)
    assert math.sqrt(variance) == pytest.approx(friedman.DEVIATION, rel=1e-12)


def test_the_floor_is_the_error_of_the_true_function_and_the_baseline_that_of_the_mean():
    made = friedman.friedman(20_000, 20_000, noise=0.3, seed=4)
    x, y = made["test"]
    error = np.sqrt(np.square(y[:, 0] - friedman.clean(x.astype(float))).mean())
    assert error == pytest.approx(made.floor, rel=0.02)
    assert y.std() == pytest.approx(made.baseline, rel=0.02)
    assert (x.min(), x.max()) == pytest.approx((0, 1), abs=1e-3)
    # The nuisance features say nothing, not even together with the square of one.
    assert np.abs(np.corrcoef(np.c_[x[:, 5:], x[:, 5:] ** 2, y].T)[-1, :-1]).max() < 0.03


# --- denoising, collocation


def test_noise_is_added_to_the_given_images():
    images = np.full((50, 1, 28, 28), 51, np.uint8)
    made = derived.denoising(images, images, noise=0.4)
    inputs, targets = made["train"]
    assert (targets == np.float32(0.2)).all()
    assert (inputs - targets).std() == pytest.approx(0.4, rel=0.02)
    assert not np.array_equal(made["test"][0], inputs)
    assert made.baseline == pytest.approx(0, abs=1e-9)


def test_points_fill_the_square_and_a_fifth_lies_on_its_four_sides():
    made = collocation.collocation(2_000, grid=8, seed=1)
    points, targets = made["train"]
    on_side = (points == 0) | (points == 1)
    boundary = on_side.any(axis=1)
    assert boundary.sum() == 400
    assert (on_side.sum(axis=1)[boundary] == 1).all()
    assert (points.min(), points.max()) == (0, 1)
    for axis, end in itertools.product((0, 1), (0, 1)):
        assert 60 < (points[boundary, axis] == end).sum() < 140
    assert (targets[boundary] == 0).all()
    for places, values in made.values():
        assert values[:, 0] == pytest.approx(np.sin(np.pi * places).prod(axis=1), abs=1e-6)
    assert 100 < boundary[:1_000].sum() < 300  # not all in one place
    tested, solution = made["test"]
    assert np.square(solution).mean() == pytest.approx(1 / 4, rel=1e-6)  # a quadrature
    assert collocation.relative_l2(np.zeros_like(solution), solution) == made.baseline
    assert collocation.relative_l2(
        np.sin(np.pi * tested).prod(axis=1, keepdims=True), solution) < 1e-6


# --- skew


@pytest.mark.parametrize("concentration", [0.0, 0.1, 100.0])
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_shards_are_a_partition_of_equal_sizes(ranks, concentration):
    targets = np.arange(1_001) * 7 % 10
    shards = derived.noniid(targets, ranks, concentration)
    assert len(shards) == ranks
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(1_001))


def test_a_small_concentration_gives_few_classes_and_a_large_one_all():
    targets = np.arange(4_000) % 10

    def largest_share(concentration):
        shares = [np.bincount(targets[shard], minlength=10).max() / len(shard)
                  for shard in derived.noniid(targets, 4, concentration)]
        return np.mean(shares)

    assert largest_share(1_000.0) < 0.15
    assert largest_share(1.0) < largest_share(0.1)
    assert largest_share(0.0) == pytest.approx(0.4)  # two classes and a half in each
    first = derived.noniid(targets, 4)[0]
    assert np.bincount(targets[first], minlength=10).tolist() == [400, 400, 200, *[0] * 7]


def test_a_long_tail_falls_geometrically():
    targets = np.arange(5_000) % 5
    kept = derived.longtail(targets, ratio=16)
    assert np.bincount(targets[kept]).tolist() == [1_000, 500, 250, 125, 62]
    assert (np.diff(kept) > 0).all()
    assert np.array_equal(derived.longtail(targets, ratio=1), np.arange(5_000))
    assert np.bincount(targets[derived.longtail(targets, 1e9)]).min() == 1


# --- data sets made of known ones


def test_unbalanced_digits_keep_their_test_split():
    made = derived.unbalanced(ratio=10)
    counts = np.bincount(made["train"][1])
    assert counts[0] / counts[-1] == pytest.approx(10, rel=0.05)
    assert (np.diff(counts) < 0).all()
    inputs, targets = made["test"]
    assert inputs.shape == (300, 64)
    assert np.bincount(targets).min() >= 28
    assert made.baseline == (targets == 0).mean()


def test_noise_is_added_to_images_of_mnist(real_data):
    made = derived.noisy(train=30, test=20, noise=0.3, data_dir=real_data)
    for name, number in (("train", 30), ("test", 20)):
        noisy, clean = made[name]
        assert noisy.shape == clean.shape == (number, 1, 28, 28)
        assert (clean.min(), clean.max()) == (0, 1)
        assert (noisy - clean).std() == pytest.approx(0.3, rel=0.05)
    assert not np.array_equal(
        derived.noisy(train=30, test=20, seed=1, data_dir=real_data)["test"][1],
        made["test"][1])
    with pytest.raises(UserError, match="60001"):
        derived.noisy(train=60_001, data_dir=real_data)


# --- refusals


@pytest.mark.parametrize(("call", "word"), [
    (lambda: text.grammar_text(0), "characters"),
    (lambda: text.grammar_text(640, 64), "context"),
    (lambda: text.grammar_text(1_000, 6.5), "context"),
    (lambda: recall.recall(2, 2, length=11, pairs=4), "length"),
    (lambda: recall.recall(2, 2, vocabulary=8, pairs=4), "vocabulary"),
    (lambda: recall.recall(2, 2, pairs=0), "pairs"),
    (lambda: recall.recall(2, -2), "test"),
    (lambda: graphs.graphs(0), "train"),
    (lambda: graphs.graphs(2, "2"), "test"),
    (lambda: friedman.friedman(rows=1.5), "rows"),
    (lambda: friedman.friedman(noise=-0.1), "noise"),
    (lambda: friedman.friedman(noise=math.nan), "noise"),
    (lambda: friedman.friedman(nuisance=-1), "nuisance"),
    (lambda: friedman.friedman(nuisance=1.5), "nuisance"),
    (lambda: derived.denoising(IMAGES / 255, IMAGES), "uint8"),
    (lambda: derived.denoising(IMAGES, IMAGES, noise="0.5"), "noise"),
    (lambda: derived.noisy("digits", 9, 9), "uint8"),
    (lambda: derived.noisy("digist"), "did you mean digits"),
    (lambda: derived.unbalanced(ratio=0), "ratio"),
    (lambda: collocation.collocation(True), "points"),
    (lambda: collocation.collocation(grid=0), "grid"),
    (lambda: derived.noniid(TARGETS, 0), "ranks"),
    (lambda: derived.noniid(TARGETS, 101), "ranks"),
    (lambda: derived.noniid(TARGETS, 2, -1.0), "concentration"),
    (lambda: derived.longtail(TARGETS, 0.5), "ratio"),
    (lambda: derived.longtail(TARGETS, math.inf), "ratio"),
])
def test_what_cannot_be_generated_is_one_clear_line(call, word):
    with pytest.raises(UserError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)
