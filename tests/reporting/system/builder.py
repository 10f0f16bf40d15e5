"""Documents to draw: a Hope model as one finds it, systems of any size, and what happened along a stream."""

from __future__ import annotations

import math
from typing import Any

KINDS = ("parametric", "non-parametric", "backpropagation", "initialisation", "generation")


def component(name: str, kind: str = "parameters", **values: Any) -> dict[str, Any]:
    base = {
        "name": name,
        "kind": kind,
        "objective": "the loss, by gradient descent",
        "context": "batches of the stream",
        "period": 512,
        "unit": "token",
        "parameters": 0,
        "bytes": 0,
        "tensors": [],
        "where": [],
    }
    return base | values


def layers(what: str, number: int = 12) -> list[str]:
    return [f"model.layers.{i}.{what}" for i in range(number)]


def edge(source: str, target: str, kind: str, what: str) -> dict[str, str]:
    return {"source": source, "target": target, "kind": kind, "what": what}


def _hope_components() -> list[dict[str, Any]]:
    gradients = {"objective": "the gradients, by a decaying mean", "context": "gradients of the level"}
    mixers, blocks = layers("mixer"), layers("cms.blocks.0")
    memory = {"kind": "fast_weights", "objective": "‖M(k) − v‖², by delta gradient descent", "unit": "token"}
    memory |= {"context": "keys and values of the tokens of a sequence", "period": 16, "where": mixers}
    return [
        component(
            "attention",
            "attention",
            objective="a Nadaraya-Watson estimate, without a parameter to fit",
            context="keys and values of a window",
            period=0,
            where=layers("attention"),
        ),
        component("projection memories", bytes=1_966_080, **memory),
        component("main memory", bytes=491_520, **memory),
        component(
            "fast.exp_avg", "optimizer_state", period=1024, bytes=18_874_368, where=blocks, **gradients
        ),
        component(
            "fast.exp_avg_sq", "optimizer_state", period=1024, bytes=18_874_368, where=blocks, **gradients
        ),
        component(
            "fast",
            period=1024,
            parameters=4_718_592,
            bytes=18_874_368,
            where=blocks,
            tensors=[f"{name}.{way}_proj.weight" for name in blocks for way in ("up", "down")],
        ),
        component(
            "middle",
            period=8192,
            parameters=4_718_592,
            bytes=18_874_368,
            where=layers("cms.blocks.1"),
            tensors=[f"{name}.up_proj.weight" for name in layers("cms.blocks.1")],
        ),
        component(
            "slow",
            period=65_536,
            parameters=11_010_048,
            bytes=44_040_192,
            where=["model.embed_tokens", *layers("cms.blocks.2")],
            tensors=["model.embed_tokens.weight"],
        ),
        component(
            "key memories of slow",
            "key_memory",
            objective="keys of finished contexts, to keep what reads them",
            context="contexts that a surprise has ended",
            period=65_536,
            bytes=7_077_888,
        ),
        component(
            "frozen", period=None, unit=None, parameters=98_304, bytes=393_216, where=["model.positions"]
        ),
    ]


def _hope_edges() -> list[dict[str, str]]:
    read = "what the layer puts out is read from it"
    return [
        edge("attention", "fast", "non-parametric", "its reads are the context of the blocks"),
        edge("projection memories", "main memory", "generation", "they make its keys, values and rates"),
        edge("main memory", "fast", "parametric", read),
        edge("fast.exp_avg", "fast", "parametric", "the update is read from it"),
        edge("fast.exp_avg_sq", "fast", "parametric", "the update is scaled by it"),
        edge("fast", "fast.exp_avg", "backpropagation", "its gradients are what it takes in"),
        edge("fast", "fast.exp_avg_sq", "backpropagation", "its gradients are what it takes in"),
        edge("slow", "projection memories", "initialisation", "the state that every sequence starts from"),
        edge("slow", "main memory", "initialisation", "the state that every sequence starts from"),
        edge("middle", "fast", "backpropagation", "gradients go through it"),
        edge("slow", "middle", "backpropagation", "gradients go through it"),
        edge("slow", "key memories of slow", "generation", "its inputs are the keys"),
        edge("key memories of slow", "slow", "parametric", "they hold back updates that would be forgetting"),
        edge("frozen", "attention", "generation", "positions make its keys"),
    ]


def hope() -> dict[str, Any]:
    """A Hope model with three levels, one of each kind of component and edge."""
    levels = [
        ("every token", ["attention"]),
        ("every 16 tokens", ["projection memories", "main memory"]),
        ("every 1,024 tokens", ["fast.exp_avg", "fast.exp_avg_sq"]),
        ("every 1,024 tokens", ["fast"]),
        ("every 8,192 tokens", ["middle"]),
        ("every 65,536 tokens", ["slow", "key memories of slow"]),
        ("never", ["frozen"]),
    ]
    return {
        "format": "nestlearn-system-1",
        "title": "HopeForCausalLM trained by Nested",
        "tokens_per_step": 1024,
        "levels": [
            {"index": i, "frequency": frequency, "components": names}
            for i, (frequency, names) in enumerate(levels, start=1)
        ],
        "components": _hope_components(),
        "edges": _hope_edges(),
        "unplaced": [
            {"name": "layers.3.ssm", "why": "a module of type FooMixer keeps a state that is not known"}
        ],
        "notes": ["cms_periods names 131072: the optimizer never reaches it within this stream"],
    }


def system(names: list[str], levels: int = 1, edges: int = 0) -> dict[str, Any]:
    """A system of these components, spread over the levels, with edges of all kinds between them."""
    levels = min(levels, len(names))
    kinds = ("parameters", "optimizer_state", "fast_weights", "attention", "recurrent_state", "key_memory")
    size = [1000 * 3 ** (i % 9) for i in range(len(names))]
    return {
        "format": "nestlearn-system-1",
        "title": "a system",
        "tokens_per_step": 512,
        "levels": [
            {"index": i + 1, "frequency": f"every {2**i} tokens", "components": names[i::levels]}
            for i in range(levels)
        ],
        "components": [
            component(
                name, kinds[i % len(kinds)], parameters=size[i], bytes=4 * size[i], where=layers("mlp", 3)
            )
            for i, name in enumerate(names)
        ],
        "edges": [
            edge(
                names[i * 7 % len(names)],
                names[(i * 11 + 1 + i // 9) % len(names)],
                KINDS[i % 5],
                f"what goes along edge {i}",
            )
            for i in range(edges)
        ],
        "unplaced": [],
        "notes": [],
    }


def large() -> dict[str, Any]:
    """As large as they come: 30 components in 12 levels, 80 edges."""
    words = ("fast", "middle", "slow", "deep", "wide", "outer")
    names = [
        f"{words[i % 6]} {('weights', 'momentum', 'squares', 'memory', 'state')[i // 6]}" for i in range(30)
    ]
    return system(names, levels=12, edges=80)


def _wave(at: int, length: float) -> float:
    return math.sin(at / length) + 0.5 * math.sin(at / length * 2.7 + 1)


def _bits(task: int, at: int, third: int) -> float:
    """Falls while the task is learned, and rises a little when the next one is."""
    gone = max(0, at - task * third)
    learned = min(gone, third)
    return 2.2 + 5.8 * math.exp(-learned / 40_000) + 0.25 * (gone - learned) / third - 0.2 * (gone == 0)


def run(end: int = 655_360, every: int = 1024) -> dict[str, Any]:
    """Three languages one after the other, learned by three levels."""
    third, steps = -(-end // 3), range(every, end + 1, every)
    marks = range(0, end + 1, every * 20)
    return {
        "format": "nestlearn-run-1",
        "title": "three languages",
        "finished": True,
        "end": end,
        "stages": [
            {"name": name, "start": i * third, "end": (i + 1) * third if i < 2 else end}
            for i, name in enumerate(("English", "French", "German"))
        ],
        "levels": [
            {"name": name, "period": every * n, "updates": list(range(every * n, end + 1, every * n))}
            for name, n in (("fast", 1), ("middle", 8), ("slow", 64))
        ],
        "tasks": [
            {
                "name": name,
                "measure": "bits per byte",
                "lower_is_better": True,
                "points": [[at, round(_bits(i, at, third), 4)] for at in marks],
            }
            for i, name in enumerate(("English", "French", "German"))
        ],
        "loss": [
            [at, round(2.1 + 4 * math.exp(-((at - 1) % third) / 25_000) + 0.06 * _wave(at, 3000), 5)]
            for at in steps
        ],
        "surprises": [third + 2048, 2 * third + 3072],
        "diagnostics": {
            name: {
                "update_ratio": [[at, round(0.01 * s * (1.3 + 0.3 * _wave(at, 9000)), 6)] for at in marks],
                "drift": [[at, round(0.4 * s * (1 - math.exp(-at / 2e5)), 5)] for at in marks],
                "cancel": [[at, round(min(0.99, 0.3 + 0.2 * _wave(at, 50_000) ** 2), 4)] for at in marks],
                "agreement": [[at, round(0.5 * _wave(at + 9000 * s, 60_000), 4)] for at in marks],
                "dead": [[at, round(0.02 + 0.01 * at / end, 4)] for at in marks],
            }
            for name, s in (("fast", 1.0), ("middle", 0.5), ("slow", 0.2))
        }
        | {
            "slow": {
                "rank": [[at, 0.2 + 0.3 * at / end] for at in marks],
                "fill": [[at, at / end] for at in marks],
            }
        },
        "alarms": [
            {
                "tokens": every * 40,
                "level": "fast",
                "kind": "saturates",
                "sentence": "level 'fast' saturates: its updates cancel 92 % of each other",
            },
            {
                "tokens": third + 4096,
                "level": "middle",
                "kind": "interferes",
                "sentence": "level 'middle' interferes: its gradients undo the context before",
            },
        ],
    }
