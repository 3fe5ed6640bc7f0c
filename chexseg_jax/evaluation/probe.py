"""The linear probe: a linear classifier on the features of a frozen encoder."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit

#: Candidate strengths of the L2 penalty.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def fit_probe(
    features: Float[np.ndarray, "N d"],
    targets: Float[np.ndarray, "N K"],
    weights: Float[np.ndarray, "N K"],
    *,
    penalty: float,
) -> Float[np.ndarray, "d+1 K"]:
    """Fit one logistic regression per task by L-BFGS; the last row of the coefficients is the intercept.

    Minimises the weighted mean of the cross-entropy plus penalty / 2 * ||w||^2 (the intercept is not penalised).

    Args:
      features: standardised by the caller.
      targets: 0 or 1.
      weights: 0 for an entry without weight (an uncertain or blank label).
      penalty: weight of the squared coefficients.
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
    """Logits from standardised features."""
    return features @ coefficients[:-1] + coefficients[-1]
