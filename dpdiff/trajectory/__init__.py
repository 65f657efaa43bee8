"""Few steps that draw well: schedules from the many-step sampler's own trajectories.

The way through this folder: :mod:`~dpdiff.trajectory.nodes` chooses a small grid,
:mod:`~dpdiff.trajectory.teacher` runs DDIM down it, :mod:`~dpdiff.trajectory.bands` and
:mod:`~dpdiff.trajectory.gram` turn what it saw into the cost of every jump, and
:mod:`~dpdiff.trajectory.paths` holds the result. The function :func:`dpdiff.trajectories`, in
:mod:`~dpdiff.trajectory.run`, does it all; the folder's name is singular because a module and a
function cannot share one.
"""
