"""A sample of MNIST that ships with the package: ``sources.load("mnist_sample")``.

10,000 training and 2,000 test digits in their original order: one of every six training digits,
alternately the first and the second (two groups of writers alternate, and both should be included),
and the first of every five test digits. ``LICENSE.md`` names the authors and the license. ``python
-m tools.embed_sample --manual_dir=DIR`` makes it from the original files.
"""

import pathlib

NAME = "mnist_sample"
VERSION = "1.0.0"
PATH = pathlib.Path(__file__).with_name("mnist_sample.npz")
