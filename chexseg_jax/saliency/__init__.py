"""Saliency maps of a classifier, and masks from maps."""
