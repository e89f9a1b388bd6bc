/*
 * A file for qtests that can be made to hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The one file of a FUSE server, the program that QTEST_HOLD_FS names: here it
 * is not a client of QEMU's own that waits, but threads of QEMU, in the kernel.
 */

#ifndef TESTS_QTEST_HOLD_FS_H
#define TESTS_QTEST_HOLD_FS_H

typedef struct HoldFs HoldFs;

/* Returns: NULL if the test was skipped. */
HoldFs *hold_fs_new(uint64_t size);

/* QEMU has closed the file. */
void hold_fs_free(HoldFs *fs);

const char *hold_fs_path(HoldFs *fs);

/* Whether reads, writes and flushes hang */
void hold_fs_hold(HoldFs *fs, bool hold);

/*
 * Between these everything hangs, fstat() included.  What comes there must not
 * wait for it: if it does, the server is let go after a minute, and the test
 * fails.
 */
void hold_fs_stop(HoldFs *fs);
void hold_fs_cont(HoldFs *fs);

#endif
