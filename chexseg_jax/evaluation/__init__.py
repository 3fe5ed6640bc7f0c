"""Scores: IoU pooled and per image, how sure they are, CheXlocalize's published files, figures."""
