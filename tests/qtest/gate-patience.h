/*
 * Commands that are refused while storage hangs, tried until it answers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_GATE_PATIENCE_H
#define TESTS_QTEST_GATE_PATIENCE_H

#include "libqtest.h"
#include "qobject/qdict.h"

#define GATE_PATIENCE_US    (60 * G_USEC_PER_SEC)

/* Returns: what the gate says in the answer @rsp, or NULL */
static inline const char *gate_says(const QDict *rsp)
{
    QDict *error = qdict_get_qdict(rsp, "error");
    const char *desc = error ? qdict_get_str(error, "desc") : "";

    return strstr(desc, "would wait for storage that hangs") ? desc : NULL;
}

/*
 * Execute @command, which must succeed in the end.  @rsp, if not NULL, is the
 * answer to its first try.
 */
static inline void gate_patient_qmp(QTestState *qts, const char *command,
                                    QDict *rsp)
{
    gint64 end = g_get_monotonic_time() + GATE_PATIENCE_US;

    for (;;) {
        if (!rsp) {
            qtest_qmp_send_raw(qts, "%s\n", command);
            rsp = qtest_qmp_receive(qts);
        }
        if (!gate_says(rsp)) {
            break;
        }
        qobject_unref(rsp);
        rsp = NULL;
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

#endif
