"""All streams of the benchmark by name."""

from __future__ import annotations

from collections.abc import Mapping

from nestlearn.bench.base import BenchStream
from nestlearn.bench.classification.digits import DIGITS
from nestlearn.bench.classification.intents import INTENTS
from nestlearn.bench.generation.intents import ANSWERED
from nestlearn.bench.language.texts import TEXTS

STREAMS: Mapping[str, BenchStream] = {own.name: own for own in (*DIGITS, *INTENTS, *ANSWERED, *TEXTS)}
