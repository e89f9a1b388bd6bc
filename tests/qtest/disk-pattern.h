/*
 * Contents of a test's disk, and of what is read from it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each byte tells from where on the disk it is, and by which write.
 */

#ifndef TESTS_QTEST_DISK_PATTERN_H
#define TESTS_QTEST_DISK_PATTERN_H

#define DISK_SECTOR     512
#define DISK_ZEROES     (-1)    /* a fill: nothing but zeroes */

/* What @len bytes at @offset are after a write that is told apart by @fill. */
static inline void disk_pattern(uint8_t *buf, size_t len, uint64_t offset,
                                int fill)
{
    for (size_t i = 0; i < len; i++) {
        uint64_t at = offset + i;

        buf[i] = fill == DISK_ZEROES ? 0 : fill + at % 251 + at / DISK_SECTOR;
    }
}

static inline void disk_pattern_check(const uint8_t *got, size_t len,
                                      uint64_t offset, int fill)
{
    g_autofree uint8_t *want = g_malloc(len);

    disk_pattern(want, len, offset, fill);
    for (size_t i = 0; i < len; i++) {
        if (got[i] != want[i]) {
            g_test_message("byte %zu of %zu at disk offset %" PRIu64
                           ": expected content %d", i, len, offset, fill);
            g_assert_cmphex(got[i], ==, want[i]);
        }
    }
}

#endif
