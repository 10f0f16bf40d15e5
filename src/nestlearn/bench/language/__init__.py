"""Streams of text, and the ways in which a small causal language model learns on."""
