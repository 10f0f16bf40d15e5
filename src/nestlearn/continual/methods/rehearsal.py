"""Rehearsal: a model that goes on saying what it knew while it learns something else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.continual.methods.base import Tree, causal_loss
from nestlearn.continual.methods.tuning import positive, whole
from nestlearn.continual.storage import size_of
from nestlearn.levels import Surprise
from nestlearn.retrofitting import own_samples, positions, start_token
from nestlearn.retrofitting.copies import sharing_copy

#: Tokens of its own text at which key memories look.
CALIBRATION = 40_960


class Rehearsal:
    """Texts that a model draws from itself at rest, learned beside what comes next.

    When the subject changes, which the loss tells, a copy of the model is kept (the *speaker*). From then on
    the speaker writes twice as much text as comes in, and the model is held to its predictions on that:

        w CE(new text) + (1 - w) KL(speaker || model) on the speaker's text,    w = 1 / (1 + subjects)

    At a temperature of 1 the second term is, in expectation, the divergence of the two distributions of whole
    texts: what an anchor in the weights only approximates. By default text is drawn a little warmer than the
    speaker speaks: what it predicts is held to in more places, among them more of those that real text has
    and the speaker seldom comes to. No text is stored and nobody says when a subject ends. It is the offline
    half of consolidation, as in sleep, which the paper names and leaves open: pseudorehearsal (Robins 1995,
    Connection Science 7) with a generative model (Shin et al. 2017, arXiv 1705.08690; language models: Sun et
    al. 2020, arXiv 1909.03329) and distillation (Hinton et al. 2015, arXiv 1503.02531).

    The speaker is one more level, the slowest: it is updated once a subject, and hands on what it knows by
    generating the context of the others (Sec. 3.3). So that it begins with any subject alike, windows of new
    text are learned as beginnings of texts. A subject that comes again counts again. A step costs nearly four
    times as much, and the drawing of the text.

    Args:
        subjects: That the model knows when it begins, as weight against a new one; more for a model that
            has learned much more than will come.
        ahead: Windows that are drawn at a time.
        seed: Of the draws.
        windows: Of its own text for each of the new. With fewer, less is kept at less cost.
        temperature: Of the draws; 1 for text as the speaker speaks.

    Attributes:
        subjects: Those and the changes that were noticed.
        speaker: The copy; None before :meth:`attach`.

    Raises:
        ValueError: For a value outside its range.
    """

    def __init__(
        self, subjects: int = 2, ahead: int = 64, seed: int = 0, windows: int = 2, temperature: float = 1.2
    ) -> None:
        for name, value in (("subjects", subjects), ("ahead", ahead), ("windows", windows)):
            whole(name, value)
        positive("temperature", temperature)
        self._settings: Tree = {
            "subjects": subjects, "ahead": ahead, "seed": seed,
            "windows": windows, "temperature": temperature,
        }  # fmt: skip
        self.subjects, self.ahead, self.seed = subjects, ahead, seed
        self.windows, self.temperature = windows, temperature
        self.speaker: nn.Module | None = None
        self._drawn: list[Tensor] = []
        self._draws = 0
        self._surprise = Surprise()

    @property
    def settings(self) -> Tree:
        """What it was made with, as JSON knows it."""
        return dict(self._settings)

    def attach(self, base: nn.Module) -> None:
        """Make a model that knows something the first speaker."""
        floating = [name for name, p in base.named_parameters() if p.is_floating_point()]
        self.speaker = sharing_copy(base, floating).requires_grad_(False).eval()
        self._drawn = []

    @torch.no_grad()
    def remember(self, model: nn.Module) -> None:
        """Speak for a model as it is now, from the next text on."""
        own = dict(self._attached.named_parameters())
        for name, parameter in model.named_parameters():
            if name in own:
                own[name].copy_(parameter)
        self._drawn = []

    @property
    def _attached(self) -> nn.Module:
        if self.speaker is None:
            raise ValueError("the rehearsal has no speaker yet: attach(model) first")
        return self.speaker

    def begin(self, model: nn.Module, batch: Tensor, speaker: nn.Module | None = None) -> tuple[bool, Tensor]:
        """The loss of new text ``[]``; if it begins another subject, the model speaks from now on.

        Args:
            model: The model that learns.
            batch: Windows ``[B, T + 1]``; see :meth:`new_loss`.
            speaker: Who speaks from then on, where that is not the model itself.

        Returns:
            Whether a subject has begun, and the loss.
        """
        new = self.new_loss(model, batch)
        value = float(new.detach())
        changed = math.isfinite(value) and self._surprise(value)
        if changed:
            self.change(model if speaker is None else speaker)
        return changed, new

    def new_loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The loss ``[]`` of windows ``[B, T + 1]`` as beginnings of texts.

        Those that do not begin with the token that texts begin with are moved to make room for it.
        """
        start = torch.full_like(batch[:, :1], start_token(self._attached))
        return causal_loss(
            model, torch.where(batch[:, :1] == start, batch, torch.cat([start, batch[:, :-1]], dim=1))
        )

    def change(self, model: nn.Module) -> None:
        """End a subject: the model knows one more, and speaks from now on."""
        self.subjects += 1
        self.remember(model)

    def texts(self, count: int, length: int) -> Tensor:
        """Windows ``[count, length]`` that the speaker has drawn; none is given twice.

        They are shorter where the model has fewer positions.

        Raises:
            ValueError: If the model cannot generate.
        """
        length = min(length, positions(self._attached) or length)
        if self._drawn and self._drawn[0].numel() != length:
            self._drawn = []
        while len(self._drawn) < count:
            self._draws += 1
            seed = self.seed * 1_000_003 + self._draws
            drawn = own_samples(
                self._attached, self.ahead * length, length,
                batch_size=self.ahead, seed=seed, temperature=self.temperature,
            )  # fmt: skip
            self._drawn += [window for batch in drawn for window in batch]
        chosen, self._drawn = self._drawn[:count], self._drawn[count:]
        return torch.stack(chosen)

    def calibration(self) -> list[Tensor]:
        """Batches ``[8, 128]`` of its own text, for levels that protect what it knows."""
        return [self.texts(8, 128) for _ in range(CALIBRATION // (8 * 128))]

    def loss(self, model: nn.Module, new: Tensor, batch: Tensor) -> Tensor:
        """What is minimised.

        Args:
            model: The model that learns.
            new: Its loss on the new text, a mean over tokens.
            batch: That text ``[B, T + 1]``; ``windows`` times as much is rehearsed.

        Returns:
            A scalar; its gradient has both parts.
        """
        if not bool(torch.isfinite(new)):
            return new  # refused by whoever takes the step, and nothing has been drawn
        own = self.texts(self.windows * len(batch), batch.shape[1] - 1).to(batch.device)
        with torch.no_grad():
            wanted = _predictions(self._attached, own)
        divergence = F.kl_div(_predictions(model, own), wanted, reduction="batchmean", log_target=True)
        return new.lerp(divergence, self.subjects / (1.0 + self.subjects))

    def state_dict(self) -> Tree:
        """Everything that the next step depends on."""
        own = {name: p.detach() for name, p in self._attached.named_parameters()}
        return {
            "subjects": self.subjects,
            "speaker": own,
            "drawn": list(self._drawn),
            "draws": self._draws,
            "surprise": self._surprise.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: If it is of another model.
        """
        own = dict(self._attached.named_parameters())
        if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in state["speaker"].items()}:
            raise ValueError("the state is of a model with other parameters")
        for name, value in state["speaker"].items():
            own[name].copy_(value)
        self.subjects, self._draws = int(state["subjects"]), int(state["draws"])
        device = next(iter(own.values())).device
        self._drawn = [window.to(device) for window in state["drawn"]]
        self._surprise.load_state_dict(state["surprise"])

    def stored_bytes(self) -> int:
        """Of the speaker: it is kept from subject to subject."""
        return size_of(*self._attached.parameters())


def _predictions(model: nn.Module, ids: Tensor) -> Tensor:
    """Log-probabilities of the next token after every token ``[B * T, V]``, in float32 at least."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
