"""Training models from recipes: L_hybrid, exponential averaging, restartable to the same bits."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff import data, models
from dpdiff.data import FORMATS
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime.files import replacing
from dpdiff.training.losses import losses
from dpdiff.training.recipes import BROUGHT, RECIPES, Recipe, build_network

CHECKPOINT = "training.pt"


class Trainer:
    """A training run: its networks, its place in the recipe, and its checkpoint on disk.

    Every step draws its batch, timesteps, noise and dropout from ``(seed, step)`` alone, so a
    run that was killed goes on from its last checkpoint as if nothing had happened.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    folder : Path
        Where the checkpoint lives; one that is there already is continued.
    source : str or path, optional
        The images, as :func:`dpdiff.images` takes them; by default the recipe's own.
    progress : bool
        Show a progress bar while reading them.

    Raises
    ------
    InputError
        If the folder holds a checkpoint of another recipe, or the images do not suit it.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        source: str | os.PathLike | None = None,
        *,
        progress: bool = True,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(recipe.seed)
        layout = {"device": self.device, "memory_format": torch.channels_last}
        self.network = build_network(recipe).to(**layout)
        self.average = build_network(recipe).to(**layout)
        self.average.load_state_dict(self.network.state_dict())
        self.best = self.average.state_dict()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=0.01, fused=True)
        self.noise = NoiseSchedule.cosine(recipe.T, recipe.first_beta)
        pixels = data.scaled(np.arange(recipe.levels), recipe.levels)
        self.scale = torch.as_tensor(pixels, dtype=torch.float32, device=self.device)
        self.images, validation = self._read(recipe.dataset if source is None else source, progress)
        self.validation = self._scaled(validation)
        self.step, self.history = 0, []
        self._resume()

    def run(self, *, progress: bool = True) -> Denoiser:
        """Train until the recipe ends or stops helping, and return the best averaged network.

        "Best" is by the bound on the validation images, which no gradient sees.
        """
        recipe = self.recipe
        bar = tqdm(total=recipe.steps, initial=self.step, desc="train", disable=not progress)
        while self.step < recipe.steps and not self._is_stale():
            loss = self._update()
            bar.update()
            if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                self._validate()
                self._checkpoint()
                bar.set_postfix(loss=f"{loss:.4f}", bpd=f"{self.history[-1][1]:.3f}")
        bar.close()
        self.average.load_state_dict(self.best)
        return self._denoiser(self.average)

    def _read(self, source: str | os.PathLike, progress: bool) -> list[Tensor]:
        """Images to train on and to stop by, a byte a pixel."""
        recipe = self.recipe
        sets = data.training_sets(source, recipe.shape, progress=progress)
        for images in sets:
            data.check(images, recipe.shape, recipe.levels)
        return [torch.from_numpy(images.astype(np.uint8)).to(self.device) for images in sets]

    def _scaled(self, pixels: Tensor) -> Tensor:
        return self.scale[pixels.int()]

    def _is_stale(self) -> bool:
        """Whether the last validations were all worse than an earlier one: more would overfit."""
        scores = [score for _, score in self.history]
        patience = self.recipe.patience
        return len(scores) > patience and min(scores[-patience:]) > min(scores)

    def _denoiser(self, network: torch.nn.Module) -> Denoiser:
        recipe = self.recipe
        return Denoiser(
            network,
            self.noise,
            predicts=recipe.predicts,
            variance="learned_range",
            shape=recipe.shape,
            levels=recipe.levels,
        )

    def _update(self) -> float:
        recipe, step = self.recipe, self.step
        generator = torch.Generator().manual_seed(recipe.seed * 2**32 + step)
        torch.manual_seed(recipe.seed * 2**32 + step)  # dropout draws from the global generator
        rows = torch.randint(len(self.images), (recipe.batch,), generator=generator)
        x0 = self._scaled(self.images[rows.to(self.device)])
        # One uniform offset spreads the batch evenly over the grid: less variance, no bias.
        offset = torch.rand((), generator=generator).item()
        t = 1 + ((np.arange(recipe.batch) + offset) * recipe.T / recipe.batch).astype(int)
        eps = torch.randn(x0.shape, generator=generator).to(self.device)
        denoiser = self._denoiser(self.network)
        self.network.train()
        simple, bound = losses(denoiser, x0, t, eps)
        loss = simple.mean() + recipe.vlb_weight * bound.mean()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_factor(step, recipe)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        # The average starts as a plain mean and only then forgets.
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(
                self.average.parameters(), self.network.parameters(), strict=True
            ):
                mean.lerp_(weight, 1 - decay)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def _validate(self) -> None:
        """Estimate the bound with the same noise every time, so that changes are the model's."""
        T, images = self.recipe.T, self.validation
        denoiser, draws = self._denoiser(self.average), 32
        generator = torch.Generator().manual_seed(self.recipe.seed)

        def bound(t: np.ndarray) -> float:
            eps = torch.randn(images.shape, generator=generator).to(self.device)
            return losses(denoiser, images, t, eps)[1].mean().item() / T

        # The decoder is most of the bound and one timestep of thousands: it gets its own draws.
        score = np.mean([bound(np.ones(len(images), int)) for _ in range(4)])
        places = (np.arange(len(images)) / len(images) + np.arange(draws)[:, None]) / draws
        score += (T - 1) * np.mean([bound(2 + (place * (T - 1)).astype(int)) for place in places])
        if all(score < earlier for _, earlier in self.history):
            self.best = {k: w.clone() for k, w in self.average.state_dict().items()}
        self.history.append((self.step, float(score)))

    def _checkpoint(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": repr(self.recipe),
            "step": self.step,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.folder / CHECKPOINT) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise InputError(
                f"{path} was made by another recipe; choose another folder or remove the file"
            )
        self.step, self.history, self.best = state["step"], state["history"], state["best"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine down to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def train(
    name: str,
    folder: str | Path,
    *,
    data: str | os.PathLike | None = None,
    progress: bool = True,
) -> Path:
    """Train a model from its recipe; run it again to continue a run that was cut off.

    Parameters
    ----------
    name : {"digits", "fashion", "cifar10"}
        The recipe.
    folder : str or Path
        Receives the checkpoint while training and the model, a diffusers pipeline folder, at
        the end.
    data : str or path, optional
        The images, as :func:`dpdiff.images` takes them. The digits are bundled; the other sets
        are yours to bring. Undivided images have a tenth of them, at most 256, held out.
    progress : bool
        Show progress bars.

    Returns
    -------
    Path
        The model's folder.

    Raises
    ------
    InputError
        If the name is unknown, images are missing or do not suit the recipe, or the folder holds
        a checkpoint of another recipe.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; known are {', '.join(RECIPES)}")
    if data is None and name in BROUGHT:
        raise InputError(
            f"the recipe {name!r} trains on images that you bring: download {BROUGHT[name]}, and "
            f"name the folder as data (on the command line --data); read are {FORMATS}"
        )
    folder = Path(folder)
    trainer = Trainer(RECIPES[name], folder, data, progress=progress)
    denoiser = trainer.run(progress=progress)
    models.save(
        denoiser, folder, recipe=asdict(trainer.recipe), validation_bits_per_dim=trainer.history
    )
    return folder
