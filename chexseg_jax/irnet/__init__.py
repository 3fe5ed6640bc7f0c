"""IRNet (Ahn et al., 2019, arXiv 1904.05044): from a coarse saliency map to a mask that follows the image."""
