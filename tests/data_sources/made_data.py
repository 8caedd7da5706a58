"""Small data sets for the tests, and the names of the original MNIST files."""

import io
import pathlib

import numpy as np
import PIL.Image

FILES = [
    f"{prefix}-{kind}-ubyte.gz"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def digits(count, size=8, channels=1, classes=10, seed=0):
    """Random images [count, size, size, channels] and labels [count]."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    return images, rng.integers(0, classes, count)


def write_tfds(data_dir, splits, *, name="toy", version="1.2.0", classes=10, **feature):
    """Writes a data set as TFDS stores it, without TensorFlow.

    ``splits`` maps the names of splits to (images, labels); ``feature`` are arguments of TFDS's
    Image, ``classes`` their number or their names. Returns the folder of the version.
    """
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    folder = pathlib.Path(data_dir) / name / version
    folder.mkdir(parents=True)
    infos = []
    for split, (images, labels) in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for image, label in zip(images, labels, strict=True):
            png = io.BytesIO()
            PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(int(label))
            writer.write(example.SerializeToString())
        writer.close()
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[len(labels)], num_bytes=0))
    feature.setdefault("shape", (8, 8, 1))
    features = {
        "image": tfds.features.Image(**feature),
        "label": tfds.features.ClassLabel(
            **{"num_classes" if isinstance(classes, int) else "names": classes}
        ),
    }
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        supervised_keys=("image", "label"),
        check_data=False,
    )
    return folder
