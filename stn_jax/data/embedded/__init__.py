"""A sample of MNIST that ships with the package: ``sources.load("mnist_sample")``.

10,000 training and 2,000 test digits in their original order: of each six training digits one, the
first and the second in turn (two groups of writers alternate, and both should be in), and of each
five test digits the first. ``LICENSE.md`` beside it names the authors and the licence. ``python -m
stn_jax.data.embedded --manual_dir=DIR`` makes it from the original files.
"""

import pathlib

NAME = "mnist_sample"
VERSION = "1.0.0"
PATH = pathlib.Path(__file__).with_name("mnist_sample.npz")
