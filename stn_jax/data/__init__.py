"""Data: images and labels from TFDS or the embedded sample, and the tasks on them."""
