"""lm-eval with our models: the same likelihoods as by hand, a memory that is reset, and one that is not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM

import nestlearn as nl
from nestlearn.evaluation.harness import NestlearnLM, NestlearnStreamLM
from nestlearn.models.scoring import feed
from tests.continual.small import learner
from tests.evaluation.small import hope, in_folder, one_by_one, pretrained, texts, tokenizer

CHOICES = [" red", " blue", " the tree walks", " a"]
STOP = {"until": ["."], "max_gen_toks": 6}


def questions(count: int = 4, task: str = "colours") -> list[Instance]:
    """Requests of multiple-choice questions."""
    return [
        Instance("loglikelihood", {}, (f"{text[:25]}\nIt is:", choice), i, (task, doc, 1))
        for doc, text in enumerate(texts(count))
        for i, choice in enumerate(CHOICES)
    ]


def rolling(count: int = 4) -> list[Instance]:
    """Requests of whole texts, of several lengths."""
    return [
        Instance("loglikelihood_rolling", {}, (text[: 10 + 14 * doc],), 0, ("reading", doc, 1))
        for doc, text in enumerate(texts(count, 30))
    ]


def prompts(count: int = 4) -> list[Instance]:
    """Requests of continuations."""
    return [
        Instance("generate_until", {}, (text[: 8 + 5 * doc], dict(STOP)), 0, ("writing", doc, 1))
        for doc, text in enumerate(texts(count))
    ]


def ids(text: str) -> list[int]:
    return list(tokenizer()(text)["input_ids"])


def answers(lm: Any, requests: list[Instance]) -> list[Any]:
    return list(getattr(lm, requests[0].request_type)(requests))


def same(expected: list[Any], got: list[Any], tolerance: float = 1e-4) -> None:
    assert len(expected) == len(got)
    for one, other in zip(expected, got, strict=True):
        if isinstance(one, tuple):
            assert one[1] == other[1]
            one, other = one[0], other[0]  # noqa: PLW2901
        assert one == other if isinstance(one, str) else abs(one - other) < tolerance, f"{one} and {other}"


def ours(model: Any, **settings: Any) -> NestlearnLM:
    return NestlearnLM(model, tokenizer(), **settings)


def stream(model: Any, **settings: Any) -> NestlearnStreamLM:
    return NestlearnStreamLM(model, tokenizer(), **settings)


def test_both_are_known_by_name() -> None:
    assert get_model("nestlearn") is NestlearnLM
    assert get_model("nestlearn-stream") is NestlearnStreamLM


@pytest.mark.parametrize("model", [hope(), pretrained()], ids=["hope", "llama"])
def test_likelihoods_are_those_of_one_pass_a_request(model: Any) -> None:
    requests = questions()
    expected = one_by_one(model, [(ids(request.args[0]), ids(request.args[1])) for request in requests])
    same(expected, answers(ours(model, batch_size=3), requests))
    texts = rolling()
    expected = [log for log, _ in one_by_one(model, [([1], ids(request.args[0])) for request in texts])]
    same(expected, answers(ours(model, batch_size=3), texts))


def test_agrees_with_the_harness_own_model() -> None:
    theirs, own = HFLM(pretrained(), tokenizer=tokenizer()), ours(pretrained(), batch_size=3)
    for requests in (questions(), rolling(6), prompts()):  # some texts are longer than its 64 positions
        same(answers(theirs, requests), answers(own, requests))


@pytest.mark.parametrize("make", [questions, rolling, prompts])
def test_neither_the_order_nor_the_requests_before_matter(make: Any) -> None:
    model, requests = hope(), make()
    lm = ours(model)
    expected = answers(lm, requests)
    assert len(set(expected)) > 1
    order = list(range(len(requests)))
    random.Random(1).shuffle(order)
    same([expected[i] for i in order], answers(lm, [requests[i] for i in order]))
    for i, request in enumerate(requests):
        same([expected[i]], answers(lm, [request]))


@pytest.mark.parametrize("make", [questions, rolling])
def test_the_batch_size_does_not_matter(make: Any) -> None:
    requests = make()
    expected = answers(ours(hope()), requests)
    for batch_size in (2, 3, 64):
        same(expected, answers(ours(hope(), batch_size=batch_size), requests))


def test_prompts_of_different_lengths_can_be_one_batch() -> None:
    requests = prompts()
    same(answers(ours(hope()), requests), answers(ours(hope(), batch_size=3), requests))


def test_prompts_are_continued_as_by_generate() -> None:
    model, requests = hope(), prompts()
    for request, got in zip(requests, answers(ours(model), requests), strict=True):
        prompt = torch.tensor([ids(request.args[0])])
        with torch.no_grad():
            written = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
        text = tokenizer().decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        assert got == text.split(".")[0]


def test_a_hope_has_no_limit_and_others_have_their_own() -> None:
    long = Instance("loglikelihood", {}, (" ".join(texts(60))[:2100], " red"), 0, ("long", 0, 1))
    context = ids(long.args[0])
    assert len(context) > 2048  # where lm-eval would cut
    with torch.no_grad():
        logits = hope()(torch.tensor([context + ids(" red")[:-1]])).logits[0, -4:].log_softmax(-1)
    expected = float(logits.gather(1, torch.tensor(ids(" red"))[:, None]).sum())
    assert answers(ours(hope()), [long])[0][0] == pytest.approx(expected, abs=1e-3)
    assert ours(pretrained()).max_length == 64
    assert ours(hope(), max_length=12).max_length == 12


def test_folders_are_loaded(tmp_path: Path) -> None:
    for name, model in (("hope", hope()), ("llama", pretrained())):
        lm = NestlearnLM(in_folder(model, tmp_path / name), batch_size="2", device="cpu")
        assert type(lm.model) is type(model)
        same(answers(ours(model), questions()), answers(lm, questions()))
        again = get_model("nestlearn").create_from_arg_string(f"pretrained={tmp_path / name},device=cpu")
        same(answers(lm, questions()), answers(again, questions()))


def test_a_memory_is_loaded_onto_its_base(tmp_path: Path) -> None:
    base = pretrained()
    taught = learner(base)
    taught.learn(texts(8))
    taught.save(tmp_path / "memory.safetensors")
    lm = NestlearnLM(in_folder(base, tmp_path / "base"), memory=tmp_path / "memory.safetensors", device="cpu")
    expected = answers(ours(taught.model), rolling())
    same(expected, answers(lm, rolling()))
    assert all(abs(a - b) > 1e-2 for a, b in zip(expected, answers(ours(base), rolling()), strict=True))
    other = in_folder(type(base)(base.config), tmp_path / "other")
    with pytest.raises(nl.continual.memory_file.MemoryFileError, match="was learned on"):
        NestlearnLM(other, memory=tmp_path / "memory.safetensors", device="cpu")


def test_the_first_document_of_a_stream_is_as_usual() -> None:
    for requests in (questions(1), rolling(1), prompts(1)):
        same(answers(ours(hope()), requests), answers(stream(hope()), requests))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_alternatives_start_from_one_snapshot_and_the_question_is_read(batch_size: int) -> None:
    model, requests, end = hope(), questions(3), 2
    before: list[int] = []
    pairs = []
    for request in requests:
        context = ids(request.args[0])
        pairs.append((before + context, ids(request.args[1])))
        if request.idx == len(CHOICES) - 1:
            before = [*before, *context, end]
    expected = one_by_one(model, pairs)
    lm = stream(model, batch_size=batch_size)
    same(expected, answers(lm, requests))
    assert lm._session.get_seq_length() == len(before)  # no answer among them
    reference = feed(model, before)
    again = one_by_one(model, [([*before, 9, 8], [7])])
    same(again, [tuple(r) for r in _scored(model, reference)])
    same(again, [tuple(r) for r in _scored(model, lm._session)])


def _scored(model: Any, session: Any) -> Any:
    return nl.models.scoring.log_likelihoods(model, [([9, 8], [7])], past_key_values=session)


def test_the_order_of_alternatives_does_not_matter_in_a_stream_but_that_of_documents_does() -> None:
    requests = questions(3)
    by_document = [requests[i : i + 4] for i in range(0, 12, 4)]
    expected = answers(stream(hope()), requests)
    turned = [request for group in by_document for request in group[::-1]]
    found = answers(stream(hope()), turned)
    same(expected, [answer for i in range(0, 12, 4) for answer in found[i : i + 4][::-1]])
    backwards = answers(stream(hope()), [request for group in by_document[::-1] for request in group])
    assert abs(backwards[0][0] - expected[8][0]) > 1e-3


def test_alternatives_in_the_question_are_not_read() -> None:
    """What the alternatives' contexts share is read; answers by themselves have no context."""
    asked = [("the tree is red and", " walks"), ("the tree is blue and", " walks"), ("", " walks")]
    requests = [Instance("loglikelihood", {}, pair, i, ("t", 0, 1)) for i, pair in enumerate(asked)]
    lm = stream(hope())
    answers(lm, requests)
    expected = feed(hope(), [*ids("the tree is "), 2])
    assert lm._session.get_seq_length() == expected.get_seq_length()
    same([tuple(r) for r in _scored(hope(), expected)], [tuple(r) for r in _scored(hope(), lm._session)])
    alone = stream(hope())
    answers(alone, requests[2:])
    assert alone._session is None  # nothing to read


def test_texts_are_read_one_after_the_other() -> None:
    model, requests = hope(), rolling(3)
    tokens, pairs = [], []
    for request in requests:
        own = ids(request.args[0])
        pairs.append(([*tokens, 1], own))
        tokens += [1, *own]
    lm = stream(model)
    same([log for log, _ in one_by_one(model, pairs)], answers(lm, requests))
    assert lm._session.get_seq_length() == len(tokens)
    lm.reset()
    same(answers(ours(model), requests[2:]), answers(lm, requests[2:]))


def test_prompts_are_read_and_what_is_written_is_not() -> None:
    model, requests, before = hope(), prompts(3), []
    lm = stream(model)
    assert answers(ours(model), requests) != answers(stream(model), requests)  # the memory matters
    for request, got in zip(requests, answers(lm, requests), strict=True):
        before += ids(request.args[0])
        prompt = torch.tensor([before])
        with torch.no_grad():
            written = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
        text = tokenizer().decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        assert got == text.split(".")[0]
        before.append(2)
    assert lm._session.get_seq_length() == len(before)


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    for settings, named in (
        ({"batch_size": "auto"}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"softmax_dtype": "float32"}, "softmax_dtype"),
        ({"logits_cache": False}, "logits_cache"),
        ({"backend": "seq2seq"}, "backend seq2seq"),
    ):
        with pytest.raises(ValueError, match=named):
            ours(hope(), **settings)
    bare = tokenizer()
    bare.bos_token = bare.eos_token = None
    with pytest.raises(ValueError, match="prefix_token_id"):
        NestlearnLM(hope(), bare)
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        stream(pretrained())
    with pytest.raises(ValueError, match="max_length"):
        stream(hope(), max_length=100)
    with pytest.raises(ValueError, match="use_cache"):
        stream(hope()).set_cache_hook(None)


def test_an_empty_prompt_begins_a_text() -> None:
    request = Instance("generate_until", {}, ("", dict(STOP)), 0, ("writing", 0, 1))
    model = hope()
    begin = tokenizer().decode([ours(model).prefix_token_id])
    same_text = Instance("generate_until", {}, (begin, dict(STOP)), 0, ("writing", 0, 1))
    assert answers(ours(model), [request]) == answers(ours(model), [same_text])
    assert len(answers(NestlearnStreamLM(model, tokenizer(), device="cpu"), [request, *prompts(2)])) == 3


def test_beams_go_on_from_the_memory() -> None:
    """One session becomes as many as there are beams."""
    settings = {**STOP, "do_sample": False, "num_beams": 2}
    requests = [
        Instance("generate_until", {}, (text[:9], dict(settings)), 0, ("writing", doc, 1))
        for doc, text in enumerate(texts(2))
    ]
    model = hope()
    got = answers(NestlearnStreamLM(model, tokenizer(), device="cpu"), requests)
    assert got[0] == answers(ours(model), requests[:1])[0]
    first, second = (ids(request.args[0]) for request in requests)
    end = ours(model).eot_token_id
    whole = torch.tensor([[*first, end, *second]])
    with torch.no_grad():
        written = model.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            max_new_tokens=6,
            num_beams=2,
            do_sample=False,
            pad_token_id=0,
        )
    text = tokenizer().decode(written[0, whole.shape[1] :], skip_special_tokens=True)
    assert got[1] == text.split(".")[0]
