"""What :mod:`recipes.optimizers` compares: entries, tasks, the choice of learning rates, and the pictures."""
