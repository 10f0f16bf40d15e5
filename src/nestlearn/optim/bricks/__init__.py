"""The pieces that optimizers are made of, each a function on tensors or on lists of them."""
