"""Text of a random probabilistic grammar whose entropy rate is known exactly.

Sentences are independent of each other. Within one, a verb agrees in number with its noun, which
may lie several words back, so that a model gains from attention over words as well as over the
letters of a word. The words of all categories differ, and each text has therefore one derivation
only: its probability is the product of the probabilities of the rules used. The entropy rate is
the expected entropy of the choices in a sentence over its expected number of characters.
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.configuration import require_positive
from bench_apts.core.errors import UserError
from bench_apts.suites.generated.draws import GeneratedSplits, PortableDraws
from bench_apts.suites.readers.token_files import windows

if TYPE_CHECKING:
    from collections.abc import Iterator

ALPHABET = " .abcdefghijklmnopqrstuvwxyz"
"""All characters that occur; the number of one in the data is its position here."""

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"
SIZES = {"determiner": 4, "noun": 60, "verb": 40, "that": 1}
"""How many words of each category there are for the singular, and as many for the plural."""
ADJECTIVES = 40

Rules = dict[str, list[tuple[int, tuple[str, ...]]]]


@dataclass(frozen=True)
class Grammar:
    """A context-free grammar with weighted rules.

    ``rules`` has for each nonterminal its productions with integer weights; a symbol that is not
    a key is a piece of text.
    """

    rules: Rules

    @classmethod
    def random(cls, seed: int) -> Grammar:
        """Return the grammar of a seed: the rules are the same for all seeds, the words differ."""
        draws, taken = PortableDraws("grammar", seed), set[str]()

        def lexicon(size: int) -> list[tuple[int, tuple[str, ...]]]:
            words: list[str] = []
            while len(words) < size:
                syllables = draws.integers(len(CONSONANTS) * len(VOWELS),
                                           1 + int(draws.integers(3, 1)[0]))
                word = "".join(CONSONANTS[s // len(VOWELS)] + VOWELS[s % len(VOWELS)]
                               for s in syllables)
                if word not in taken:
                    taken.add(word)
                    words.append(word)
            # Zipf's law: frequencies as 1, 1/2, 1/3 and so on.
            return [(1_000_000 // rank, (f" {word}",)) for rank, word in enumerate(words, 1)]

        rules: Rules = {
            "sentence": [(1, ("phrase-s", "verb-s", "object", ".")),
                         (1, ("phrase-p", "verb-p", "object", "."))],
            "object": [(1, ("phrase-s",)), (1, ("phrase-p",))],
            "adjectives": [(2, ()), (1, ("adjective", "adjectives"))],
            "adjective": lexicon(ADJECTIVES),
        }
        for number in ("s", "p"):
            core = (f"determiner-{number}", "adjectives", f"noun-{number}")
            clause = (f"that-{number}", f"verb-{number}", "object")
            rules[f"phrase-{number}"] = [(3, core), (1, core + clause)]
            for category, size in SIZES.items():
                rules[f"{category}-{number}"] = lexicon(size)
        return cls(rules)

    def expected(self) -> tuple[float, dict[str, float]]:
        """Return the entropy of a sentence in nats and the expected count of each character."""
        names = list(self.rules)
        position = {name: number for number, name in enumerate(names)}
        produced = np.zeros((len(names), len(names)))  # [i, j]: of j by one expansion of i
        entropies = np.zeros(len(names))
        characters = np.zeros((len(names), len(ALPHABET)))
        for i, name in enumerate(names):
            total = sum(weight for weight, _ in self.rules[name])
            for weight, production in self.rules[name]:
                entropies[i] -= weight / total * math.log(weight / total)
                for symbol in production:
                    if symbol in position:
                        produced[i, position[symbol]] += weight / total
                    else:
                        for character in symbol:
                            characters[i, ALPHABET.index(character)] += weight / total
        start = np.eye(len(names))[position["sentence"]]
        expansions = np.linalg.solve(np.eye(len(names)) - produced.T, start)
        counts = expansions @ characters
        return float(expansions @ entropies), dict(zip(ALPHABET, counts.tolist(), strict=True))

    def sample(self, characters: int, seed: int) -> str:
        """Return the first ``characters`` characters of a sequence of independent sentences."""
        draws, pieces, length = PortableDraws("text", seed), list[str](), 0
        tables = {name: list(itertools.accumulate(weight for weight, _ in productions))
                  for name, productions in self.rules.items()}
        block: Iterator[int] = iter(())
        stack: list[str] = []
        while length < characters:
            symbol = stack.pop() if stack else "sentence"
            if symbol not in tables:
                pieces.append(symbol)
                length += len(symbol)
                continue
            word = next(block, None)
            if word is None:
                block = iter(draws.words(1 << 16).tolist())
                word = next(block)
            chosen = bisect.bisect_right(tables[symbol], (word * tables[symbol][-1]) >> 64)
            stack.extend(reversed(self.rules[symbol][chosen][1]))
        return "".join(pieces)[:characters]


def grammar_text(characters: int = 1_000_000, context: int = 64, seed: int = 0) -> GeneratedSplits:
    """Return text of a random grammar: nine tenths to train, the last tenth to test.

    Args:
        characters: The length of the whole text.
        context: The number of characters in a sample.
        seed: Determines the words and the text.

    Returns:
        Inputs and targets int64 (n, context), in 0 ... 27. ``floor`` is the entropy rate and
        ``baseline`` the entropy of single characters, in nats per character. The floor holds
        for a model that sees all the text before a character; at the start of a window that
        context is missing.

    Raises:
        UserError: A size is not a positive integer, or the text has no window to test on.
    """
    require_positive("data 'grammar_text'", characters=characters, context=context)
    if characters - characters * 9 // 10 <= context:
        raise UserError(f"data 'grammar_text': characters = {characters} must be more than ten "
                        f"times context = {context}")
    grammar = Grammar.random(seed)
    code = np.full(128, -1)
    code[np.frombuffer(ALPHABET.encode(), np.uint8)] = np.arange(len(ALPHABET))
    text = grammar.sample(characters, seed).encode()
    numbers = code[np.frombuffer(text, np.uint8)].astype(np.int64)
    cut = characters * 9 // 10
    train, test = (windows(part, context, "data 'grammar_text'")
                   for part in (numbers[:cut], numbers[cut:]))
    entropy, counts = grammar.expected()
    length = sum(counts.values())
    single = -sum(n / length * math.log(n / length) for n in counts.values() if n)
    return GeneratedSplits({"train": train, "test": test}, entropy / length, single)
