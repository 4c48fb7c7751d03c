"""AdaRound: for every weight of a layer, up or down (Nagel et al. 2020, "Up or Down? Adaptive Rounding", 2004.10568).

    rows of inputs, float and quantized -> OutputError, a quadratic form -> the rounding that makes it small

The error is the asymmetric one of section 3.4: E |W x - W~ x^|^2, where x^ reaches the layer through the quantized
network. A layer is linear, so that this is a quadratic form in D = W~ - W, gathered in one pass: no batch is drawn, and
equal input gives equal roundings. It is minimized by the paper's relaxation (eq. 21 to 25: rectified sigmoid, annealed
regularizer, Adam), and then by series of turns of single weights. The paper takes 10,000 steps; the turns save most.

Measured at W4A8 per tensor, the last three layers of a small_cnn of width 32 on UTKFace, 256 images, n = 1, error
relative to rounding to nearest: relaxation of 1,000 and of 4,000 steps 0.14, 0.21, 0.024 and 0.13, 0.19, 0.016; single
turns from nearest 0.15, 0.24, 0.020; 200 steps and series, as here, 0.11, 0.19, 0.008, in 0.6 s of processor time on
one thread of a 2-core Intel Xeon, torch 2.14.1; 4,000 steps took 12 s by the clock of that machine, which was loaded.

Letters: M output positions over all images, G groups, O outputs of a group, I inputs of one output.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

STEPS: Final = 200
LEARNING_RATE: Final = 0.05
REGULARIZER: Final = 10.0  # the paper's lambda, of the mean over a layer's inputs and relative to nearest's error
BETA_START, BETA_END = 20.0, 2.0
ZETA, GAMMA = 1.1, -0.1  # how far the sigmoid is stretched beyond 0 and 1
TURNS_OF_A_SERIES: Final = 50
MOST_SERIES: Final = 100
SMALLEST_GAIN: Final = 1e-6  # of a turn, relative to nearest's error; below is float32 noise


class Candidates(NamedTuple):
    """The grid values around each weight: equal ones beyond the ends of the grid; `nearest` is one of the two."""

    weight_GOI: Tensor
    low_GOI: Tensor
    high_GOI: Tensor
    nearest_GOI: Tensor


class OutputError:
    """E |W x - W~ x^|^2 of every output, by D = W~ - W: D A D' - 2 L D' + c, all summed over `n` positions."""

    def __init__(self, weight_GOI: Tensor):
        n_groups, _, n_inputs = weight_GOI.shape
        self.weight_GOI, self.n = weight_GOI, 0
        self.gram_GII = weight_GOI.new_zeros(n_groups, n_inputs, n_inputs)
        self.cross_GOI = torch.zeros_like(weight_GOI)
        self.rest_GO = weight_GOI.new_zeros(weight_GOI.shape[:2])

    def add(self, rows_MGI: Tensor, quantized_MGI: Tensor) -> None:
        """Take in what enters at some positions: in the float network, and in the quantized one."""
        quantized_GMI = quantized_MGI.transpose(0, 1)
        # W (x - x^): the error that comes with the inputs, whatever the rounding
        inherited_GOM = self.weight_GOI @ (rows_MGI - quantized_MGI).permute(1, 2, 0)
        self.n += len(rows_MGI)
        self.gram_GII += quantized_GMI.mT @ quantized_GMI
        self.cross_GOI += inherited_GOM @ quantized_GMI
        self.rest_GO += inherited_GOM.square().sum(2)

    def of(self, rounded_GOI: Tensor) -> Tensor:
        """Return error_GO, the mean over positions."""
        deviation_GOI = rounded_GOI - self.weight_GOI
        quadratic_GOI = (deviation_GOI @ self.gram_GII - 2 * self.cross_GOI) * deviation_GOI
        return (quadratic_GOI.sum(2) + self.rest_GO) / self.n

    def slope(self, rounded_GOI: Tensor) -> Tensor:
        """Return the derivative of the mean error by each weight."""
        return 2 * ((rounded_GOI - self.weight_GOI) @ self.gram_GII - self.cross_GOI) / self.n


def choose_rounding(candidates: Candidates, error: OutputError) -> Tensor:
    """Return the rounded weight_GOI. No output's error is above that of rounding to nearest."""
    unit_GO1 = error.of(candidates.nearest_GOI).clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(2)
    rounded_GOI = _turn_over(_relax(candidates, error, unit_GO1), candidates, error, unit_GO1)
    is_better_GO = error.of(rounded_GOI) < error.of(candidates.nearest_GOI)
    return torch.where(is_better_GO.unsqueeze(2), rounded_GOI, candidates.nearest_GOI)


def _relax(candidates: Candidates, error: OutputError, unit_GO1: Tensor) -> Tensor:
    """Minimize over how far up each weight goes, from 0 to 1, with a price on being between; return who goes up."""
    weight_GOI, low_GOI, high_GOI, _ = candidates
    step_GOI = high_GOI - low_GOI
    up_GOI = ((weight_GOI - low_GOI) / step_GOI).nan_to_num(0, 0, 0).clamp(0, 1)
    logits_GOI = torch.logit((up_GOI - GAMMA) / (ZETA - GAMMA))
    optimizer = torch.optim.Adam([logits_GOI], lr=LEARNING_RATE)
    price = REGULARIZER / weight_GOI.shape[2]
    for step in range(STEPS):
        beta = BETA_END + (BETA_START - BETA_END) * (1 + math.cos(math.pi * step / STEPS)) / 2
        sigmoid_GOI = logits_GOI.sigmoid()
        stretched_GOI = sigmoid_GOI * (ZETA - GAMMA) + GAMMA
        up_GOI = stretched_GOI.clamp(0, 1)
        slope_GOI = error.slope(low_GOI + up_GOI * step_GOI) * step_GOI / unit_GO1
        side_GOI = 2 * up_GOI - 1  # the price is 1 - |side|^beta
        slope_GOI -= 2 * price * beta * side_GOI.sign() * side_GOI.abs() ** (beta - 1)
        logits_GOI.grad = slope_GOI * sigmoid_GOI * (1 - sigmoid_GOI) * (stretched_GOI == up_GOI)
        optimizer.step()
    return logits_GOI > 0


def _turn_over(is_up_GOI: Tensor, candidates: Candidates, error: OutputError, unit_GO1: Tensor) -> Tensor:
    """Round weights the other way, series by series, while that makes any output better."""
    for _ in range(MOST_SERIES):
        is_up_GOI, is_better = _turn_series(is_up_GOI, candidates, error, unit_GO1)
        if not is_better:
            break
    return torch.where(is_up_GOI, candidates.high_GOI, candidates.low_GOI)


def _turn_series(
    is_up_GOI: Tensor, candidates: Candidates, error: OutputError, unit_GO1: Tensor
) -> tuple[Tensor, bool]:
    """Turn the best weight of each output, and so on, each once and also where it costs; return the best on the way.

    So a series gets past where no single turn helps (Kernighan and Lin 1970 exchange pairs alike).
    """
    _, low_GOI, high_GOI, _ = candidates
    groups_G1 = torch.arange(len(low_GOI), device=low_GOI.device).unsqueeze(1)
    turn_GOI = torch.where(is_up_GOI, low_GOI - high_GOI, high_GOI - low_GOI)
    second_GOI = turn_GOI.square() * error.gram_GII.diagonal(dim1=1, dim2=2).unsqueeze(1) / error.n
    second_GOI = second_GOI.masked_fill(turn_GOI == 0, torch.inf)  # also of what has been turned: once is enough
    slope_GOI = error.slope(torch.where(is_up_GOI, high_GOI, low_GOI))
    best_GOI, best_GO1, total_GO1 = is_up_GOI, torch.zeros_like(unit_GO1), torch.zeros_like(unit_GO1)
    for _ in range(min(low_GOI.shape[2], TURNS_OF_A_SERIES)):
        change_GO1, place_GO1 = (turn_GOI * slope_GOI + second_GOI).min(2, keepdim=True)
        total_GO1 = total_GO1 + change_GO1
        slope_GOI += 2 * turn_GOI.gather(2, place_GO1) * error.gram_GII[groups_G1, place_GO1.squeeze(2)] / error.n
        second_GOI.scatter_(2, place_GO1, torch.inf)
        is_up_GOI = is_up_GOI.scatter(2, place_GO1, ~is_up_GOI.gather(2, place_GO1))
        is_better_GO1 = total_GO1 < best_GO1 - SMALLEST_GAIN * unit_GO1
        best_GOI, best_GO1 = torch.where(is_better_GO1, is_up_GOI, best_GOI), best_GO1.where(~is_better_GO1, total_GO1)
    return best_GOI, bool((best_GO1 < 0).any())
