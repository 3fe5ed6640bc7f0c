"""Saliency maps of a classifier, and the thresholds that turn maps into masks."""
