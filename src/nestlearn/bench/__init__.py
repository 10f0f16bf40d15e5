"""The continual-learning benchmark: the same streams, measures and search for every method."""
