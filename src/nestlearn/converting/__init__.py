"""From one form of a model to another: training checkpoints, Hugging Face folders, single files, memories."""

from nestlearn.converting.content import Content
from nestlearn.converting.conversion import Conversion, convert, kind_of

__all__ = ["Content", "Conversion", "convert", "kind_of"]
