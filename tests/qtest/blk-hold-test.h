/*
 * Host-side commands while storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_BLK_GATE_TEST_H
#define TESTS_QTEST_BLK_GATE_TEST_H

/* A second without progress, and the storage hangs */
#define HOLD_TIMEOUT "-machine hold-timeout=4000"

/* Register @fn for a disk in the main loop; and for one in an IOThread. */
void hold_add_test(const char *path, void (*fn)(const void *opts), bool loops);

/* blk-hold-inside.c */
void hold_add_inside_tests(void);

/* blk-hold-schema.c */
void hold_add_schema_tests(void);

/* blk-hold-jobs.c */
void hold_add_job_tests(void);

#endif
