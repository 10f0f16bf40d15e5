"""Every parameter in exactly one place, and nothing guessed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nestlearn as nl
from nestlearn.levels import Memory, register
from nestlearn.levels.inspection import look
from tests.retrofitting.small import pretrained


def placed(system: nl.NestedSystem) -> list[str]:
    return [t for c in system.components if c.kind == "parameters" for t in c.tensors]


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_groups_frozen_and_forgotten_parameters():
    model = nn.Sequential(*two(), nn.Linear(2, 2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    groups = [{"params": model[0].parameters(), "name": "first"}, {"params": model[1].parameters()}]
    system = nl.inspect(model, torch.optim.SGD(groups, lr=0.1))
    assert sorted(placed(system)) == sorted(name for name, _ in model.named_parameters())
    assert system["first"].tensors == ("0.weight", "0.bias")
    assert system["group 1"].parameters == 10
    assert system["frozen"].period is None
    assert system["not trained"].tensors == ("3.weight", "3.bias")
    assert any("2 parameters want a gradient" in note for note in system.notes)
    assert [set(level.names) for level in system.levels] == [{"first", "group 1"}, {"frozen", "not trained"}]


def test_tied_parameters_are_counted_once():
    model = nn.ModuleDict({"in": nn.Embedding(5, 3), "out": nn.Linear(3, 5, bias=False)})
    model["out"].weight = model["in"].weight
    system = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert placed(system) == ["in.weight"]
    assert system.aliases == (("out.weight", "in.weight"),)
    assert system.level_of("out.weight") == system.level_of("in.weight")
    assert nl.NestedSystem.from_json(system.to_json()) == system
    assert system["weights"].parameters == 15


def test_a_tensor_that_is_not_the_models_is_listed():
    model, other = two(), nn.Linear(2, 2)
    system = nl.inspect(model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1))
    assert [name for name, _ in system.unplaced] == ["weights[4]", "weights[5]"]
    assert system["weights"].parameters == 26


def test_several_optimizers():
    model = two()
    first, second = torch.optim.Adam(model[0].parameters()), torch.optim.SGD(model.parameters(), lr=0.1)
    system = nl.inspect(model, {"one": first, "two": second})
    assert set(system["one weights"].tensors) == {"0.weight", "0.bias"}
    assert set(system["two weights"].tensors) == {"1.weight", "1.bias"}
    assert ("0.weight", "in one weights already, and in two weights again") in system.unplaced
    assert "momentum of one weights" in system.levels[0].names


def test_a_schedule_of_periods_by_name():
    model = two()
    optimizer = torch.optim.Adam(model.parameters())
    system = nl.inspect(model, optimizer, schedule={"0": 8, "": 64})
    assert system["0"].period == 8
    assert system["the rest"].tensors == ("1.weight", "1.bias")
    assert system["squares of the rest"].period == 64
    with pytest.raises(ValueError, match=r"nothing of parameter 1\.weight"):
        nl.inspect(model, optimizer, schedule={"0": 8})
    with pytest.raises(ValueError, match="period"):
        nl.inspect(model, optimizer, schedule={"": 0})


def test_tokens_of_a_step():
    model = two()
    system = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule=256)
    assert system.levels[0].frequency == "every 256 tokens (every step)"
    with pytest.raises(ValueError, match="at least 1 token"):
        nl.inspect(model, schedule=0)


def test_levels_without_an_optimizer():
    levels = (nl.Level("fast", 64), nl.Level("slow", 256))
    config = nl.HopeConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_heads=1, cms_periods=(64, 256)
    )
    model = nl.HopeForCausalLM(config)
    system = nl.inspect(model, schedule=levels)
    assert system["slow"].period == 256
    assert sorted(placed(system)) == sorted(name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="does not say which level"):
        nl.inspect(two(), schedule=levels)
    assert nl.inspect(two(), schedule=levels[:1])["fast"].parameters == 26
    with pytest.raises(ValueError, match="periods of its own"):
        nl.inspect(model, nl.optim.Nested(levels, model), schedule=levels)


def test_declared_periods_that_the_optimizer_does_not_keep_are_noted():
    config = nl.HopeConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_heads=1, cms_periods=(64, 256)
    )
    model = nl.HopeForCausalLM(config)
    system = nl.inspect(model, torch.optim.AdamW(model.parameters()))
    assert any("64, 256 tokens; this optimizer updates all of them every step" in n for n in system.notes)


def test_running_statistics_and_constants():
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3))
    model.register_buffer("scale", torch.ones(2))
    system, found = look(model, torch.optim.SGD(model.parameters(), lr=0.1))
    statistics = system["running statistics"]
    assert statistics.tensors == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert (statistics.bytes, statistics.unit, statistics.where) == (24, "step", ("1",))
    assert found.live("running statistics")[0][1] is model[1].running_mean
    assert "1 buffers are taken for constants: scale" in system.notes


def test_torch_modules_with_memories():
    recurrent = nl.inspect(nn.LSTM(4, 8, 2, bidirectional=True))["hidden state"]
    assert (recurrent.bytes, recurrent.period, recurrent.where) == (
        2 * 2 * 2 * 8 * 4,
        1,
        ("the model itself",),
    )
    assert nl.inspect(nn.LSTM(8, 16, proj_size=4))["hidden state"].bytes == (16 + 4) * 4
    assert nl.inspect(nn.GRU(8, 16))["hidden state"].bytes == 16 * 4
    attention = nl.inspect(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))["attention"]
    assert attention.where == ("self_attn",)
    assert "64 bytes each" in attention.context


def test_what_may_keep_a_state_and_is_unknown_is_listed():
    class FooMambaMixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Linear(2, 2)

    model = nn.ModuleDict({"a": FooMambaMixer(), "b": nn.Linear(2, 2)})
    system = nl.inspect(model)
    assert system.unplaced == ()  # transformers' name for a state space model
    FooMambaMixer.__name__ = "FooRecurrence"
    assert [name for name, _ in nl.inspect(model).unplaced] == ["a"]
    assert "levels.register" in nl.inspect(model).unplaced[0][1]
    register(FooMambaMixer, lambda _: [Memory("state", "recurrent_state", "none", "tokens")])
    assert nl.inspect(model).unplaced == ()
    assert nl.inspect(model)["state"].where == ("a",)


def test_a_retrofitted_model_is_divided_by_units():
    model, levels = pretrained("llama"), [nl.Level("fast", 64), nl.Level("slow", 256)]
    twin = nl.retrofit(model, levels)
    system = nl.inspect(twin, nl.NestedUnits(twin))
    total = sum(p.numel() for p in twin.parameters())
    assert sum(c.parameters for c in system.components) == total
    assert any(" of " in name for name in system["fast"].tensors)
    assert system["frozen"].parameters > 0


def test_bad_memories_are_refused():
    with pytest.raises(ValueError, match="kind must be one of"):
        Memory("a", "parameters", "", "")
    with pytest.raises(ValueError, match="period is a number of tokens, 0 or more; got -1"):
        Memory("a", "attention", "", "", period=-1)
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module is needed, got dict"):
        nl.inspect({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("DeltaNet", "gated delta memory"),
        ("GatedDeltaNet", "gated delta memory"),
        ("GatedLinearAttention", "linear attention"),
        ("MultiScaleRetention", "linear attention"),
        ("RWKV7Attention", "linear attention"),
        ("Mamba", "state space"),
        ("Mamba2", "state space"),
    ],
)
def test_classes_of_other_packages_are_known_by_name(name, memory):
    made = type(name, (nn.Module,), {})()
    made.q_proj, made.k_proj = nn.Linear(2, 2), nn.Linear(2, 2)
    system = nl.inspect(nn.ModuleList([made]))
    assert [c.name for c in system.components if c.where] == [memory]
    assert system.unplaced == ()


def test_statistics_of_a_norm_that_is_only_used_are_constants():
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).eval()
    system = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [c.name for c in system.components] == ["weights"]
    assert any("1.running_mean" in note for note in system.notes)


def body_and_head() -> nn.ModuleDict:
    return nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 4)})


def test_groups_of_one_level_keep_their_own_states():
    model = body_and_head()
    weights = [model["body"].weight, model["head"].weight]
    biases = [model["body"].bias, model["head"].bias]
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0}])
    system = nl.inspect(model, optimizer, schedule={"body": 4096, "": 512})
    for name in ("body", "body 2"):
        moments = {f"momentum of {name}", f"squares of {name}"}
        assert system.level_of(name).index == system.level_of(f"momentum of {name}").index + 1
        into = {t.source for t in system.transfers if t.target == name and t.kind == "parametric"}
        assert into == moments


def test_frozen_parameters_of_an_optimizer_are_frozen():
    model = two()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters())
    for schedule in (None, {"": 512}):
        system = nl.inspect(model, optimizer, schedule=schedule)
        assert system["frozen"].tensors == ("0.weight", "0.bias")
        assert system["frozen"].period is None
        assert sorted(placed(system)) == sorted(name for name, _ in model.named_parameters())


def test_a_schedule_that_fits_nothing_is_refused_and_wrappers_are_seen_through():
    model = body_and_head()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the schedule has 'bodi', with which no trained parameter begins"):
        nl.inspect(model, optimizer, schedule={"bodi": 4096, "": 512})
    system = nl.inspect(nn.DataParallel(model), optimizer, schedule={"body": 4096, "": 512})
    assert system["body"].tensors == ("module.body.weight", "module.body.bias")
    strange = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(2))], lr=0.1)
    assert len(nl.inspect(model, strange, schedule={"": 512}).unplaced) == 1


def test_backpropagation_joins_all_paces():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    system = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule={"0": 1, "1": 2, "2": 4})
    pairs = {frozenset((t.source, t.target)) for t in system.transfers if t.kind == "backpropagation"}
    assert pairs == {frozenset("01"), frozenset("02"), frozenset("12")}


def test_a_wrapper_that_nobody_knows_is_not_looked_through():
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, inner) -> None:
            super().__init__(inner.param_groups, {})
            self.optimizer = inner

    model = two()
    system = nl.inspect(model, Lookahead(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert [name for name, _ in system.unplaced] == ["Lookahead"]


def test_attention_by_its_projections_is_said_to_be_a_guess():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)

    class StrangeAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W_query, self.W_key, self.W_value = (nn.Linear(4, 4) for _ in range(3))

    system = nl.inspect(nn.ModuleList([Attention(), Named(), StrangeAttention()]))
    assert system["attention"].where == ("0", "1")
    assert "taken for softmax attention by their projections: Attention, Named" in system.notes
    assert [name for name, _ in system.unplaced] == ["2"]
