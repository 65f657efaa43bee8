"""Costs files: what stands in them, and what is checked before they are believed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import archive
from dpdiff.variance import RULES

FORMAT = "dpdiff-costs"
VERSION = 2

NODE_FUNCTIONS = ("penalty", "error")
NODE_SPREAD = ("penalty_var", "error_var", "penalty_error_cov")
MOST_NODES = 512
GRID = ("betas", "log_f2", "log_g2", "time_inputs", "scales")  # the noise schedule's arrays
# What a measurement says of itself, and in which words.
PROVENANCE: dict[str, type] = {
    **dict.fromkeys(("model", "precision", "dpdiff", "name", "data", "split", "command"), str),
    **dict.fromkeys(("images", "per_step", "batch_size", "seed", "calls", "timesteps"), int),
}


def write(
    path: str | Path,
    noise: NoiseSchedule,
    shape: Sequence[int],
    variance: str,
    statistics: dict[str, np.ndarray],
    provenance: dict[str, Any],
) -> None:
    """Write costs, once they pass what is checked when they are read."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "shape": list(shape),
        "variance": variance,
        "noise_schedule": noise.fingerprint,
        "provenance": provenance,
    }
    arrays = noise.arrays() | {k: np.asarray(v) for k, v in statistics.items()}
    try:
        _check(about, dict(arrays))
    except InputError as error:
        raise InputError(f"these costs cannot be written to {path}: {error}") from error
    archive.write(path, about, arrays)


def read(path: str | Path) -> tuple[NoiseSchedule, tuple[int, ...], str, dict, dict[str, Any]]:
    """The fields of :class:`dpdiff.Costs`, in their order, as :func:`write` was given them.

    Raises
    ------
    InputError
        If the file is missing, changed in any bit, of another version, or holds what no
        measurement gives: names, shapes, types or numbers.
    """
    about, arrays = archive.read(path, FORMAT, VERSION)
    try:
        noise = _check(about, arrays)
    except InputError as error:
        raise InputError(f"{path} holds no costs: {error}") from error
    arrays = {name: array for name, array in arrays.items() if name not in GRID}
    return noise, tuple(about["shape"]), about["variance"], arrays, about["provenance"]


def _check(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> NoiseSchedule:
    names = {"format", "version", "shape", "variance", "noise_schedule", "provenance"}
    if about.keys() != names:
        raise InputError(f"its header has the names {', '.join(sorted(about))}")
    shape = about["shape"]
    if not (isinstance(shape, list) and shape and all(_is_count(n) for n in shape)):
        raise InputError(f"one example has the shape {shape}")
    _check_provenance(about["provenance"])
    noise = _noise(arrays)
    if about["noise_schedule"] != noise.fingerprint:
        raise InputError("its noise schedule does not fit its fingerprint")
    sample = {k: v for k, v in arrays.items() if k.startswith("sample_")}
    kept = {k: v for k, v in arrays.items() if k not in GRID and k not in sample}
    _check_statistics(kept, noise.T)
    if sample:
        _check_sample(sample, kept, noise.T)
    _check_variance(about["variance"], arrays)
    return noise


def _noise(arrays: dict[str, np.ndarray]) -> NoiseSchedule:
    held = arrays.keys() & set(GRID)
    if held not in ({"betas"}, {*GRID} - {"betas"}):
        raise InputError(f"it has no noise schedule: {' or '.join(GRID)}")
    for name in held:
        array = arrays[name]
        whole = name == "time_inputs" and array.dtype == np.int64
        if array.ndim != 1 or not (whole or array.dtype == np.float64):
            raise InputError(f"{name} is {array.dtype} of shape {array.shape}")
    if "scales" in held and arrays["scales"].shape != (2,):
        raise InputError(f"scales are two numbers, not of shape {arrays['scales'].shape}")
    return NoiseSchedule.from_arrays(arrays)


def _check_provenance(provenance: Any) -> None:
    if not isinstance(provenance, dict):
        raise InputError(f"its provenance is a {type(provenance).__name__}")
    for name, kind in PROVENANCE.items():
        value = provenance.get(name)
        if name in provenance and (isinstance(value, bool) or not isinstance(value, kind)):
            raise InputError(f"its provenance says {name}: {value!r}")
    for name, least in (("images", 2), ("per_step", 2), ("batch_size", 1), ("seed", 0)):
        if provenance.get(name, least) < least:
            raise InputError(f"its provenance says {name}: {provenance[name]}")


def _check_variance(variance: Any, arrays: dict[str, np.ndarray]) -> None:
    rule = RULES.get(variance) if isinstance(variance, str) else None
    if rule is None or f"decoder_{rule.decoder}" not in arrays:
        raise InputError(f"it has no statistics of the variance {variance!r}")
    if rule.needs_output and "penalty" not in arrays:
        raise InputError(f"it has no statistics of the variance {variance!r}")


def _check_statistics(arrays: dict[str, np.ndarray], T: int) -> None:
    """Refuse arrays that are missing, not known, of another shape, or hold impossible numbers."""
    decoders = {f"decoder_{rule.decoder}" for rule in RULES.values()} & arrays.keys()
    at_nodes = arrays.keys() & {*NODE_FUNCTIONS, *NODE_SPREAD}
    means = {"mse", "prior", *decoders, *(NODE_FUNCTIONS if at_nodes else ())}
    expected = means | {f"{name}_var" for name in means}
    expected |= {NODE_SPREAD[-1]} if at_nodes else set()
    if arrays.keys() != expected or not decoders:
        odd = ", ".join(sorted(arrays.keys() ^ expected)) or "decoder_fixed"
        raise InputError(f"missing or unexpected: {odd}")
    nodes = arrays["penalty"].shape[1:] if at_nodes else ()
    if at_nodes and (len(nodes) != 1 or not 2 <= nodes[0] <= MOST_NODES):
        raise InputError(f"penalty has shape {arrays['penalty'].shape}")
    for name, array in arrays.items():
        rows = () if name.startswith("prior") else (T + 1,)
        wanted = (*rows, *(nodes if name in at_nodes else ()))
        _check_array(name, array, wanted, np.float32 if name in NODE_SPREAD else np.float64)


def _check_sample(sample: dict[str, np.ndarray], kept: dict[str, np.ndarray], T: int) -> None:
    """Every image's own values at a few timesteps, of the statistics that are kept."""
    means = [k for k in kept if not k.startswith("prior") and not k.endswith(("_var", "_cov"))]
    wanted = {"sample_timesteps", *(f"sample_{name}" for name in means)}
    if sample.keys() != wanted:
        raise InputError(f"missing or unexpected: {', '.join(sorted(sample.keys() ^ wanted))}")
    timesteps, images = sample["sample_timesteps"], sample["sample_mse"].shape[1:]
    rising = timesteps.dtype == np.int64 and timesteps.ndim == 1 and (np.diff(timesteps) > 0).all()
    if not rising or len(timesteps) == 0 or timesteps[0] < 1 or timesteps[-1] > T:
        raise InputError("its timesteps do not rise from 1 to T")
    if len(images) != 1 or images[0] < 2:
        raise InputError(f"sample_mse has shape {sample['sample_mse'].shape}")
    for name in means:
        shape = (len(timesteps), *images, *kept[name].shape[1:])
        _check_array(f"sample_{name}", sample[f"sample_{name}"], shape, np.float32)


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"{name} is {array.dtype} of shape {array.shape}, expected {dtype.__name__} of {shape}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name} is not finite everywhere")
    if (
        name.endswith("_var") or name.removeprefix("sample_") in ("mse", "error")
    ) and array.min() < 0:
        raise InputError(f"{name} is below 0 somewhere")


def _is_count(number: Any) -> bool:
    return type(number) is int and 1 <= number <= 2**31
