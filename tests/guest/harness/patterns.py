# SPDX-License-Identifier: GPL-2.0-or-later
"""The pattern that guest-io writes, as the host finds it in the image."""

import struct

BLOCK = 4096


def pattern(seed, offset, length=BLOCK):
    """What guest-io writes at this offset with this seed."""
    first = offset // 8
    return b"".join(struct.pack("<II", first + i & 0xffffffff, seed)
                    for i in range(length // 8))


def seed_at(image, offset, length=BLOCK):
    """The seed whose pattern an image holds there; 0 for zeroes.

    None stands for anything else: torn, misplaced or foreign data.
    """
    with open(image, "rb") as file:
        file.seek(offset)
        data = file.read(length)
    if data == bytes(length):
        return 0
    seed = struct.unpack_from("<I", data, 4)[0]
    return seed if data == pattern(seed, offset, length) else None
