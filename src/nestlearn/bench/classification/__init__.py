"""Streams of classification tasks, and the methods on them."""
