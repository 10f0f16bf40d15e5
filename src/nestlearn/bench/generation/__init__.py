"""Streams of intents whose names a causal language model has to write."""
