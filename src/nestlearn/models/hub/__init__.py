"""Models for others: with their source, and with a card that says what they are."""

from nestlearn.models.hub.card import model_card
from nestlearn.models.hub.export import export

__all__ = ["export", "model_card"]
