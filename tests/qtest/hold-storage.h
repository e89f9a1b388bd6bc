/*
 * Storage for qtests that can be made to hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Disk images behind a qemu-storage-daemon.  While that is stopped, everything
 * hangs: reads, writes, flushes and discards.
 */

#ifndef TESTS_QTEST_HOLD_STORAGE_H
#define TESTS_QTEST_HOLD_STORAGE_H

#include "hang-watch.h"

#define HOLD_STORAGE_DISKS 2
#define HOLD_STORAGE_PATIENCE_US (60 * G_USEC_PER_SEC)

typedef struct HoldStorage {
    /* Set once */
    char *image[HOLD_STORAGE_DISKS];
    char *socket;
    pid_t server;

    bool held;                  /* atomic */

    /* hold_storage_watch_begin() */
    HangWatch *watch;
} HoldStorage;

/*
 * hold_storage_start:
 * @size: of each of the images, all zeroes
 *
 * Returns: NULL if there is no storage daemon; then the test is skipped.
 */
HoldStorage *hold_storage_start(size_t size);

/* Let it go and end it. */
void hold_storage_stop(HoldStorage *s);

/* Kill it: for handlers of SIGABRT. */
void hold_storage_kill(HoldStorage *s);

/* What -drive needs to reach the disk of this index. */
char *hold_storage_drive(HoldStorage *s, unsigned int disk);

void hold_storage_hold(HoldStorage *s);
void hold_storage_release(HoldStorage *s);

/* Let it go from another thread, to be joined, while this one will block. */
GThread *hold_storage_release_soon(HoldStorage *s);

/*
 * What comes between these must not wait for the storage, which hangs: if it
 * does, the storage is let go after HOLD_STORAGE_PATIENCE_US, and the test
 * fails.
 */
void hold_storage_watch_begin(HoldStorage *s);
void hold_storage_watch_end(HoldStorage *s);

#endif
