"""The linear probe: how much of the labels a frozen encoder's features give to a linear classifier."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit

#: Strengths of the L2 penalty that are tried.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def fit_probe(
    features: Float[np.ndarray, "N d"],
    targets: Float[np.ndarray, "N K"],
    weights: Float[np.ndarray, "N K"],
    *,
    penalty: float,
) -> Float[np.ndarray, "d+1 K"]:
    """One logistic regression a task, by L-BFGS: coefficients, the intercept in the last row.

    Minimises the weighted mean of the cross-entropy plus penalty / 2 * ||w||^2 (the intercept is free).

    Args:
      features: standardised by the caller.
      targets: 0 or 1.
      weights: 0 leaves an entry out (an uncertain or blank label).
      penalty: of the squared coefficients.
    """
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64, copy=False)
    decay = np.append(np.full(features.shape[1], penalty), 0.0)

    def fit(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        weight = weight / max(weight.sum(), 1.0)

        def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
            z = x @ w
            value = weight @ (np.logaddexp(0, z) - y * z) + 0.5 * (decay * w) @ w
            return float(value), x.T @ (weight * (expit(z) - y)) + decay * w

        return minimize(objective, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x

    return np.stack([fit(y, w) for y, w in zip(targets.T, weights.T, strict=True)], axis=1)


def apply_probe(
    features: Float[np.ndarray, "N d"], coefficients: Float[np.ndarray, "d+1 K"]
) -> Float[np.ndarray, "N K"]:
    """Logits of standardised features."""
    return features @ coefficients[:-1] + coefficients[-1]
