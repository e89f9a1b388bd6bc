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

int coroutine_fn blk_cancel_co_ask(BlockDriverState *bs, int64_t patience_ns)
{
    BdrvChild *child;
    int ret = 0;

    if (bs->drv && bs->drv->bdrv_co_answers) {
        ret = bs->drv->bdrv_co_answers(bs, patience_ns);
    } else if (bs->drv && bs->drv->protocol_name &&
               QLIST_EMPTY(&bs->children)) {
        ret = blk_bounded_co_ask(bs, patience_ns);
    }
    QLIST_FOREACH(child, &bs->children, next) {
        if (ret < 0) {
            break;
        }
        ret = blk_cancel_co_ask(child->bs, patience_ns);
    }
    return ret;
}
