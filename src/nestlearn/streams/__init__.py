"""What is learned: parallel corpora and where they come from, token streams, and the metric on held-out text.

>>> from nestlearn import streams
>>> corpus = streams.load_parallel_help(["en", "fr"])  # doctest: +SKIP
>>> tokenizer = streams.load_or_train_tokenizer(corpus, corpus.languages)  # doctest: +SKIP
>>> french = streams.tokenize(corpus, tokenizer)["fr"]  # doctest: +SKIP
>>> sampler = streams.BatchSampler(french.train, batch_size=8, context=128, seed=0)  # doctest: +SKIP
"""

from nestlearn.streams.corpus import ParallelCorpus, load_parallel_help
from nestlearn.streams.errors import DataError
from nestlearn.streams.languages import LANGUAGES
from nestlearn.streams.metric import bits_per_byte
from nestlearn.streams.tokenizer import END, END_ID, load_or_train_tokenizer, token_bytes, train_tokenizer
from nestlearn.streams.tokens import BatchSampler, TokenizedLanguage, evaluation_windows, tokenize

__all__ = [
    "END",
    "END_ID",
    "LANGUAGES",
    "BatchSampler",
    "DataError",
    "ParallelCorpus",
    "TokenizedLanguage",
    "bits_per_byte",
    "evaluation_windows",
    "load_or_train_tokenizer",
    "load_parallel_help",
    "token_bytes",
    "tokenize",
    "train_tokenizer",
]
