"""Ways of learning a stream of classification tasks, behind one interface."""

from nestlearn.continual.classification.adapters import LowRank
from nestlearn.continual.classification.averaging import AveragedWeights
from nestlearn.continual.classification.base import Classifier, Fresh, Ordinary, adam, sgd
from nestlearn.continual.classification.distillation import WithoutForgetting
from nestlearn.continual.classification.features import random_features
from nestlearn.continual.classification.memories import ClassMeans, ExactHead, Levels
from nestlearn.continual.classification.orthogonal import GradientProjection, OrthogonalWeights
from nestlearn.continual.classification.penalties import (
    ElasticWeights,
    OnlineElasticWeights,
    SynapticIntelligence,
)
from nestlearn.continual.classification.renewal import ContinualBackprop
from nestlearn.continual.classification.replay import AveragedGradientMemory, DarkReplay, Replay
from nestlearn.continual.classification.run import Record, run_stream
from nestlearn.continual.classification.sessions import FirstSession

__all__ = [
    "AveragedGradientMemory",
    "AveragedWeights",
    "ClassMeans",
    "Classifier",
    "ContinualBackprop",
    "DarkReplay",
    "ElasticWeights",
    "ExactHead",
    "FirstSession",
    "Fresh",
    "GradientProjection",
    "Levels",
    "LowRank",
    "OnlineElasticWeights",
    "Ordinary",
    "OrthogonalWeights",
    "Record",
    "Replay",
    "SynapticIntelligence",
    "WithoutForgetting",
    "adam",
    "random_features",
    "run_stream",
    "sgd",
]
