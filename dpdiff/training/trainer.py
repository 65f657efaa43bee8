"""Training on L_simple or L_hybrid with an EMA of the weights, restartable exactly."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from dpdiff import data, models
from dpdiff.data import known_formats
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.elbo import decoder_cost, jump_cost
from dpdiff.errors import InputError
from dpdiff.noise import per_example
from dpdiff.runtime import formats
from dpdiff.training.recipes import DOWNLOADS, RECIPES, Recipe, build_network, build_noise

CHECKPOINT = "training.pt"


def losses(
    denoiser: Denoiser, x0: Tensor, t: np.ndarray, eps: Tensor
) -> tuple[Tensor, Tensor | None]:
    """L_simple and L_vlb of a batch, the two parts of L_hybrid.

    Parameters
    ----------
    denoiser : Denoiser
        Under its learned-range variance, or one that has none.
    x0, eps : Tensor, shape (B, ...)
        Data in [-1, 1] and Gaussian noise.
    t : ndarray of int, shape (B,)
        Timesteps in 1 … T.

    Returns
    -------
    simple : Tensor, shape (B,)
        Mean squared error of the network's own target.
    bound : Tensor, shape (B,)
        ``T`` times the cost of the jump ``t → t - 1`` in bits/dim, an unbiased estimate of L_vlb
        for uniform ``t``; gradients flow through the variance only. None without a learned
        variance.
    """
    noise = denoiser.noise
    f, g = noise.at(t, x0)
    output, v = denoiser.network_output(f * x0 + g * eps, t)
    simple = (denoiser.target(x0, t, eps) - output).square().flatten(1).mean(1)
    if v is None:
        return simple, None
    x0_hat = denoiser.read(f * x0 + g * eps, t, output).detach()
    prediction = Prediction(x0_hat, v)
    s = np.maximum(t - 1, 1)  # the decoder takes the place of the jump to 0
    gap = per_example(noise.snr_gap(t, s), x0)
    jump = jump_cost(denoiser.log_ratio(t, s, prediction), (x0 - x0_hat) ** 2, gap)
    first = per_example(t, x0) == 1
    log_variance = torch.where(first, denoiser.decoder_log_variance(t, prediction), 0.0)
    decoder = decoder_cost(x0, x0_hat, log_variance, denoiser.levels)
    bound = torch.where(first, decoder, jump).flatten(1).mean(1) * (noise.T / math.log(2))
    return simple, bound


def warmed_up_ema(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Exponential moving average whose decay grows as ``(1 + n) / (10 + n)`` up to ``decay``."""

    def average(means: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for mean, weight in zip(means, weights, strict=True):
            mean.lerp_(weight, share)

    return average


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine down to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


class Trainer:
    """A training run with its checkpoint on disk.

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
    device : str
        A torch device.
    precision : str
        Of the updates, as for :meth:`dpdiff.Denoiser.with_precision`; validation is in float32.
        Never compiled: torch 2.13's compiler for CPUs gives inner levels gradients of zero.
    progress : bool
        Show a progress bar while reading them.

    Raises
    ------
    InputError
        If the folder holds a checkpoint of another recipe, precision or of other images, or the
        images do not suit the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        source: str | os.PathLike | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        progress: bool = True,
    ) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.noise = build_noise(recipe)
        torch.manual_seed(recipe.seed)
        layout = {"device": device, "memory_format": torch.channels_last}
        self.network = build_network(recipe)
        if recipe.begins:
            self.network.load_state_dict(models.load(recipe.begins).network.state_dict())
        self.network.to(**layout)
        self.updated = self._denoiser(self.network).with_precision(precision)
        self.average = AveragedModel(self.network, multi_avg_fn=warmed_up_ema(recipe.ema))
        self.best = self.average.module.state_dict()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=0.01, fused=True
        )
        self.rate = LambdaLR(self.optimizer, lambda step: learning_rate_factor(step, recipe))
        pixels = data.scaled(np.arange(recipe.levels), recipe.levels)
        self.scale = torch.as_tensor(pixels, dtype=torch.float32, device=device)
        sets = self._read(recipe.dataset if source is None else source, progress)
        self.images, self.validation = sets[0], self._scaled(sets[1])
        self.digest = hashlib.sha256(b"".join(s.cpu().numpy().tobytes() for s in sets)).hexdigest()
        self.step, self.history = 0, []
        self._resume()

    def run(self, *, progress: bool = True) -> Denoiser:
        """Train until the recipe ends or stops helping, and return the best averaged network.

        "Best" is by the validation images, which no gradient sees: by the bound in bits/dim where
        a variance is learned, else by L_simple.
        """
        recipe = self.recipe
        if recipe.begins and self.step == 0:
            self._validate()  # what is no better than where it began is not kept
        bar = tqdm(total=recipe.steps, initial=self.step, desc="train", disable=not progress)
        while self.step < recipe.steps and not self._is_stale():
            loss = self._update()
            bar.update()
            if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                self._validate()
                self._checkpoint()
                bar.set_postfix(loss=f"{loss:.4f}", validation=f"{self.history[-1][1]:.4f}")
        bar.close()
        self.average.module.load_state_dict(self.best)
        return self._denoiser(self.average.module)

    def _read(self, source: str | os.PathLike, progress: bool) -> list[Tensor]:
        """Images to train on and to stop by, a byte a pixel."""
        recipe = self.recipe
        sets = data.training_sets(source, recipe.shape, progress=progress)
        sets = [data.check(images, recipe.shape, recipe.levels) for images in sets]
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
            variance=recipe.variance,
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
        self.network.train()
        simple, bound = losses(self.updated, x0, t, eps)
        loss = simple.mean()
        if bound is not None:
            loss = loss + recipe.vlb_weight * bound.mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def _validate(self) -> None:
        """Judge the average, with the same noise every time, so that changes are the model's."""
        score = self._bound() if self.recipe.learns_variance else self._simple()
        if not np.isfinite(score):
            raise InputError(
                f"the loss on the validation images is {score} after {self.step} steps: the run "
                "has diverged; begin anew with a smaller learning rate"
            )
        if all(score < earlier for _, earlier in self.history):
            self.best = {k: w.clone() for k, w in self.average.module.state_dict().items()}
        self.history.append((self.step, score))

    def _bound(self, draws: int = 32) -> float:
        """L_vlb without the prior, in bits/dim. The decoder, most of it, gets draws of its own."""
        T, images = self.recipe.T, self.validation
        generator = torch.Generator().manual_seed(self.recipe.seed)
        decoder = [self._losses(np.ones(len(images), int), generator)[1] for _ in range(4)]
        jumps = [
            self._losses(2 + (p * (T - 1)).astype(int), generator)[1]
            for p in _stratified(draws, len(images))
        ]
        return float(np.mean(decoder) / T + (T - 1) / T * np.mean(jumps))

    def _simple(self, draws: int = 32) -> float:
        """L_simple over the whole grid."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        places = _stratified(draws, len(self.validation))
        times = (1 + (place * self.recipe.T).astype(int) for place in places)
        return float(np.mean([self._losses(t, generator)[0] for t in times]))

    def _losses(self, t: np.ndarray, generator: torch.Generator) -> list[float]:
        """Both losses of the average on the validation images, averaged."""
        eps = torch.randn(self.validation.shape, generator=generator).to(self.device)
        both = losses(self._denoiser(self.average.module), self.validation, t, eps)
        return [loss.mean().item() for loss in both if loss is not None]

    def _identity(self) -> dict[str, str]:
        """What a run goes on with: with another recipe it would be neither of the two."""
        recipe, precision = repr(self.recipe), self.updated.precision
        return {"recipe": recipe, "images": self.digest, "precision": precision}

    def _checkpoint(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            **self._identity(),
            "step": self.step,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
        }
        formats.write_tensors(self.folder / CHECKPOINT, state)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = formats.read_tensors(path, self.device)
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise InputError(
                    f"{path} was made with another {name}; choose another folder or remove the file"
                )
        try:
            self.step, self.history, self.best = state["step"], state["history"], state["best"]
            for name in ("network", "average", "optimizer", "rate"):
                getattr(self, name).load_state_dict(state[name])
        except Exception as error:  # torch says in many ways that a state is not this one
            raise InputError(f"{path} does not hold this training's state: {error}") from error


def train(
    name: str,
    folder: str | Path,
    *,
    data: str | os.PathLike | None = None,
    device: str | None = None,
    precision: str = "float32",
    progress: bool = True,
) -> Path:
    """Train a model from its recipe; run it again to continue a run that was cut off.

    Parameters
    ----------
    name : {"digits", "fashion-short", "fashion", "fashion-linear", "fashion-large", "cifar10"}
        The recipe; ``fashion`` goes on from the bundled ``fashion-short``.
    folder : str or Path
        Receives the checkpoint while training and the model, a diffusers pipeline folder, at
        the end.
    data : str or path, optional
        The images, as :func:`dpdiff.images` takes them. The digits are bundled; the other sets
        are yours to bring. Undivided images have a tenth of them, at most 256, held out.
    device : str, optional
        A torch device; by default the GPU if there is one.
    precision : {"float32", "bf16"}
        Of the network's heavy operations in updates, under autocast. Weights and validation stay
        in float32.
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
    if data is None and (brought := DOWNLOADS.get(RECIPES[name].dataset)):
        raise InputError(
            f"the recipe {name!r} trains on images that you bring: download {brought}, and "
            f"name the folder as data (on the command line --data); read are {known_formats()}"
        )
    if precision == "fp16":
        raise InputError("training in fp16 would lose small gradients: take bf16 or float32")
    folder = Path(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    where = {"device": device, "precision": precision}
    trainer = Trainer(RECIPES[name], folder, data, **where, progress=progress)
    denoiser = trainer.run(progress=progress)
    judged = "bits_per_dim" if denoiser.outputs_variance else "l_simple"
    about = {"recipe": asdict(trainer.recipe), f"validation_{judged}": trainer.history}
    about |= {"precision": precision, "device": str(device), "torch": torch.__version__}
    models.save(denoiser, folder, **about)
    return folder


def _stratified(draws: int, count: int) -> np.ndarray:
    """Stratified numbers in [0, 1), one for every draw and example; (draws, count)."""
    return (np.arange(count) / count + np.arange(draws)[:, None]) / draws
