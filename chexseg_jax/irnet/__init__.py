"""IRNet (Ahn et al., 2019, arXiv 1904.05044): refine coarse saliency maps to masks that follow the image."""
