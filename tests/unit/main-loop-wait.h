/*
 * Wait in the main loop for what other threads do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_MAIN_LOOP_WAIT_H
#define TESTS_UNIT_MAIN_LOOP_WAIT_H

#include "qemu/main-loop.h"

#define MAIN_LOOP_PATIENCE_US (60 * G_USEC_PER_SEC)

/* Run the main loop until @cond is true.  Context: its thread. */
#define main_loop_wait_for(cond)                                        \
    do {                                                                \
        int64_t deadline_ = g_get_monotonic_time() +                    \
                            MAIN_LOOP_PATIENCE_US;                      \
        while (!(cond)) {                                               \
            g_assert_cmpint(g_get_monotonic_time(), <, deadline_);      \
            main_loop_wait(true);                                       \
            g_usleep(50); /* another thread's turn */                   \
        }                                                               \
    } while (0)

#endif /* TESTS_UNIT_MAIN_LOOP_WAIT_H */
