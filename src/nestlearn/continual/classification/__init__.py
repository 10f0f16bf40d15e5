"""Ways of learning a stream of classification tasks, behind one interface."""

from nestlearn.continual.classification.base import Classifier, Ordinary, adam, sgd
from nestlearn.continual.classification.distillation import WithoutForgetting
from nestlearn.continual.classification.memories import ClassMeans, ExactHead, Levels
from nestlearn.continual.classification.penalties import (
    ElasticWeights,
    OnlineElasticWeights,
    SynapticIntelligence,
)
from nestlearn.continual.classification.replay import AveragedGradientMemory, DarkReplay, Replay
from nestlearn.continual.classification.run import Record, run_stream

__all__ = [
    "AveragedGradientMemory",
    "ClassMeans",
    "Classifier",
    "DarkReplay",
    "ElasticWeights",
    "ExactHead",
    "Levels",
    "OnlineElasticWeights",
    "Ordinary",
    "Record",
    "Replay",
    "SynapticIntelligence",
    "WithoutForgetting",
    "adam",
    "run_stream",
    "sgd",
]
