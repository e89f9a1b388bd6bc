/*
 * virtio-blk CANCEL: what the host has only so much of
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest gets its hung requests back and asks again, for as long as it
 * likes.  That must cost the host no more than it has, and never end QEMU.
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "virtio-blk-cancel-lib.h"

#define REGION_SECTORS  (4 * MiB / VBC_SECTOR)
#define ROUNDS          3
#define DEPTH           60
#define IMAGE_SIZE      (ROUNDS * DEPTH * 4 * MiB)
#define ROOM            (110 * MiB) /* that a limit leaves to QEMU */
#define FEW             8           /* requests with the storage in any case */

static rlim_t address_space(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/statm", pid);
    g_autofree char *statm = NULL;

    g_assert_true(g_file_get_contents(path, &statm, NULL, NULL));
    return g_ascii_strtoull(statm, NULL, 10) * qemu_real_host_page_size();
}

/*
 * QEMU that begins with a limit, which is lowered when it runs: its address
 * space then has little room.
 */
static Vbc *start_limited(const VbcOptions *opts)
{
    const struct rlimit high = { 1ULL << 46, RLIM_INFINITY };
    struct rlimit before, low;
    Vbc *v;

    g_assert_cmpint(prlimit(0, RLIMIT_AS, &high, &before), ==, 0);
    v = vbc_start(opts);
    g_assert_cmpint(prlimit(0, RLIMIT_AS, &before, NULL), ==, 0);
    if (v) {
        low.rlim_cur = low.rlim_max = address_space(qtest_pid(v->qts)) + ROOM;
        g_assert_cmpint(prlimit(qtest_pid(v->qts), RLIMIT_AS, &low, NULL), ==,
                        0);
    }
    return v;
}

/* Returns: whether @r has been taken back. */
static bool try_cancel(Vbc *v, VbcReq *r)
{
    VbcReq cancel = { .type = VBC_T_CANCEL, .tag = r->tag };

    vbc_send(v, &cancel);
    vbc_wait(v, &cancel);
    if (cancel.status == VBC_S_NOT_CANCELED) {
        vbc_expect_pending(v, r);
        return false;
    }
    vbc_expect(v, r, VBC_S_CANCELED);
    return true;
}

/*
 * Each request has a coroutine, and QEMU ends where there is no memory for the
 * stack of one.  So most wait, and can be taken back all the same; they go on
 * when the storage does.  Only what a few have that may always begin is kept.
 */
static void test_address_space(const void *base)
{
    g_autofree char *image = vbc_sparse_image(IMAGE_SIZE);
    VbcOptions opts = *(const VbcOptions *)base;
    VbcReq r[ROUNDS * DEPTH];
    unsigned int refused = 0;
    Vbc *v;

    opts.image = image;
    opts.server = true;
    v = start_limited(&opts);
    if (!v) {
        unlink(image);
        return;
    }

    vbc_hold(v);
    for (unsigned int n = 0; n < ROUNDS * DEPTH; n++) {
        r[n] = (VbcReq) {
            .type = VIRTIO_BLK_T_IN, .tag = n, .len = 512,
            .sector = n * REGION_SECTORS,
        };
    }
    for (unsigned int round = 0; round < ROUNDS; round++) {
        for (unsigned int n = 0; n < DEPTH; n++) {
            vbc_send(v, &r[round * DEPTH + n]);
        }
        for (unsigned int n = 0; n < DEPTH; n++) {
            refused += !try_cancel(v, &r[round * DEPTH + n]);
        }
    }
    g_assert_cmpuint(refused, <=, FEW);

    vbc_release(v);
    vbc_settle(v);
    for (unsigned int n = 0; n < DEPTH; n++) {
        vbc_write(v, n * REGION_SECTORS, 512, 1);
    }
    vbc_stop(v);
    unlink(image);
}

/* The budgets of all disks */
static void check_budgets(QTestState *qts, uint64_t a, uint64_t b)
{
    QDict *ret = qtest_qmp(qts, "{'execute': 'query-block-hung'}");
    QListEntry *e;
    uint64_t sum = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(ret, "return"), e) {
        QDict *stats = qdict_get_qdict(qobject_to(QDict, qlist_entry_obj(e)),
                                       "stats");

        sum += qdict_get_int(stats, "budget");
    }
    g_assert_cmpuint(sum, ==, a + b);
    qobject_unref(ret);
}

/*
 * Each disk gets an equal share of what the machine has for all, or what it
 * asks for; 4 MiB at least.
 */
static void test_machine(void)
{
    QTestState *qts = qtest_init("-machine pc,cancel-budget=64M"
        " -blockdev null-co,node-name=a -blockdev null-co,node-name=b"
        " -device virtio-blk-pci,drive=a,cancel=on"
        " -device virtio-blk-pci,drive=b,cancel=reset,cancel-budget=20M");

    check_budgets(qts, 32 * MiB, 20 * MiB);
    qtest_qmp_assert_success(qts, "{'execute': 'qom-set', 'arguments': {"
                             " 'path': '/machine', 'value': 1048576,"
                             " 'property': 'cancel-budget' }}");
    check_budgets(qts, 4 * MiB, 4 * MiB);
    qtest_quit(qts);
}

void vbc_add_limit_tests(void)
{
    vbc_add_test("limits/address-space", VBC_SETUP_PLAIN | VBC_SETUP_IOTHREADS,
                 test_address_space);
    qtest_add_func("/virtio-blk-cancel/limits/machine", test_machine);
}
