"""Experiments as functions: each writes ``results/NAME.json``."""
