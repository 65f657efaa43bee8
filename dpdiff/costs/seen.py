"""What a network has been shown, kept on the device until all of a timestep is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from dpdiff import noising
from dpdiff.costs import statistics
from dpdiff.denoiser import Denoiser, Prediction


class Piece(NamedTuple):
    """A few images that the network has seen."""

    t: np.ndarray
    x0: Tensor
    prediction: Prediction
    values: dict[str, Tensor]

    def on_cpu(self) -> Piece:
        x0, v = self.prediction
        prediction = Prediction(x0.cpu(), None if v is None else v.cpu())
        values = {name: numbers.cpu() for name, numbers in self.values.items()}
        return Piece(self.t, self.x0.cpu(), prediction, values)


class Seen(list[Piece]):
    """All pieces of a unit, kept until the last of them is there."""

    def leave_device(self) -> bool:
        """Move to the CPU, and say whether that was anything."""
        kept = any(piece.x0.device.type != "cpu" for piece in self)
        self[:] = [piece.on_cpu() for piece in self]
        return kept


def look(denoiser: Denoiser, batch: noising.Batch, rows: slice) -> Piece:
    """Some images of a batch: what is predicted, and all that follows from that alone."""
    batch = batch.part(rows)
    x0, prediction = noising.predict(denoiser, batch)
    values = statistics.per_image(denoiser, batch.t, x0, prediction)
    return Piece(batch.t, x0, prediction, values)


def last_jumps(denoiser: Denoiser, piece: Piece, mse: Tensor, rows: slice) -> dict[str, Tensor]:
    """What a last jump costs some images, where that depends on all of their timestep."""
    place = noising.place(denoiser)
    x0, x0_hat = (x[rows].to(place) for x in (piece.x0, piece.prediction.x0))
    v = None if piece.prediction.v is None else piece.prediction.v[rows].to(place)
    outcome = (piece.t[rows], x0, Prediction(x0_hat, v))
    return statistics.decoders(denoiser, *outcome, mse[rows])
