"""Every answer computed again, one sequence and one token at a time, from the tokens alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations

import pytest
import torch

from nestlearn.streams.synthetic import (
    IGNORED,
    TASKS,
    Copying,
    MultiQueryRecall,
    OverwritingRecall,
    Parity,
    PermutationTracking,
    SwitchingCipher,
    Task,
)

VARIANTS: list[Task] = [
    MultiQueryRecall(pairs=8),
    MultiQueryRecall(pairs=64, queries=16, values=5),
    MultiQueryRecall(pairs=1, gap=40, keys=3, values=7),
    OverwritingRecall(pairs=8, writes=6),
    OverwritingRecall(pairs=4, writes=16, queries=2, gap=9, values=2),
    OverwritingRecall(pairs=5, writes=1),
    SwitchingCipher(),
    SwitchingCipher(pairs=33, symbols=5, labels=11),
    PermutationTracking(degree=3, length=33),
    PermutationTracking(degree=5, length=20),
    PermutationTracking(degree=2, length=1),
    Parity(length=40),
    Parity(length=33, densities="mixed"),
    Copying(symbols=9, vocab=4),
    Copying(symbols=1, vocab=4, delay=5),
    Copying(symbols=20, vocab=16, delay=7),
]


def variants() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("task", VARIANTS, ids=repr)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def solve_recall(task: MultiQueryRecall, tokens: list[int]) -> Iterator[int]:
    """Answer from a dictionary; a filler is not asked."""
    known: dict[int, int] = {}
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else 0
        if token > task.keys:
            known[before] = token
        following = tokens[place + 1] if place + 1 < len(tokens) else 0
        yield known[token] if 0 < token <= task.keys and not following > task.keys else IGNORED


def solve_cipher(task: SwitchingCipher, tokens: list[int]) -> Iterator[int]:
    """Answer with the latest label; ask where it was right, as a table has no second label for a symbol."""
    known: dict[int, int] = {}
    for symbol, label in zip(tokens[::2], tokens[1::2], strict=True):
        yield label if known.get(symbol) == label else IGNORED
        yield IGNORED
        known[symbol] = label


def solve_permutations(task: PermutationTracking, tokens: list[int]) -> Iterator[int]:
    elements = list(permutations(range(task.degree)))
    state = list(range(task.degree))
    for token in tokens:
        state = [elements[token][i] for i in state]
        yield elements.index(tuple(state))


def solve_parity(task: Parity, tokens: list[int]) -> Iterator[int]:
    for place in range(len(tokens)):
        yield sum(tokens[: place + 1]) % 2


def solve_copying(task: Copying, tokens: list[int]) -> Iterator[int]:
    marker = tokens.index(1)
    text = [token for token in tokens[:marker] if token]
    for place in range(len(tokens)):
        yield text[place - marker] if place >= marker else IGNORED


SOLVERS: dict[type[Task], Callable[..., Iterator[int]]] = {
    MultiQueryRecall: solve_recall,
    OverwritingRecall: solve_recall,
    SwitchingCipher: solve_cipher,
    PermutationTracking: solve_permutations,
    Parity: solve_parity,
    Copying: solve_copying,
}


def test_every_task_is_tested():
    assert {type(task) for task in VARIANTS} == set(TASKS.values()) == set(SOLVERS)


@variants()
def test_the_tokens_so_far_give_every_answer(task):
    input_ids, targets = task.sample(8, seeded())
    for tokens, answers in zip(input_ids.tolist(), targets.tolist(), strict=True):
        assert list(SOLVERS[type(task)](task, tokens)) == answers


@variants()
def test_shapes_and_ranges(task):
    drawn = task.draw(7, seeded())
    for tensor in drawn:
        assert tensor.shape == (7, task.length)
        assert tensor.dtype == torch.int64
    assert drawn.input_ids.min() >= 0
    assert drawn.input_ids.max() < task.vocab_size
    asked = drawn.targets != IGNORED
    assert asked.any(dim=1).all()
    assert ((drawn.phase >= 0) == asked).all()
    assert drawn.phase.max() < len(task.phases)
    assert drawn.targets[asked].min() >= 0
    assert drawn.targets[asked].max() < task.vocab_size


@variants()
def test_the_generator_alone_decides(task):
    generator = seeded()
    first, second = task.sample(64, generator), task.sample(64, generator)
    torch.manual_seed(123)
    again = task.sample(64, seeded())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], task.sample(64, seeded(1))[0])


@variants()
def test_guessing_has_the_accuracy_of_chance(task):
    _, targets = task.sample(2000, seeded())
    # One answer a sequence: the answers within one are not independent.
    answers = torch.stack([row[row != IGNORED][-1] for row in targets])
    possible = targets[targets != IGNORED].unique()
    guesses = possible[torch.randint(len(possible), answers.shape, generator=seeded(1))]
    error = math.sqrt(task.chance * (1 - task.chance) / len(answers))
    assert (guesses == answers).float().mean() == pytest.approx(task.chance, abs=5 * error)
    # And no single answer is a better guess.
    assert torch.bincount(answers).max() / len(answers) == pytest.approx(task.chance, abs=6 * error)


def test_recall_asks_every_key_once_and_keys_differ():
    task = MultiQueryRecall(pairs=16, gap=10)
    input_ids, _ = task.sample(50, seeded())
    written, later = input_ids[:, 0:32:2], input_ids[:, 32:]
    assert all(len(set(row)) == 16 for row in written.tolist())
    assert all(
        sorted(token for token in ask if token) == sorted(row)
        for row, ask in zip(written.tolist(), later.tolist(), strict=True)
    )


def test_queries_are_spread_over_the_gap():
    _, targets = MultiQueryRecall(pairs=2, gap=30).sample(3000, seeded())
    share = (targets[:, 4:] != IGNORED).float().mean(dim=0)
    assert share.tolist() == pytest.approx([2 / 32] * 32, abs=0.025)


def test_an_overwritten_value_is_always_another():
    task = OverwritingRecall(pairs=3, writes=5, values=4)
    input_ids, targets = task.sample(200, seeded())
    orders = set()
    for tokens, answers in zip(input_ids[:, :30].tolist(), targets.tolist(), strict=True):
        history: dict[int, list[int]] = {}
        for key, value in zip(tokens[::2], tokens[1::2], strict=True):
            history.setdefault(key, []).append(value)
        assert all(len(values) == 5 for values in history.values())
        assert all(a != b for values in history.values() for a, b in pairwise(values))
        orders.add(tuple(list(history).index(key) for key in tokens[::2]))
        assert set(answers) <= {values[-1] for values in history.values()} | {IGNORED}
    assert len(orders) > 190


def test_the_cipher_changes_every_label_once_somewhere_in_the_middle():
    task = SwitchingCipher(pairs=200, symbols=3, labels=6)
    input_ids, _, phase = task.draw(200, seeded())
    switches = []
    for tokens, phases in zip(input_ids.tolist(), phase[:, ::2].tolist(), strict=True):
        tables: list[dict[int, int]] = [{}]
        for place, (symbol, label) in enumerate(zip(tokens[::2], tokens[1::2], strict=True)):
            if tables[-1].setdefault(symbol, label) != label:
                tables.append({symbol: label})
                switches.append(place)
        assert len(tables) == 2
        assert all(tables[0][symbol] != tables[1][symbol] for symbol in tables[0] if symbol in tables[1])
        assert phases[: switches[-1]].count(0) == switches[-1] - 3
        after = phases[switches[-1] :]
        assert set(after) == {-1, 1, 2}
        assert after.count(1) == after.count(-1) == 3
    assert 50 <= min(switches) <= 53
    assert 147 <= max(switches) <= 150


def test_the_phases_of_a_cipher_by_hand():
    task = SwitchingCipher(pairs=40, symbols=2, labels=2)
    input_ids, _, phase = task.draw(20, seeded())
    for tokens, phases in zip(input_ids.tolist(), phase.tolist(), strict=True):
        counts: dict[tuple[int, int], int] = {}
        for place in range(0, 80, 2):
            pair = (tokens[place], tokens[place + 1])
            seen = counts.get(pair, 0)
            changed = any(other[0] == pair[0] and other[1] != pair[1] for other in counts)
            # A symbol that was never shown before the switch cannot be told apart: there is none here.
            assert phases[place] == (-1 if seen == 0 else min(seen, 2) if changed else 0)
            assert phases[place + 1] == -1
            counts[pair] = seen + 1


def test_a_copied_sequence_starts_anywhere_in_the_delay():
    input_ids, _ = Copying(symbols=2, vocab=4, delay=3).sample(400, seeded())
    starts = (input_ids > 1).int().argmax(dim=1)
    assert torch.bincount(starts).tolist() == pytest.approx([100] * 4, abs=45)
    assert ((input_ids[:, :5] > 1).sum(dim=1) == 2).all()
    assert (input_ids[:, 5] == 1).all()


def test_mixed_densities_are_a_half_and_uniform_in_turn():
    bits, _ = Parity(length=256, densities="mixed").sample(2000, seeded())
    shares = bits.double().mean(1)
    even, own = shares[::2], shares[1::2]
    assert (even - 0.5).abs().max() < 0.2  # six standard deviations
    quarters = torch.histc(own, 4, 0, 1) / len(own)
    assert (quarters - 0.25).abs().max() < 0.05
    assert Parity(length=4, densities="mixed").sample(1, seeded())[0].shape == (1, 4)


def test_parity_is_a_tracked_permutation_of_two():
    input_ids, targets = PermutationTracking(degree=2, length=50).sample(4, seeded())
    assert torch.equal(targets, input_ids.cumsum(1) % 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiQueryRecall(pairs=0), "Invalid pairs: 0"),
        (lambda: MultiQueryRecall(pairs=65), "Invalid pairs: 65. Must be at most 64"),
        (lambda: MultiQueryRecall(pairs=8, queries=9), "Invalid queries: 9. Must be at most 8"),
        (lambda: MultiQueryRecall(queries=0), "Invalid queries: 0"),
        (lambda: MultiQueryRecall(values=1), "Invalid values: 1"),
        (lambda: MultiQueryRecall(gap=-1), "Invalid gap: -1"),
        (lambda: MultiQueryRecall(pairs=2.0), "Invalid pairs: 2.0. Must be a whole number"),
        (lambda: MultiQueryRecall(pairs=True), "Invalid pairs: True"),
        (lambda: OverwritingRecall(writes=0), "Invalid writes: 0"),
        (lambda: OverwritingRecall(keys=4), "Invalid pairs: 8. Must be at most 4"),
        (lambda: SwitchingCipher(pairs=3), "Invalid pairs: 3"),
        (lambda: SwitchingCipher(symbols=0), "Invalid symbols: 0"),
        (lambda: SwitchingCipher(labels=1), "Invalid labels: 1"),
        (lambda: PermutationTracking(degree=1), "Invalid degree: 1"),
        (lambda: PermutationTracking(degree=6), "Invalid degree: 6. Must be at most 5"),
        (lambda: PermutationTracking(length=0), "Invalid length: 0"),
        (lambda: Parity(length=-3), "Invalid length: -3"),
        (lambda: Parity(densities="odd"), "Invalid densities: 'odd'. Must be one of even, mixed"),
        (lambda: Copying(symbols=0), "Invalid symbols: 0"),
        (lambda: Copying(vocab=1), "Invalid vocab: 1"),
        (lambda: Copying(delay=-1), "Invalid delay: -1"),
    ],
)
def test_refusals_name_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@variants()
def test_an_empty_batch_is_refused(task):
    with pytest.raises(ValueError, match="Invalid batch: 0"):
        task.sample(0, seeded())
