"""Speed and memory; never a test."""
