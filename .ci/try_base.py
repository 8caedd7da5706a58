"""Tests the installed package with its base dependencies: ``native`` kernels or ``plain``."""

import pathlib
import sys
import time

start = time.process_time()
import jax  # noqa: E402

jax_alone = time.process_time() - start
import stn_jax  # noqa: E402

own = time.process_time() - start - jax_alone
print(f"importing stn_jax: {own:.2f} s of processor time, jax {jax_alone:.2f} s")
assert own < 1

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from stn_jax.warp import native, transforms  # noqa: E402

assert pathlib.Path(stn_jax.__file__).is_relative_to(sys.prefix), stn_jax.__file__
assert native.available() is (sys.argv[1] == "native"), native.status()
image = np.random.default_rng(0).random((2, 12, 15, 3), np.float32)
rotated = stn_jax.affine_transform(image, stn_jax.warp.affine.rotation(180.0))
np.testing.assert_allclose(rotated, image[:, ::-1, ::-1], atol=1e-5)
families = {
    transforms.Affine,
    transforms.Attention,
    transforms.Rotation,
    transforms.Similarity,
    transforms.Projective,
    transforms.ThinPlateSpline,
}
for kind in families:
    family = kind()
    theta = family.theta(jnp.zeros((2, family.size)))
    unchanged = family.warp(image, theta, (12, 15))
    np.testing.assert_allclose(unchanged, image, atol=1e-5)
model, variables = stn_jax.load_pretrained("rotated_mnist/stn-sl1")[:2]
assert model.apply(variables, jnp.zeros((2, 28, 28, 1))).shape == (2, 10)
network = stn_jax.create_model("rotated_mnist", "stn-c0")
assert network.init_with_output(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))[0].shape == (1, 10)
missing = {"tqdm", "ml_collections", "matplotlib", "tensorflow_datasets"} & set(sys.modules)
assert not missing, missing
print("ok:", native.status())
