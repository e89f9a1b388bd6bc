/*
 * Host-side commands while storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_BLK_GATE_TEST_H
#define TESTS_QTEST_BLK_GATE_TEST_H

/* Register @fn for a disk in the main loop; and for one in an IOThread. */
void gate_add_test(const char *path, void (*fn)(const void *opts), bool loops);

/* blk-gate-inside.c */
void gate_add_inside_tests(void);

/* blk-gate-jobs.c */
void gate_add_job_tests(void);

#endif
