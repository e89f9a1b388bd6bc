/*
 * What takes until storage that hangs answers: commands that are refused, and
 * disks that were unplugged
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_GATE_PATIENCE_H
#define TESTS_QTEST_GATE_PATIENCE_H

#include "libqtest.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

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

/* Returns: whether query-block shows a disk whose device has gone */
static inline bool gate_has_orphan(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-block'}");
    QListEntry *entry;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), entry) {
        QDict *disk = qobject_to(QDict, qlist_entry_obj(entry));
        const char *qdev = qdict_get_try_str(disk, "qdev");

        found |= qdev && strstr(qdev, "(unplugged");
    }
    qobject_unref(rsp);
    return found;
}

static inline void gate_wait_no_orphan(QTestState *qts)
{
    gint64 end = g_get_monotonic_time() + 2 * GATE_PATIENCE_US;

    while (gate_has_orphan(qts)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

#endif
