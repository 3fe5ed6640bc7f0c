"""Segment radiographs of any origin with a trained model."""
