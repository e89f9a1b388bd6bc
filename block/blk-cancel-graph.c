/*
 * Which block nodes are, or have been, below a BlockBackend with cancelling on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hooks: block.c, block-backend.c and export.c.
 */

#include "qemu/osdep.h"
#include "block/blk-bounded.h"
#include "block/blk-cancel-graph.h"
#include "block/block_int.h"

void blk_cancel_graph_mark(BlockDriverState *bs)
{
    BdrvChild *child;

    GLOBAL_STATE_CODE();

    if (bs->below_cancel) {
        return;
    }
    qatomic_set(&bs->below_cancel, true);
    blk_bounded_switch_on();
    QLIST_FOREACH(child, &bs->children, next) {
        blk_cancel_graph_mark(child->bs);
    }
}

void blk_cancel_graph_switch_on(BlockDriverState *bs)
{
    GLOBAL_STATE_CODE();
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (bs) {
        blk_cancel_graph_mark(bs);
    }
}

bool blk_cancel_graph_is_leaf(BlockDriverState *bs)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    return QLIST_EMPTY(&bs->children);
}

void blk_cancel_graph_share(BlockDriverState *bs, bool cancelling, bool begin)
{
    if (!cancelling) {
        return;
    }
    thread_pool_overdue_enable(begin);
    if (begin) {
        blk_cancel_graph_switch_on(bs);
    }
}

/* Edges come and go under the BQL alone; no lock of the graph is needed */
void blk_cancel_ask(BlockDriverState *bs, BlkCancelAsk *ask)
{
    BdrvChild *child;

    if (bs->drv && bs->drv->bdrv_ask) {
        int64_t ns = bs->drv->bdrv_ask(bs, ask->since_ns);

        if (ns > ask->longest_ns) {
            ask->longest_ns = ns;
            ask->bs = bs;
        }
        if (ns && (!ask->shortest_ns || ns < ask->shortest_ns)) {
            ask->shortest_ns = ns;
        }
    }
    QLIST_FOREACH(child, &bs->children, next) {
        blk_cancel_ask(child->bs, ask);
    }
}
