"""How good a language model is: likelihoods in EleutherAI's lm-eval, and perplexity of long documents.

``harness`` has the classes that lm-eval calls models, ``documents`` what our own tasks are made of (their
descriptions are in ``tasks/``), ``long_texts`` measures perplexity, by position.
"""

from nestlearn.evaluation.long_texts import Band, Perplexity, measure, perplexity

__all__ = ["Band", "Perplexity", "measure", "perplexity"]
