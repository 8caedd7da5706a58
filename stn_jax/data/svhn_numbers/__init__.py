"""SVHN's full numbers for TFDS: ``import stn_jax.data.svhn_numbers.svhn_numbers_dataset_builder``
and then ``tfds.load("svhn_numbers")``."""
