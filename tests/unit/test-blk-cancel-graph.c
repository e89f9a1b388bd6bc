/*
 * Which nodes know that a BlockBackend with cancelling on is or was above them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
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
#define GRAPHS      100
#define STEPS       20

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

#define check_below(bs, marked) \
    g_assert_cmpint(blk_cancel_is_above(bs), ==, marked)

/* Cancelling is switched on and off above a chain. */
static void test_switch(void)
{
    BlockDriverState *top = new_node(&bdrv_plain);
    BlockDriverState *mid = new_node(&bdrv_plain);
    BlockDriverState *base = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();

    attach(top, mid, BDRV_CHILD_COW);
    attach(mid, base, BDRV_CHILD_DATA);
    blk_insert_bs(blk, mid, &error_abort);
    check_below(mid, false);
    check_below(base, false);
    set_cancel(blk, false);
    check_below(base, false);

    for (int i = 0; i < 2; i++) {
        set_cancel(blk, true);
        set_cancel(blk, true); /* other limits */
        check_below(top, false);
        check_below(mid, true);
        check_below(base, true);
        set_cancel(blk, false);
        check_below(base, true);
    }

    blk_unref(blk);
    bdrv_unref(base);
    bdrv_unref(mid);
    bdrv_unref(top);
}

/* Medium in and out; a BlockBackend that has none; one that goes. */
static void test_medium(void)
{
    BlockDriverState *a = new_node(&bdrv_plain);
    BlockDriverState *b = new_node(&bdrv_plain);
    BlockDriverState *c = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();

    set_cancel(blk, true);
    blk_insert_bs(blk, a, &error_abort);
    check_below(a, true);
    check_below(b, false);
    blk_replace_bs(blk, b, &error_abort);
    check_below(b, true);
    blk_remove_bs(blk);
    set_cancel(blk, false);
    blk_insert_bs(blk, c, &error_abort);
    check_below(c, false);
    blk_unref(blk);
    check_below(a, true);
    check_below(c, false);

    bdrv_unref(a);
    bdrv_unref(b);
    bdrv_unref(c);
}

/* An edge comes deep below; two ways lead to one node; one of them goes. */
static void test_diamond(void)
{
    BlockDriverState *top = new_node(&bdrv_plain);
    BlockDriverState *left = new_node(&bdrv_plain);
    BlockDriverState *right = new_node(&bdrv_plain);
    BlockDriverState *base = new_node(&bdrv_plain);
    BlockDriverState *file = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();
    BdrvChild *to_base;

    attach(base, file, BDRV_CHILD_DATA);
    attach(top, left, BDRV_CHILD_DATA);
    attach(top, right, BDRV_CHILD_DATA);
    blk_insert_bs(blk, top, &error_abort);
    set_cancel(blk, true);
    check_below(base, false);
    to_base = attach(left, base, BDRV_CHILD_DATA);
    check_below(base, true);
    check_below(file, true);
    attach(right, base, BDRV_CHILD_DATA);
    detach(left, to_base);
    check_below(file, true);

    blk_unref(blk);
    bdrv_unref(file);
    bdrv_unref(base);
    bdrv_unref(right);
    bdrv_unref(left);
    bdrv_unref(top);
}

/* A snapshot is taken; a job's filter comes and goes; a node is replaced. */
static void test_snapshot_and_filter(void)
{
    BlockDriverState *base = new_node(&bdrv_plain);
    BlockDriverState *overlay = new_node(&bdrv_plain);
    BlockDriverState *filter = new_node(&bdrv_filter);
    BlockDriverState *other = new_node(&bdrv_plain);
    BlockDriverState *file = new_node(&bdrv_plain);
    BlockBackend *blk = new_blk();

    attach(other, file, BDRV_CHILD_DATA);
    blk_insert_bs(blk, base, &error_abort);
    set_cancel(blk, true);

    bdrv_append(overlay, base, &error_abort);
    g_assert_true(blk_bs(blk) == overlay);
    check_below(overlay, true);
    check_below(base, true);

    bdrv_append(filter, base, &error_abort);
    check_below(filter, true);
    bdrv_drop_filter(filter, &error_abort);
    check_below(base, true);

    bdrv_drained_begin(base);
    bdrv_drained_begin(other);
    bdrv_graph_wrlock();
    check_below(file, false);
    bdrv_replace_node(base, other, &error_abort);
    bdrv_graph_wrunlock();
    bdrv_drained_end(other);
    bdrv_drained_end(base);
    check_below(other, true);
    check_below(file, true);

    blk_unref(blk);
    bdrv_unref(file);
    bdrv_unref(other);
    bdrv_unref(filter);
    bdrv_unref(overlay);
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
    bool marked[NODES];         /* that was below one that is on */
} Graph;

static void graph_check(Graph *g)
{
    bool above[NODES] = {};

    for (int i = 0; i < BLKS; i++) {
        if (g->on[i] && g->root[i] >= 0) {
            above[g->root[i]] = true;
        }
    }
    for (int from = 0; from < NODES; from++) {
        g->marked[from] |= above[from];
        for (int to = from + 1; to < NODES; to++) {
            /* What a marked node gets later is marked as well. */
            above[to] |= g->edge[from][to] && g->marked[from];
        }
        check_below(g->node[from], g->marked[from]);
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
    g_test_add_func("/blk-cancel-graph/snapshot-and-filter",
                    test_snapshot_and_filter);
    for (int i = 0; i < GRAPHS; i++) {
        g_autofree char *name = g_strdup_printf("/blk-cancel-graph/random/%d",
                                                i);
        g_test_add_func(name, test_random);
    }
    return g_test_run();
}
