"""A decoder of Label Studio's run-length encoded brush masks."""

import numpy as np


def decode_brush(data):
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(size):
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    num, width = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < num:
        is_run, count = read(1), read(sizes[read(2)]) + 1
        values += [read(width)] * count if is_run else [read(width) for _ in range(count)]
    return np.array(values[:num], np.uint8)
