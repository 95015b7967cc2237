"""The random draws of edge-tune: ChaCha8 and what src/data/shuffle.rs and src/train/initial.rs
make of it. With them both sides start from the same values and see the same batches."""

import struct

import numpy as np

# Streams of random numbers; the order of rows uses the numbers of epochs.
VALUES = 1 << 40
ROWS = 1 << 41

QUARTERS = [
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
]


def key_stream(seed, stream, blocks, first=0):
    """u32 words of ChaCha8 from block `first` on; the key is seed and stream, the nonce 0."""
    fixed = b"expand 32-byte k" + struct.pack("<4Q", seed, stream, 0, 0)
    start = np.zeros((16, blocks), np.uint32)
    start[:12] = np.frombuffer(fixed, "<u4")[:, None]
    start[12] = np.arange(first, first + blocks)
    x = start.copy()

    def mix(a, b, d, by):
        x[a] += x[b]
        x[d] ^= x[a]
        x[d] = (x[d] << np.uint32(by)) | (x[d] >> np.uint32(32 - by))

    for _ in range(4):
        for a, b, c, d in QUARTERS:
            mix(a, b, d, 16)
            mix(c, d, b, 12)
            mix(a, b, d, 8)
            mix(c, d, b, 7)
    return (x + start).T.ravel()


class Draws:
    """Numbers of one stream, one after the other."""

    def __init__(self, seed, stream):
        self.seed, self.stream = seed, stream
        self.blocks, self.words = 0, []

    def u32(self):
        if not self.words:
            self.words = key_stream(self.seed, self.stream, 16, self.blocks).tolist()[::-1]
            self.blocks += 16
        return self.words.pop()

    def u64(self):
        low = self.u32()
        return low | self.u32() << 32

    def below(self, n):
        """A number in `0..n`, for initial rows."""
        return self.u32() % n


def uniform(seed, stream, shape, bound):
    """An array of numbers in `-bound..bound`."""
    count = int(np.prod(shape))
    words = key_stream(seed, stream, -(-count // 16))[:count]
    unit = (words >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)
    return ((2 * unit - 1) * np.float32(bound)).reshape(shape)


def order(seed, epoch, count):
    """The rows `0..count` as an epoch goes through them."""
    rows, draws = list(range(count)), Draws(seed, epoch)
    for i in range(count - 1, 0, -1):
        n = i + 1
        fair = (1 << 64) - 1 - ((1 << 64) - 1) % n
        x = draws.u64()
        while x >= fair:
            x = draws.u64()
        rows[i], rows[x % n] = rows[x % n], rows[i]
    return rows


# The numbers that the test of src/data/shuffle.rs has.
assert order(7, 3, 10) == [7, 9, 2, 5, 3, 4, 0, 8, 1, 6]
