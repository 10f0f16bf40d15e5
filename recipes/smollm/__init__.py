"""What :mod:`recipes.smollm2` measures, and its report."""
