import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestlearn.streams import (
    END_ID,
    BatchSampler,
    DataError,
    ParallelCorpus,
    evaluation_windows,
    token_bytes,
    tokenize,
    train_tokenizer,
)

STREAM = torch.arange(1000)  # a token is its own position, so windows show where they come from


def sampler(tokens: torch.Tensor = STREAM, **changes: int | str) -> BatchSampler:
    settings = {"batch_size": 4, "context": 10, "seed": 1, **changes}
    return BatchSampler(tokens, **settings)  # type: ignore[arg-type]


def test_paragraphs_are_joined_and_ended(small_corpus: ParallelCorpus) -> None:
    tokenizer = train_tokenizer(small_corpus.paragraphs["en"]["train"], 300)
    sizes = token_bytes(tokenizer)
    streams = tokenize(small_corpus, tokenizer)
    assert list(streams) == list(small_corpus.languages)
    for language, stream in streams.items():
        assert stream.language == language
        for split in ("train", "validation", "test"):
            tokens, texts = getattr(stream, split), small_corpus.paragraphs[language][split]
            assert tokens.dtype == torch.int64
            assert int((tokens == END_ID).sum()) == len(texts)
            assert tokens[-1] == END_ID
            assert tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == "".join(
                f"{text}<|end|>" for text in texts
            )
            assert int(sizes[tokens].sum()) == sum(len(text.encode()) + 1 for text in texts)


def test_fewer_paragraphs_are_spread_evenly_and_the_same_in_every_language(
    small_corpus: ParallelCorpus,
) -> None:
    tokenizer = train_tokenizer(["text"], 258)
    few = tokenize(small_corpus, tokenizer, ["fr", "en"], max_paragraphs=4)
    assert list(few) == ["fr", "en"]
    for language, stream in few.items():
        texts = tokenizer.decode(stream.train.tolist(), skip_special_tokens=False).split("<|end|>")[:-1]
        train = small_corpus.paragraphs[language]["train"]
        assert texts == [train[index * len(train) // 4] for index in range(4)]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="Invalid max_paragraphs"):
            tokenize(small_corpus, tokenizer, max_paragraphs=wrong)
    with pytest.raises(DataError, match="Unknown language"):
        tokenize(small_corpus, tokenizer, ["xx"])


def test_empty_split_is_an_empty_stream() -> None:
    corpus = ParallelCorpus("x", ("en",), {"en": {"train": ("abc",)}}, "0")
    stream = tokenize(corpus, train_tokenizer(["abc"], 258))["en"]
    assert (stream.test.dtype, stream.test.shape) == (torch.int64, (0,))


def test_a_batch_is_a_pure_function_of_seed_name_and_step() -> None:
    steps = [7, 0, 100, 7, 3, 24, 25, 0]
    one = sampler()
    for step in steps:
        assert torch.equal(one.batch(step), sampler().batch(step))
    first = one.batch(0)
    for other in (sampler(seed=2), sampler(name="fr"), sampler(name="de")):
        assert not torch.equal(first, other.batch(0))
    assert not torch.equal(first, one.batch(1))


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sampler().batch(3)
    assert torch.equal(before, torch.get_rng_state())


@given(
    length=st.integers(2, 300),
    batch_size=st.integers(1, 40),
    context=st.integers(1, 60),
    step=st.integers(0, 10**6),
)
def test_batches_are_windows_of_the_stream(length: int, batch_size: int, context: int, step: int) -> None:
    tokens = torch.arange(length)
    if length < 2 * context:
        with pytest.raises(ValueError, match="Too few tokens"):
            sampler(tokens, batch_size=batch_size, context=context)
        return
    drawn = sampler(tokens, batch_size=batch_size, context=context)
    batch = drawn.batch(step)
    assert batch.dtype == torch.int64
    assert list(batch.shape) == [batch_size, context + 1]
    assert torch.equal(batch, batch[:, :1] + torch.arange(context + 1))
    assert drawn.tokens_per_step == batch_size * context


@pytest.mark.parametrize("length", [1000, 1001, 1009, 1010])
def test_an_epoch_predicts_every_token_once_save_for_the_ends(length: int) -> None:
    drawn = sampler(torch.arange(length), batch_size=1)
    windows = (length - 10) // 10
    offsets = []
    for epoch in range(3):
        batches = [drawn.batch(epoch * windows + index) for index in range(windows)]
        targets = torch.cat([batch[0, 1:] for batch in batches]).sort().values
        assert torch.equal(targets, torch.arange(windows * 10) + targets[0])
        assert length - len(targets) < 20
        assert [int(batch[0, 0]) for batch in batches] != sorted(int(batch[0, 0]) for batch in batches)
        offsets.append(int(targets[0]))
    assert len(set(offsets)) > 1


def test_bad_settings_of_the_sampler() -> None:
    with pytest.raises(ValueError, match="Invalid step: -1"):
        sampler().batch(-1)
    for name in ("batch_size", "context"):
        with pytest.raises(ValueError, match=f"Invalid {name}: 0"):
            sampler(**{name: 0})
    for tokens in (STREAM.float(), STREAM[None], STREAM.int()):
        with pytest.raises(ValueError, match="Must be an int64 vector"):
            sampler(tokens)


def test_evaluation_windows_predict_each_token_once() -> None:
    windows = evaluation_windows(STREAM, context=10, limit=None)
    assert list(windows.shape) == [99, 11]
    assert torch.equal(windows[:, 1:].flatten(), torch.arange(1, 991))
    assert torch.equal(windows[:, 0], torch.arange(0, 990, 10))
    assert torch.equal(evaluation_windows(STREAM, context=10, limit=3), windows[[0, 33, 66]])
    assert torch.equal(evaluation_windows(STREAM, context=10, limit=10**6), windows)
    assert list(evaluation_windows(STREAM[:11], context=10, limit=None).shape) == [1, 11]


def test_bad_evaluation_windows() -> None:
    for tokens in (STREAM[:10], STREAM[:0]):
        with pytest.raises(ValueError, match="Too few tokens"):
            evaluation_windows(tokens, context=10, limit=None)
    with pytest.raises(ValueError, match="Invalid limit: 0"):
        evaluation_windows(STREAM, context=10, limit=0)
    with pytest.raises(ValueError, match="Invalid context: 0"):
        evaluation_windows(STREAM, context=0, limit=None)
