/*
 * Which nodes know that a BlockBackend with cancelling on is above them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * After each step the count that every node keeps is compared with one that is
 * made anew from the edges of the graph.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "block/blk-cancel.h"
#include "block/blk-cancel-graph.h"
#include "block/block_int.h"
#include "system/block-backend.h"

#define NODES       8
#define BLKS        3
#define STEPS       2000

static const BlkCancelOptions options = {
    .budget = 1 * MiB,
    .damper = 100, .region = 4096,
};

/* A node of its own that lets every parent do everything */
static void plain_perms(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                        BlockReopenQueue *reopen_queue, uint64_t perm,
                        uint64_t shared, uint64_t *nperm, uint64_t *nshared)
{
    *nperm = 0;
    *nshared = BLK_PERM_ALL;
}

static BlockDriver bdrv_plain = {
    .format_name = "test-plain",
    .supports_backing = true,
    .bdrv_child_perm = plain_perms,
};

static BlockDriver bdrv_filter = {
    .format_name = "test-filter",
    .is_filter = true,
    .filtered_child_is_backing = true,
    .bdrv_child_perm = bdrv_default_perms,
};

static BlockDriverState *new_node(BlockDriver *drv)
{
    return bdrv_new_open_driver(drv, NULL, BDRV_O_RDWR, &error_abort);
}

static BlockBackend *new_blk(void)
{
    return blk_new(qemu_get_aio_context(), 0, BLK_PERM_ALL);
}

static void set_cancel(BlockBackend *blk, bool on)
{
    g_assert_true(blk_set_cancel(blk, on ? &options : NULL, &error_abort));
}

static BdrvChild *attach(BlockDriverState *parent, BlockDriverState *bs,
                         BdrvChildRole role)
{
    BdrvChild *child;

    bdrv_ref(bs); /* the edge eats one */
    bdrv_graph_wrlock();
    child = bdrv_attach_child(parent, bs, role & BDRV_CHILD_COW ? "backing"
                                                                : "child",
                              &child_of_bds, role, &error_abort);
    bdrv_graph_wrunlock();
    return child;
}

static void detach(BlockDriverState *parent, BdrvChild *child)
{
    bdrv_graph_wrlock();
    bdrv_unref_child(parent, child);
    bdrv_graph_wrunlock();
}

#define check_below(bs, parents)                                    \
    do {                                                            \
        g_assert_cmpuint((bs)->cancelling_parents, ==, parents);     \
        g_assert_cmpint(blk_cancel_is_above(bs), ==, (parents) > 0);\
    } while (0)

/* Cancelling is switched on and off above a chain. */
static void test_switch(void)
{
    BlockDriverState *top = new_node(&bdrv_plain);
    BlockDriverState *mid = new_node(&bdrv_plain);
    BlockDriverState *base = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();

    attach(top, mid, BDRV_CHILD_COW);
    attach(mid, base, BDRV_CHILD_DATA);
    blk_insert_bs(blk, top, &error_abort);
    check_below(top, 0);
    check_below(base, 0);

    for (int i = 0; i < 2; i++) {
        set_cancel(blk, true);
        set_cancel(blk, true); /* other limits */
        check_below(top, 1);
        check_below(mid, 1);
        check_below(base, 1);
        set_cancel(blk, false);
        check_below(top, 0);
        check_below(mid, 0);
        check_below(base, 0);
    }

    blk_unref(blk);
    bdrv_unref(base);
    bdrv_unref(mid);
    bdrv_unref(top);
}

/* Medium in and out; a BlockBackend that goes; one that has none. */
static void test_medium(void)
{
    BlockDriverState *a = new_node(&bdrv_plain);
    BlockDriverState *b = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();

    set_cancel(blk, true);
    blk_insert_bs(blk, a, &error_abort);
    check_below(a, 1);
    blk_replace_bs(blk, b, &error_abort);
    check_below(a, 0);
    check_below(b, 1);
    blk_remove_bs(blk);
    check_below(b, 0);
    blk_insert_bs(blk, a, &error_abort);
    check_below(a, 1);
    blk_remove_bs(blk);
    set_cancel(blk, false);
    blk_insert_bs(blk, a, &error_abort);
    check_below(a, 0);
    set_cancel(blk, true);
    check_below(a, 1);
    set_cancel(blk, false);
    blk_unref(blk);
    check_below(a, 0);

    bdrv_unref(a);
    bdrv_unref(b);
}

/* Two ways lead to one node; then one; then none. */
static void test_diamond(void)
{
    BlockDriverState *top = new_node(&bdrv_plain);
    BlockDriverState *left = new_node(&bdrv_plain);
    BlockDriverState *right = new_node(&bdrv_plain);
    BlockDriverState *base = new_node(&bdrv_plain);
    BlockDriverState *file = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();
    BdrvChild *to_left, *to_base;

    attach(base, file, BDRV_CHILD_DATA);
    to_left = attach(top, left, BDRV_CHILD_DATA);
    attach(top, right, BDRV_CHILD_DATA);
    attach(left, base, BDRV_CHILD_DATA);
    blk_insert_bs(blk, top, &error_abort);
    set_cancel(blk, true);
    check_below(base, 1);
    to_base = attach(right, base, BDRV_CHILD_DATA);
    check_below(base, 2);
    check_below(file, 1);

    detach(top, to_left);
    check_below(left, 0);
    check_below(base, 1);
    check_below(file, 1);
    detach(right, to_base);
    check_below(right, 1);
    check_below(base, 0);
    check_below(file, 0);

    set_cancel(blk, false);
    blk_unref(blk);
    bdrv_unref(file);
    bdrv_unref(base);
    bdrv_unref(right);
    bdrv_unref(left);
    bdrv_unref(top);
}

/* One of two BlockBackends above a node has cancelling on. */
static void test_two_parents(void)
{
    BlockDriverState *bs = new_node(&bdrv_plain);
    BlockBackend *a = new_blk();
    BlockBackend *b = new_blk();

    blk_insert_bs(a, bs, &error_abort);
    blk_insert_bs(b, bs, &error_abort);
    set_cancel(a, true);
    check_below(bs, 1);
    set_cancel(b, true);
    check_below(bs, 2);
    set_cancel(a, false);
    check_below(bs, 1);
    blk_remove_bs(a);
    check_below(bs, 1);
    set_cancel(b, false);
    check_below(bs, 0);

    blk_unref(a);
    blk_unref(b);
    bdrv_unref(bs);
}

/* A snapshot is taken; a job's filter comes and goes; a node is replaced. */
static void test_snapshot_and_filter(void)
{
    BlockDriverState *base = new_node(&bdrv_plain);
    BlockDriverState *overlay = new_node(&bdrv_plain);
    BlockDriverState *file = new_node(&bdrv_plain);
    BlockDriverState *filter = new_node(&bdrv_filter);
    BlockDriverState *other = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();

    attach(base, file, BDRV_CHILD_DATA);
    blk_insert_bs(blk, base, &error_abort);
    set_cancel(blk, true);

    bdrv_append(overlay, base, &error_abort);
    g_assert_true(blk_bs(blk) == overlay);
    check_below(overlay, 1);
    check_below(base, 1);
    check_below(file, 1);

    bdrv_append(filter, base, &error_abort);
    check_below(filter, 1);
    check_below(base, 1);
    bdrv_drop_filter(filter, &error_abort);
    check_below(filter, 0);
    check_below(base, 1);
    check_below(file, 1);

    bdrv_drained_begin(base);
    bdrv_drained_begin(other);
    bdrv_graph_wrlock();
    bdrv_replace_node(base, other, &error_abort);
    bdrv_graph_wrunlock();
    bdrv_drained_end(other);
    bdrv_drained_end(base);
    check_below(other, 1);
    check_below(base, 0);
    check_below(file, 0);

    set_cancel(blk, false);
    check_below(overlay, 0);
    check_below(other, 0);
    blk_unref(blk);
    bdrv_unref(other);
    bdrv_unref(filter);
    bdrv_unref(file);
    bdrv_unref(overlay);
    bdrv_unref(base);
}

/* An edge that is not allowed is taken back. */
static void test_abort(void)
{
    BlockDriverState *base = new_node(&bdrv_plain);
    BlockDriverState *filter = new_node(&bdrv_filter);
    BlockBackend *writer, *blk = new_blk();
    Error *err = NULL;

    writer = blk_new(qemu_get_aio_context(), BLK_PERM_WRITE,
                     BLK_PERM_ALL & ~BLK_PERM_WRITE);
    blk_insert_bs(blk, base, &error_abort);
    set_cancel(blk, true);
    blk_insert_bs(writer, filter, &error_abort);
    bdrv_ref(base);
    bdrv_graph_wrlock();
    g_assert_null(bdrv_attach_child(filter, base, "backing", &child_of_bds,
                                    BDRV_CHILD_FILTERED | BDRV_CHILD_PRIMARY,
                                    &error_abort) ? NULL : base);
    bdrv_graph_wrunlock();
    check_below(base, 1);

    /* Another writer: @base has one that does not share. */
    blk_remove_bs(blk);
    check_below(base, 0);
    g_assert_cmpint(blk_set_perm(blk, BLK_PERM_WRITE, BLK_PERM_ALL,
                                 &error_abort), ==, 0);
    g_assert_cmpint(blk_insert_bs(blk, base, &err), <, 0);
    error_free_or_abort(&err);
    check_below(base, 0);

    set_cancel(blk, false);
    blk_unref(blk);
    blk_unref(writer);
    bdrv_unref(filter);
    bdrv_unref(base);
}

/*
 * Any order of changes.  Edges go from a lower to a higher index, so there is
 * no circle.
 */
typedef struct Graph {
    BlockDriverState *node[NODES];
    BdrvChild *edge[NODES][NODES];
    BlockBackend *blk[BLKS];
    int root[BLKS];             /* index into @node, or -1 */
    bool on[BLKS];
} Graph;

static void graph_check(const Graph *g)
{
    unsigned int count[NODES] = {};

    for (int i = 0; i < BLKS; i++) {
        if (g->on[i] && g->root[i] >= 0) {
            count[g->root[i]]++;
        }
    }
    for (int from = 0; from < NODES; from++) {
        for (int to = from + 1; to < NODES; to++) {
            count[to] += g->edge[from][to] && count[from];
        }
        check_below(g->node[from], count[from]);
    }
}

static void graph_toggle_edge(Graph *g, int a, int b)
{
    int from = MIN(a, b), to = MAX(a, b);
    BdrvChild **edge = &g->edge[from][to];

    if (*edge) {
        detach(g->node[from], *edge);
        *edge = NULL;
    } else if (from != to) {
        *edge = attach(g->node[from], g->node[to], BDRV_CHILD_DATA);
    }
}

static void graph_toggle_root(Graph *g, int i, int node)
{
    if (g->root[i] >= 0) {
        blk_remove_bs(g->blk[i]);
        g->root[i] = -1;
    } else {
        blk_insert_bs(g->blk[i], g->node[node], &error_abort);
        g->root[i] = node;
    }
}

static void test_random(void)
{
    Graph g = {};

    for (int i = 0; i < NODES; i++) {
        g.node[i] = new_node(&bdrv_plain);
    }
    for (int i = 0; i < BLKS; i++) {
        g.blk[i] = new_blk();
        g.root[i] = -1;
    }
    for (int step = 0; step < STEPS; step++) {
        int i = g_test_rand_int_range(0, BLKS);

        switch (g_test_rand_int_range(0, 4)) {
        case 0:
            g.on[i] = !g.on[i];
            set_cancel(g.blk[i], g.on[i]);
            break;
        case 1:
            graph_toggle_root(&g, i, g_test_rand_int_range(0, NODES));
            break;
        default:
            graph_toggle_edge(&g, g_test_rand_int_range(0, NODES),
                              g_test_rand_int_range(0, NODES));
        }
        graph_check(&g);
    }
    for (int i = 0; i < BLKS; i++) {
        set_cancel(g.blk[i], false);
        blk_unref(g.blk[i]);
    }
    for (int i = 0; i < NODES; i++) {
        check_below(g.node[i], 0);
    }
    for (int i = 0; i < NODES; i++) {
        bdrv_unref(g.node[i]);
    }
}

int main(int argc, char **argv)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/blk-cancel-graph/switch", test_switch);
    g_test_add_func("/blk-cancel-graph/medium", test_medium);
    g_test_add_func("/blk-cancel-graph/diamond", test_diamond);
    g_test_add_func("/blk-cancel-graph/two-parents", test_two_parents);
    g_test_add_func("/blk-cancel-graph/snapshot-and-filter",
                    test_snapshot_and_filter);
    g_test_add_func("/blk-cancel-graph/abort", test_abort);
    g_test_add_func("/blk-cancel-graph/random", test_random);
    return g_test_run();
}
