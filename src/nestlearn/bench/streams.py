"""All streams of the benchmark by name."""

from __future__ import annotations

from collections.abc import Mapping

from nestlearn.bench.base import BenchStream
from nestlearn.bench.classification.digits import DIGITS

STREAMS: Mapping[str, BenchStream] = {own.name: own for own in DIGITS}
