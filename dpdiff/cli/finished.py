"""Costs that the same command wrote before, so that it need not measure again."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dpdiff
from dpdiff import data
from dpdiff.costs.storage import VERSION
from dpdiff.errors import InputError

if TYPE_CHECKING:
    from dpdiff.costs.costs import Costs
    from dpdiff.denoiser import Denoiser

# Options that decide what is in a costs file.
OPTIONS = ("model", "data", "split", "seed", "batch_size", "variance", "precision", "compile")


def command_digest(denoiser: Denoiser, images: Any, options: argparse.Namespace) -> str:
    """A digest of all that decides what a measuring command writes."""
    settings = {name: getattr(options, name) for name in OPTIONS}
    amounts = ("calls", "regret", "per_step") + (("steps",) if options.regret else ())
    settings |= {name: getattr(options, name) for name in amounts}
    settings |= {"version": VERSION, "model": denoiser.fingerprint, "name": options.model}
    settings |= {"images": len(images), "digest": data.digest(images)}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def finished_costs(out: Path, command: str) -> Costs | None:
    """The costs in a file, if the command of that digest wrote them."""
    if not out.exists():
        return None
    try:
        costs = dpdiff.Costs.load(out)
    except InputError:
        return None  # another version's or a damaged one, which will be replaced
    return costs if costs.provenance.get("command") == command else None
