"""Damages the contents of files at random: bytes, and values inside archives and JSON."""

import contextlib
import io
import json
import random
import zipfile

import numpy as np
import safetensors.numpy

from stn_jax import tensor_file


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content after one to four random changes, and not what it was."""
    data = bytearray(content)
    while bytes(data) == content:
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            # Where files say what they are: the first and last few hundred bytes come up more.
            size = len(data)
            edge = rng.choice([size, size, 64, 400])
            at = rng.randrange(min(edge, size) or 1)
            at = at if rng.random() < 0.5 else max(size - 1 - at, 0)
            length = min(rng.choice([1, 2, 4, 8, 50, 1000]), size - at)
            kind = rng.randrange(8)
            if kind == 0 and size:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + length] = rng.randbytes(length)
            elif kind == 2:
                del data[at:]
            elif kind == 3:
                del data[at : at + length]
            elif kind == 4:
                data[at:at] = rng.randbytes(length)
            elif kind == 5:
                data[at:at] = data[at : at + length]
            elif kind == 6:
                number = rng.choice([0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1])
                order = rng.choice(["little", "big"])
                data[at : at + 4] = number.to_bytes(4, order)[: max(size - at, 0)]
            else:
                data[at : at + length] = bytes(length)
    return bytes(data)


def mutated_inside(content: bytes, rng: random.Random) -> bytes:
    """A zip file whose checksums are right and one of whose members is damaged."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    name = rng.choice([*members, "metadata.npy", "metadata.npy"])
    if name not in members:
        name = next(iter(members))
    # An array's header, more often than its numbers; a JSON's text keeps its length.
    head, tail = members[name][:128], members[name][128:]
    if name == "metadata.npy" and rng.random() < 0.8:
        tail = _mutated_json(tail, rng)
        head = _npy_header(len(tail))
    elif rng.random() < 0.7:
        head = mutated(head, rng)
    else:
        tail = mutated(tail, rng)
    members[name] = head + tail
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for key, value in members.items():
            packed.writestr(key, value)
    return buffer.getvalue()


def _npy_header(length: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (length,)}
    )
    return buffer.getvalue()


def resigned(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose digest is right and whose metadata or numbers are damaged."""
    size = 8 + int.from_bytes(content[:8], "little")
    text = json.loads(content[8:size])["__metadata__"]["stn_jax"]
    arrays = safetensors.numpy.load(content)
    if rng.random() < 0.7:
        text = _mutated_json(text.encode(), rng).decode(errors="replace")
    else:
        name = rng.choice(list(arrays))
        numbers = bytearray(arrays[name].tobytes())
        numbers[rng.randrange(len(numbers))] ^= rng.randrange(1, 256)
        arrays[name] = np.frombuffer(numbers, arrays[name].dtype).reshape(arrays[name].shape)
    with contextlib.suppress(ValueError, AttributeError, KeyError):
        metadata = json.loads(text)
        del metadata["sha256"]
        text = json.dumps({"sha256": tensor_file.digest(arrays, metadata), **metadata})
    return safetensors.numpy.save(arrays, {"stn_jax": text})


def mutated_text(content: bytes, rng: random.Random) -> bytes:
    """JSON damaged as text or as values."""
    while (damaged := _mutated_json(content, rng)) == content:
        pass
    return damaged


def _mutated_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with one value, somewhere in it, replaced by another; or the bytes mutated."""
    if rng.random() < 0.4:
        return mutated(text, rng)
    value = json.loads(text)
    place, key = value, rng.choice(list(value))
    while isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
        place = place[key]
        key = rng.choice(list(place))
    odd = [None, True, -1, 0, 1, 2.5, 1e308, 10**30, float("nan"), "", "x", [], [0], {}, {"a": 1}]
    place[key] = rng.choice([*odd, [10**9] * 3, [28, 28], [1, 1, 1], ["28", 28, 1]])
    return json.dumps(value).encode()
