"""The one train loop and its parts."""
