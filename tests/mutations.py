"""Random damage to the bytes of a file, for tests of what readers say of it."""

import numpy as np

# Words that counts, offsets and sizes are often broken by.
EXTREMES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with 1 to 8 random changes of one of several kinds each; the same for one `rng`."""
    for _ in range(int(rng.integers(1, 9))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        data = change(data, rng)
    return data


def _place(data, rng):
    """A position in the data. Half of them in its first 4 KB, where headers are."""
    end = len(data)
    if rng.integers(2):
        end = min(end, 4096)
    return int(rng.integers(max(end, 1)))


def _length(rng):
    """A length from 1 to 2,048, short ones as often as long ones."""
    return int(2 ** rng.uniform(0, 11))


def _flip_bit(data, rng):
    if not data:
        return data
    place = _place(data, rng)
    return data[:place] + bytes([data[place] ^ (1 << rng.integers(8))]) + data[place + 1 :]


def _set_byte(data, rng):
    place = _place(data, rng)
    return data[:place] + rng.bytes(1) + data[place + 1 :]


def _overwrite_word(data, rng):
    """Four or eight bytes in a row become an extreme number, of either byte order."""
    size = (4, 8)[rng.integers(2)]
    value = EXTREMES[rng.integers(len(EXTREMES))] % 256**size
    word = value.to_bytes(size, ("little", "big")[rng.integers(2)])
    place = _place(data, rng)
    return data[:place] + word + data[place + size :]


def _cut_out(data, rng):
    place = _place(data, rng)
    return data[:place] + data[place + _length(rng) :]


def _cut_off(data, rng):
    return data[: _place(data, rng)]


def _insert(data, rng):
    place = _place(data, rng)
    return data[:place] + rng.bytes(_length(rng)) + data[place:]


def _duplicate(data, rng):
    place = _place(data, rng)
    part = data[place : place + _length(rng)]
    return data[:place] + part + data[place:]


def _fill(data, rng):
    """A part becomes zeros or ones throughout."""
    place = _place(data, rng)
    part = data[place : place + _length(rng)]
    value = (b"\0", b"\xff")[rng.integers(2)]
    return data[:place] + value * len(part) + data[place + len(part) :]


# Cutting the end off hides the other changes, so that it is the rarest.
CHANGES = (
    _flip_bit,
    _flip_bit,
    _flip_bit,
    _set_byte,
    _set_byte,
    _overwrite_word,
    _overwrite_word,
    _overwrite_word,
    _cut_out,
    _insert,
    _duplicate,
    _fill,
    _cut_off,
)
