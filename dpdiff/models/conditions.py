"""What a conditional model is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dpdiff.errors import InputError


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a conditional model is asked for, in the words of diffusers' pipelines.

    Parameters
    ----------
    class_label : int, optional
        Of a class-conditional network.
    prompt, negative_prompt : str, optional
        Texts, for a pipeline in memory that has its text encoders.
    prompt_embeds, negative_prompt_embeds : Tensor, shape (tokens, width), optional
        Embeddings instead of texts; a batch dimension of 1 may come first.
    pooled_prompt_embeds, negative_pooled_prompt_embeds : Tensor, shape (width,), optional
        Those of the whole text, where a pipeline has them.
    guidance_scale : float, optional
        As the pipeline's own call takes it, and with the same default; up to 1 means none.
    height, width : int, optional
        Of the picture, in pixels; by default the network's own.
    """

    class_label: int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None

    @property
    def given(self) -> list[str]:
        """The names of what was given."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    def check(self, taken: Iterable[str], source: Any) -> None:
        """Refuse what a model does not take."""
        other = [name for name in self.given if name not in taken]
        if other:
            can = ", ".join(taken) or "no conditions"
            raise InputError(f"{source} takes {can}; {', '.join(other)} is not for it")
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str | None):
                raise InputError(f"{name} is one text: another text is another model")

    def label(self, classes: int, source: Any) -> int:
        """The class label, one of so many."""
        label = self.class_label
        if type(label) is not int or not 0 <= label < classes:
            said = "" if label is None else f", got {label!r}"
            raise InputError(
                f"{source} is class-conditional, and a schedule is best for one class: say which, "
                f"load(…, class_label=…), an integer in 0…{classes - 1}{said}"
            )
        return label

    def embedding(self, name: str, axes: int, source: Any) -> Tensor:
        """One embedding, without a batch dimension."""
        value = getattr(self, name)
        if value is None:
            what = "negative_prompt" if name.startswith("negative") else "prompt"
            raise InputError(
                f"{source} needs {name}: give that, or, to a pipeline with text encoders, {what}"
            )
        value = torch.as_tensor(value).detach()
        if value.ndim == axes + 1 and len(value) == 1:
            value = value[0]
        if value.ndim != axes or not value.is_floating_point():
            axis_names = ("tokens", "width")[-axes:]
            raise InputError(
                f"{name} is a tensor of floats for one example, shape ({', '.join(axis_names)}); "
                f"got {value.dtype}, shape {tuple(value.shape)}"
            )
        return value


def conditions_of(given: dict[str, Any]) -> Conditions:
    """Conditions from keyword arguments.

    Examples
    --------
    >>> conditions_of({"class_label": 3}).given
    ['class_label']
    """
    names = [f.name for f in fields(Conditions)]
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise InputError(f"load takes the conditions {', '.join(names)}; got {', '.join(unknown)}")
    return Conditions(**given)
