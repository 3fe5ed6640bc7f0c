"""Scores: pooled and per-image IoU, confidence intervals, AUROC, linear probe, CheXlocalize's evaluation."""
