"""Labels and masks of other programs and data sets, turned into our layout and back."""
