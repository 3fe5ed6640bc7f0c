"""Reading and writing radiographs, labels and masks; the phantom; the Grain pipelines."""
