"""Nested Learning."""
