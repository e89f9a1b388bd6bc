/*
 * How many cancels of the guest a disk has counted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_QTEST_CANCEL_FIGURES_H
#define TESTS_QTEST_CANCEL_FIGURES_H

#include "libqtest.h"
#include "qobject/qdict.h"

/* Each of the outcomes so often, and their sum received */
static inline void check_cancels(const QDict *cancels, int64_t canceled,
                                 int64_t completed, int64_t not_found,
                                 int64_t refused, int64_t invalid)
{
    g_assert_cmpint(qdict_get_int(cancels, "canceled"), ==, canceled);
    g_assert_cmpint(qdict_get_int(cancels, "completed"), ==, completed);
    g_assert_cmpint(qdict_get_int(cancels, "not-found"), ==, not_found);
    g_assert_cmpint(qdict_get_int(cancels, "refused"), ==, refused);
    g_assert_cmpint(qdict_get_int(cancels, "invalid"), ==, invalid);
    g_assert_cmpint(qdict_get_int(cancels, "received"), ==,
                    canceled + completed + not_found + refused + invalid);
}

/* What the property cancel-stats of device @id must say; nothing is invalid */
static inline void expect_cancels(QTestState *qts, const char *id,
                                  unsigned int canceled, unsigned int completed,
                                  unsigned int not_found, unsigned int refused)
{
    g_autofree char *path = g_strdup_printf("/machine/peripheral/%s", id);
    QDict *rsp = qtest_qmp(qts, "{'execute': 'qom-get', 'arguments': {"
                           "'path': %s, 'property': 'cancel-stats'}}", path);

    g_assert_true(qdict_haskey(rsp, "return"));
    check_cancels(qdict_get_qdict(qdict_get_qdict(rsp, "return"), "cancels"),
                  canceled, completed, not_found, refused, 0);
    qobject_unref(rsp);
}

#endif
