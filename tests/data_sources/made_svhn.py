"""Archives in the layout of SVHN's full numbers, with pictures made here."""

import gzip
import io
import pathlib
import tarfile

import h5py
import numpy as np
import PIL.Image


def numbers(count, seed=0, most=3):
    """Random pictures of "numbers": tuples of image [H, W, 3], digits and boxes [n, 4].

    A digit is a bright box; boxes are left, top, right, bottom, inside the image.
    """
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = int(rng.integers(1, most + 1))
        height, width = int(rng.integers(20, 60)), int(rng.integers(12, 20)) * length + 9
        image = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
        left = 4 + np.arange(length) * ((width - 9) // length)
        boxes = np.stack([left, left * 0 + 3, left + 10, left * 0 + height - 4], -1)
        digits = rng.integers(0, 10, length).tolist()
        for (x, y, x_end, y_end), digit in zip(boxes, digits, strict=True):
            image[y:y_end, x:x_end] = 150 + 10 * digit
        made.append((image, digits, boxes))
    return made


def png(image):
    """An image as a PNG file's bytes."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def digit_struct(made):
    """The bytes of a digitStruct.mat: a MATLAB v7.3 file, which is HDF5 behind a header."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        columns = {"name": [], "bbox": []}

        def keep(value):
            return references.create_dataset(f"r{len(references)}", data=value).ref

        for i, (_, digits, boxes) in enumerate(made):
            name = np.array([[ord(c)] for c in f"{i + 1}.png"], np.uint16)
            columns["name"].append(keep(name))
            group = references.create_group(f"r{len(references)}")
            boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
            values = {
                "label": [each or 10 for each in digits],
                "left": boxes[:, 0],
                "top": boxes[:, 1],
                "width": boxes[:, 2] - boxes[:, 0],
                "height": boxes[:, 3] - boxes[:, 1],
            }
            for key, value in values.items():
                cells = [[float(each)] for each in value]
                if len(cells) == 1:  # a lone number stands in place
                    group.create_dataset(key, data=np.array(cells))
                else:
                    cells = [[keep(np.array([cell]))] for cell in cells]
                    column = np.array(cells, dtype=h5py.ref_dtype).reshape(-1, 1)
                    group.create_dataset(key, data=column, dtype=h5py.ref_dtype)
            columns["bbox"].append(group.ref)
        for key, column in columns.items():
            data = np.array([[each] for each in column], dtype=h5py.ref_dtype)
            file.create_dataset(f"digitStruct/{key}", data=data, dtype=h5py.ref_dtype)
    return b"MATLAB 7.3 MAT-file".ljust(512) + buffer.getvalue()[512:]


def write_archive(path, made, *, files=None, labels=None, labels_first=False):
    """Writes an archive ``<split>.tar.gz``.

    ``files`` maps names to bytes in place of an image's (None: it is missing); ``labels`` are the
    bytes of digitStruct.mat in place of the right ones.
    """
    path = pathlib.Path(path)
    folder = path.name.removesuffix(".tar.gz")
    contents = {f"{i + 1}.png": png(image) for i, (image, _, _) in enumerate(made)}
    contents |= files or {}
    last = {"digitStruct.mat": digit_struct(made) if labels is None else labels}
    contents = last | contents if labels_first else contents | last
    with tarfile.open(path, "w:gz") as tar:
        for name, data in contents.items():
            if data is not None:
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def cut(path, share):
    """Leaves only the beginning of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def cut_tar(path, share):
    """Leaves only the beginning of the tar in a whole gzip file."""
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[: int(len(data) * share)]))
