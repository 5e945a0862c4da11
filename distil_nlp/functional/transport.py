"""Optimal transport between the layers of two models."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from distil_nlp.errors import TrainingError


def transport_plan(costs: Tensor, student_weights: Tensor, teacher_weights: Tensor) -> Tensor:
    r"""The cheapest way to move the student's layer weights onto the teacher's.

    .. math:: \min_{f \ge 0} \sum_{i,j} f_{ij} d_{ij} \quad \text{with} \quad \sum_j f_{ij} = u_i, \;
        \sum_i f_{ij} = v_j

    A linear program with one variable for each pair of layers, solved exactly. It has no gradient.

    Args:
        costs: ``[student_layers, teacher_layers]``, finite.
        student_weights: ``[student_layers]``, not negative, summing to 1.
        teacher_weights: ``[teacher_layers]``, likewise.

    Returns:
        ``[student_layers, teacher_layers]``, float64, summing to 1, on the CPU.

    Raises:
        TrainingError: for costs that are not finite.

    References:
        Li et al. (2020), arXiv:2010.06133, on Rubner et al. (2000). Both sides' weights sum to 1 here, so that all of
        them is moved.
    """
    distances = costs.detach().cpu().double().numpy()
    if not np.isfinite(distances).all():
        raise TrainingError(
            "Layers were to be mapped by the loss between them (mapping: emd).",
            "The loss between two layers is not finite.",
            "Lower the learning rate.",
        )
    rows, columns = distances.shape
    of_student = np.kron(np.eye(rows), np.ones((1, columns)))  # [rows, rows * columns]: sums over the teacher's layers
    of_teacher = np.kron(np.ones((1, rows)), np.eye(columns))
    totals = [weights.detach().cpu().double().numpy() for weights in (student_weights, teacher_weights)]
    scale = distances.max() or 1.0  # the solver's tolerances are absolute
    solved = linprog(
        distances.ravel() / scale,
        A_eq=np.concatenate([of_student, of_teacher]),
        b_eq=np.concatenate([total / total.sum() for total in totals]),
        method="highs",
    )
    flow = torch.from_numpy(np.clip(solved.x, 0, None).reshape(rows, columns))
    return flow / flow.sum()


def layer_weights_by_cost(costs: Tensor, plan: Tensor, *, dim: int) -> Tensor:
    r"""Weights that favour the layers of one side which are cheap to move.

    .. math:: u_i' = softmax_i \frac{2 \bar c}{c_i + \bar c}, \quad c_i = \frac{\sum_j f_{ij} d_{ij}}{\sum_j f_{ij}}

    with :math:`\bar c` the mean of the :math:`c_i`. The exponent lies between 0 and 2, so the most favoured layer has
    at most e² times the weight of the least.

    Args:
        costs: ``[student_layers, teacher_layers]``.
        plan: The flow, of the same shape.
        dim: The dimension that is summed over: 1 for weights of the student's layers, 0 for the teacher's.

    Returns:
        Weights that sum to 1, float64, on the CPU.

    References:
        Li et al. (2020), arXiv:2010.06133 ("cost attention"). There the exponent is the sum of the costs over
        :math:`c_i`, divided by a temperature: without bound where a layer costs almost nothing, as one that was copied
        from the teacher does, which then takes all the weight.
    """
    plan, costs = plan.cpu().double(), costs.cpu().double()
    unit_costs = (plan * costs).sum(dim) / plan.sum(dim).clamp(min=1e-12)
    mean = unit_costs.mean()
    ratio = torch.where(mean > 0, 2 * mean / (unit_costs + mean).clamp(min=1e-300), 1.0)
    return ratio.softmax(0)
