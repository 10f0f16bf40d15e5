"""A pretrained language model that learns from a stream, and what it learned as one small file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.continual.documents import Stream, Windows, window_length
from nestlearn.continual.identity import Identity, identify
from nestlearn.continual.learning import Learned, learn
from nestlearn.continual.memory_file import MemoryFileError, check_base, read_memory, save_memory
from nestlearn.continual.methods import METHODS, Change, Levels, Method
from nestlearn.continual.methods.tuning import whole
from nestlearn.continual.scoring import Score, score
from nestlearn.levels import Level
from nestlearn.observing import Track
from nestlearn.retrofitting import own_samples, retrofit_of


class Learner:
    """Learns from text as it comes, in levels, without losing what the model knew.

    >>> learner = nl.Learner(model, tokenizer)  # doctest: +SKIP
    >>> learner.learn(texts)  # doctest: +SKIP
    >>> learner.save("memory.safetensors")  # doctest: +SKIP

    The given model stays as it is and lends what does not change; several learners can share one. (A model
    that was retrofitted before learns itself, for one learner only.) Modules are in evaluation mode
    throughout: nothing is dropped out, and learning is reproducible.

    Levels that consolidate protect what the model knew: before the first step their key memories look at
    ``old``, or at text that the model writes itself. Later contexts they keep by themselves when the stream
    surprises them, see :class:`nestlearn.optim.Nested`.

    Args:
        model: A causal language model of Hugging Face's, or one that :func:`nestlearn.retrofit` returned.
        tokenizer: Its tokenizer.
        levels: The levels; by default :data:`~nestlearn.continual.methods.DEFAULT_LEVELS`.
        method: Another way of learning, in place of levels.
        old: A sample of what the model knows, as :meth:`learn` takes it.
        context: Tokens of a window; by default 256, or fewer where the model has fewer positions.
        batch_size: Windows of a step.
        calibration_tokens: How much of ``old``, or of the model's own text, is looked at.
        seed: Of everything that is drawn.
        retrofit: Further settings of :func:`nestlearn.retrofit`: ``how``, ``assign``, ``shares``, ``blocks``,
            ``calibration``.

    Attributes:
        model: The model that learns.
        method: How it learns.

    Raises:
        ValueError: For a model without known blocks, or values outside their range.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        levels: Iterable[Level] | None = None,
        *,
        method: Method | None = None,
        old: Stream | None = None,
        context: int | None = None,
        batch_size: int = 4,
        calibration_tokens: int = 8192,
        seed: int = 0,
        **retrofit: Any,
    ) -> None:
        if method is not None and (levels is not None or retrofit):
            raise ValueError(
                "levels and the settings of retrofit belong to the method: give one or the other"
            )
        self.tokenizer, self.old, self.seed = tokenizer, old, seed
        self.context = window_length(model, context)
        for name, value in (("batch_size", batch_size), ("calibration_tokens", calibration_tokens)):
            whole(name, value)
        self.batch_size, self.calibration_tokens = batch_size, calibration_tokens
        self.method = Levels(levels, seed=seed, **retrofit) if method is None else method
        self.method.attach(model)
        self.model = self.method.model
        self.model.eval()
        self._base = retrofit_of(model).base if model is self.model else model
        self._identity: Identity | None = None
        self._snapshots: dict[str, dict[str, Any]] = {}

    @property
    def base(self) -> nn.Module:
        """The model as it was given."""
        return self._base

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def learn(
        self,
        stream: Stream,
        *,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 50,
        run_dir: str | Path | None = None,
        progress: bool | None = None,
        track: Track = "auto",
    ) -> Learned:
        """Learn from a stream, once and in order.

        Ctrl-C ends it after the step that is under way; with a checkpoint, the same call goes on from there
        as if nothing had happened, also after the process was killed.

        Args:
            stream: A string, strings, chats, records of a ``datasets`` iterable, or token ids; of any length.
                Documents longer than a window go on in the next one.
            checkpoint: File that keeps everything needed to go on.
            checkpoint_every: Steps between two writes of it.
            run_dir: Folder for what the levels do, for ``nestlearn watch`` and ``nestlearn report``.
            progress: Whether to show a bar; by default where the output is a terminal.
            track: Where that goes besides ``run_dir``, see :func:`nestlearn.observe`.

        Returns:
            What happened.

        Raises:
            ValueError: For a stream without text or an unknown tracker. Nothing has changed then.
            NonFiniteGradientError: If the loss is not finite; what was learned before it is there.
            Interrupted: After Ctrl-C.
        """
        return learn(
            self,
            stream,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            checkpoint_every=checkpoint_every,
            run_dir=None if run_dir is None else Path(run_dir),
            progress=progress,
            track=track,
        )

    def calibrate(self, old: Stream | None = None) -> None:
        """Have what the model knows protected; :meth:`learn` does it before its first step.

        Args:
            old: A sample of the old distribution; by default what was given when the learner was made, or
                text that the base writes itself.

        Raises:
            ValueError: If the sample is empty.
        """
        old = self.old if old is None else old
        if old is None:
            length = max(2, min(self.context, 128))
            batches = own_samples(self._base, self._old_tokens, length, seed=self.seed)
        else:
            batches = self._sample(old)
        self.method.calibrate(batches, self.seed)

    def keep(self) -> bool:
        """Declare a subject finished: what was learned of it is protected from what is learned next.

        A sharp change of subject is noticed without this, by the loss; one that the model half knows already
        may not be.

        Returns:
            Whether there was something to protect: False for methods that protect nothing, and for levels
            whose key memories have not looked at a batch since the last time (they do every
            ``Level.refresh`` tokens).
        """
        return self.method.keep()

    @property
    def _old_tokens(self) -> int:
        return max(self.calibration_tokens, self.method.old_tokens)

    def _sample(self, old: Stream) -> list[Tensor]:
        """The first windows of a stream."""
        batches: list[Tensor] = []
        for batch in Windows(self.tokenizer, self.context, self.batch_size).batches(old):
            batches.append(batch[:, :-1].to(self.device))
            if sum(b.numel() for b in batches) >= self._old_tokens:
                break
        if not batches:
            raise ValueError("the sample of old text is empty: give some, or none at all")
        return batches

    @torch.no_grad()
    def generate(
        self, prompt: str | Sequence[dict[str, str]], max_new_tokens: int = 128, **settings: Any
    ) -> str:
        """Go on from a prompt.

        Args:
            prompt: Text, or the turns of a chat, which is answered.
            max_new_tokens: At most so many.
            settings: Of the model's own ``generate``; by default the most likely token is taken.

        Returns:
            What the model adds.
        """
        if isinstance(prompt, str):
            if not self.tokenizer(prompt)["input_ids"]:
                prompt = self.tokenizer.bos_token or self.tokenizer.eos_token
            encoded = self.tokenizer(prompt, return_tensors="pt")
        else:
            encoded = self.tokenizer.apply_chat_template(
                list(prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        ids = encoded["input_ids"].to(self.device)
        pad = self.tokenizer.pad_token_id
        defaults = {
            "do_sample": False,
            "attention_mask": torch.ones_like(ids),
            "pad_token_id": self.tokenizer.eos_token_id if pad is None else pad,
        }
        model: Any = self.model
        out = model.generate(ids, max_new_tokens=max_new_tokens, **{**defaults, **settings})
        text: str = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return text

    def score(self, texts: Stream) -> Score:
        """How well the model predicts texts, each by itself and in windows of :attr:`context` tokens.

        Every token counts, the first of a text by the token that texts begin with.

        Args:
            texts: Strings, or whatever :meth:`learn` takes that is text.

        Raises:
            ValueError: If there is none.
        """
        return score(self.model, self.tokenizer, texts, self.context)

    def snapshot(self, name: str) -> None:
        """Keep the present state under a name, in memory: weights, optimizer, clocks and key memories."""
        self._snapshots[name] = _copied(self.method.state_dict())

    def restore(self, name: str) -> None:
        """Return to a snapshot, bit for bit.

        Raises:
            ValueError: If there is no such snapshot.
        """
        if name not in self._snapshots:
            known = ", ".join(map(repr, self._snapshots)) or "none"
            raise ValueError(f"there is no snapshot {name!r}; there are: {known}")
        self.method.load_state_dict(_copied(self._snapshots[name]))

    def reset(self, level: str | None = None) -> None:
        """Forget what was learned, in one level or in all of them; what is protected stays protected.

        Raises:
            ValueError: For an unknown level.
        """
        self.method.reset(level)

    def diff(self) -> Sequence[Change]:
        """How far each level has moved from the base."""
        return self.method.changes()

    @property
    def identity(self) -> Identity:
        """Name and digest of the base."""
        if self._identity is None:
            self._identity = identify(self._base)
        return self._identity

    def save(self, path: str | Path) -> None:
        """Write what was learned into one safetensors file: the changed values and whose they are.

        It holds no optimizer state: to go on exactly, :meth:`learn` takes a ``checkpoint``.
        """
        learner = {"context": self.context, "batch_size": self.batch_size, "seed": self.seed}
        save_memory(Path(path), self.method, self.identity, learner)

    @classmethod
    def load(cls, model: nn.Module, path: str | Path, tokenizer: Any = None, **settings: Any) -> Learner:
        """A learner with what a file holds.

        Args:
            model: The model that it was learned on.
            path: Written by :meth:`save`.
            tokenizer: Its tokenizer; by default the one that the model's name leads to.
            settings: Of the learner, in place of those in the file.

        Raises:
            MemoryFileError: If the file is missing, damaged, or was learned on another model.
        """
        path = Path(path)
        tree = read_memory(path)
        identity = check_base(path, tree, model)
        if tokenizer is None:
            from transformers import AutoTokenizer  # noqa: PLC0415  (takes seconds to import)

            tokenizer = AutoTokenizer.from_pretrained(identity.name)
        try:
            method = METHODS[tree["method"]].from_settings(tree["settings"], tree["learned"])
            learner = cls(model, tokenizer, method=method, **{**tree["learner"], **settings})
            learner.method.apply(tree["learned"])
        except (ValueError, KeyError, TypeError) as error:
            raise MemoryFileError(f"{path} does not fit this model: {error}") from error
        learner._identity = identity
        return learner

    def close(self) -> None:
        """Take hooks off the model, when something else is to use it."""
        self.method.close()


def _copied(tree: Any) -> Any:
    """A nested structure with copies of its tensors."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return type(tree)(map(_copied, tree)) if isinstance(tree, list | tuple) else tree
