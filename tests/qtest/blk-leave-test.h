/*
 * Tests of disks and images that are left while requests hang
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_BLK_LEAVE_TEST_H
#define TESTS_QTEST_BLK_LEAVE_TEST_H

#include "virtio-blk-cancel-lib.h"

/* A disk named drv, a -blockdev behind a server that can be held */
Vbc *leave_start(const void *base);

/*
 * All of @r of vbc_hang_some() that were not cancelled come back with their
 * results, and nothing has touched the buffers of the others.
 */
void leave_check_all(Vbc *v, VbcReq *r);

/* Unplug device @id of the machine pc, and wait until it is gone. */
void leave_unplug(Vbc *v, const char *id, uint8_t slot);

/* blk-leave-{lock,migrate}.c */
void leave_add_lock_tests(void);
void leave_add_migrate_tests(void);

#endif
