"""A model and a goal come in; tensors on grids, chosen by one search, and the file that they make go out."""
