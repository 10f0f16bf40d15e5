"""What :mod:`recipes.teach` compares: the base model, ways of learning on, and the frontier of both."""
