"""What test_trajectories.py runs under torchrun: trajectories shared by workers."""

import sys

import numpy as np
import torch
from restarting import toy

import dpdiff
from dpdiff.runtime import join


def shared(folder, workers):
    torch.set_num_threads(1)
    return dpdiff.trajectories(
        toy(), n=11, nodes=9, batch_size=2, resume=folder, workers=workers, progress=False
    )


if __name__ == "__main__":
    out, folder = sys.argv[1:]
    workers = join()
    paths = shared(None if folder == "none" else folder, workers)
    np.savez(f"{out}/{workers.rank}.npz", grams=paths.grams, ends=paths.ends)
