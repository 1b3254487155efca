"""Baselines that do not read time: motion, and each still alone.

Legend: N stills or clips, H W pixels, C channels, h w rows and columns, F features, Q questions.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.videoxl2.vision import normalise, subtract_background

RIDGE = 0.02
"""How much the squares of the weights cost, beside the mean loss of a clip."""


def motion(stills_NHWC: np.ndarray) -> float:
    """Return the mean absolute difference of neighbouring stills, in levels of 255."""
    return float(np.abs(np.diff(stills_NHWC.astype(np.float32), axis=0)).mean())


@torch.inference_mode()
def features(runner: ModelRunner, stills_NHWC: np.ndarray) -> Tensor:
    """Return the features of the tower, the maximum over all stills: (F,)."""
    pixels_NCHW = normalise(torch.from_numpy(stills_NHWC).permute(0, 3, 1, 2))
    model = cast(VideoXL2, runner.model)
    if model.config.stem == "conv":
        alone = torch.cat([subtract_background(None, still[None])[0] for still in pixels_NCHW])
        pixels_NCHW = torch.cat([pixels_NCHW, 3 * alone], dim=1)
    features_NChw: Tensor = model.vision_tower(pixels_NCHW)
    features_NCP = features_NChw.flatten(2)
    return torch.cat([features_NCP.mean(-1), features_NCP.amax(-1)], dim=1).amax(0).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class PerStill:
    """A logistic regression for each question, on the features of stills."""

    mean_F: Tensor
    spread_F: Tensor
    weight_QF: Tensor
    bias_Q: Tensor

    def margins(self, features_F: Tensor) -> list[float]:
        """Return the log odds of yes for each question."""
        normal_F = (features_F - self.mean_F) / self.spread_F
        margins: list[float] = F.linear(normal_F, self.weight_QF, self.bias_Q).tolist()
        return margins


def fit(features_NF: Tensor, truths_NQ: Tensor) -> PerStill:
    """Fit one regression a question to clips whose answers are known."""
    mean_F, spread_F = features_NF.mean(0), features_NF.std(0).clamp(min=1e-6)
    normal_NF = (features_NF - mean_F) / spread_F
    questions = truths_NQ.shape[1]
    weight_QF = torch.zeros(questions, normal_NF.shape[1], requires_grad=True)
    bias_Q = torch.zeros(questions, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_QF, bias_Q], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_NQ = F.linear(normal_NF, weight_QF, bias_Q)
        misses = F.binary_cross_entropy_with_logits(logits_NQ, truths_NQ.float())
        cost = misses * questions + RIDGE * weight_QF.square().sum()
        cost.backward()
        return cost

    optimizer.step(loss)
    return PerStill(
        mean_F=mean_F, spread_F=spread_F, weight_QF=weight_QF.detach(), bias_Q=bias_Q.detach()
    )
