"""The figure style, and that each picture shows what it was given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from dpdiff import plotting
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.plotting import style
from dpdiff.schedule import Schedule


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def rgb(colour):
    return np.array(matplotlib.colors.to_rgb(colour))


def contrast(one, other):
    low, high = sorted([luminance(rgb(one)), luminance(rgb(other))])
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_stand_out_from_the_paper():
    assert contrast(style.INK, style.PAPER) > 7
    for colour in plotting.COLOURS.values():
        assert contrast(colour, style.PAPER) > 3  # WCAG 2.1, 1.4.11


# Machado, Oliveira, Fernandes (2009), severity 1.0, on linear RGB.
COLOUR_BLINDNESS = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_colours_stay_apart_for_colour_blind_readers(kind):
    seen = [
        np.clip(COLOUR_BLINDNESS[kind] @ rgb(c) ** 2.2, 0, 1) ** (1 / 2.2)
        for c in plotting.COLOURS.values()
    ]
    gaps = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 0.2


def test_drawing_leaves_the_users_own_style_alone():
    before = dict(plt.rcParams)
    plotting.plot_steps({"even": Schedule.even(100, 4)})
    assert dict(plt.rcParams) == before


def test_bits_draws_each_curve_in_its_own_colour_and_order():
    _, ax = plt.subplots()
    curves = {"even": {32: 2.0, 8: 3.0}, "dp": {8: 2.5, 32: 1.9}, "mine": {8: 2.7, 32: 2.1}}
    assert plotting.plot_bits(curves, errors={"dp": {8: 0.1, 32: 0.2}}, best=1.8, ax=ax) is ax
    lines = {c.get_label(): c.lines[0] for c in ax.containers}
    assert lines["even"].get_color() == plotting.COLOURS["even"]
    assert list(lines["even"].get_xdata()) == [8, 32]
    assert list(lines["even"].get_ydata()) == [3.0, 2.0]
    assert lines["mine"].get_color() == style.INK
    bars = next(c for c in ax.containers if c.get_label() == "optimal (DP)").lines[2][0]
    assert bars.get_segments()[1][:, 1] == pytest.approx([1.5, 2.3])  # two standard errors
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "32"]


def test_steps_along_t_hold_every_node():
    schedule = Schedule.quadratic(100, 6)
    ax = plotting.plot_steps({"even": Schedule.even(100, 6), "quadratic": schedule})
    marks = ax.lines[1]
    assert tuple(marks.get_xdata()) == schedule.timesteps
    assert marks.get_color() == plotting.COLOURS["quadratic"]


def test_steps_along_log_snr_leave_out_the_data_itself():
    noise, schedule = NoiseSchedule.cosine(100), Schedule.even(100, 4)
    ax = plotting.plot_steps({"even": schedule}, noise=noise)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), noise.log_snr[[25, 50, 75, 100]])
    assert noise.log_snr[100] < ax.get_xlim()[0] < noise.log_snr[75]


class RowsOnly:
    """Costs that make their rows on demand."""

    def __init__(self, table):
        self.table, self.T = table, len(table) - 1

    def rows(self, start, stop):
        return self.table[start:stop, :stop]


@pytest.mark.parametrize("wrap", [np.asarray, RowsOnly])
def test_path_shows_costs_and_jumps_at_their_places(wrap):
    t, s = np.ogrid[:11, :11]
    table = np.where(s < t, 10.0 ** (t - s), np.inf)
    schedule = Schedule([0, 3, 10])
    ax = plotting.plot_path(wrap(table), {"dp": schedule}, resolution=5)
    shown = ax.collections[0].get_array().filled(np.nan)  # [s, t] at timesteps 0, 2, … 10
    assert shown.shape == (6, 6)
    assert shown[1, 3] == 4
    assert np.isnan(shown[3, 1])
    assert np.isnan(np.diag(shown)).all()
    jumps = next(line for line in ax.lines if line.get_label() == "optimal (DP)")
    assert [tuple(p) for p in jumps.get_xydata()] == [(3, 0), (10, 3)]


def test_path_refuses_a_schedule_of_another_grid():
    with pytest.raises(InputError, match="T = 5, the schedule 'even' at 10"):
        plotting.plot_path(np.ones((6, 6)), {"even": Schedule.even(10, 2)})


def test_samples_stand_in_reading_order():
    samples = torch.stack([torch.full((1, 2, 2), v) for v in (-1.0, 0.0, 1.0)])
    picture = plotting.plot_samples(samples, columns=2).images[0].get_array()
    assert picture.shape == (7, 7)
    assert picture[1, 1] == 0
    assert picture[1, 4] == 0.5
    assert picture[4, 1] == 1


def test_samples_in_colour():
    assert plotting.plot_samples(np.zeros((2, 3, 4, 4))).images[0].get_array().shape[-1] == 3


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 2, 8, 8), (0, 1, 8, 8)])
def test_samples_that_are_no_images_are_refused(shape):
    with pytest.raises(InputError, match="samples are images"):
        plotting.plot_samples(np.zeros(shape))
