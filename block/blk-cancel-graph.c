/*
 * Which block nodes are below a BlockBackend with cancelling on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each node counts the edges from parents that are, or are below, such a
 * BlockBackend.  What is below a node learns only of the first edge that comes
 * and of the last that goes, so counts stay small and a change is cheap where
 * many paths lead to the same node.
 *
 * Hooks: block.c and block-backend.c.
 */

#include "qemu/osdep.h"
#include "block/blk-cancel-graph.h"
#include "block/block_int.h"

void blk_cancel_graph_change(BlockDriverState *bs, int delta)
{
    unsigned int before = bs->cancelling_parents;
    unsigned int after = before + delta;
    BdrvChild *child;

    GLOBAL_STATE_CODE();
    assert(delta > 0 || before);

    qatomic_set(&bs->cancelling_parents, after);
    if (!before == !after) {
        return;
    }
    QLIST_FOREACH(child, &bs->children, next) {
        blk_cancel_graph_change(child->bs, delta);
    }
}

void blk_cancel_graph_switch(BlockDriverState *bs, bool on)
{
    GLOBAL_STATE_CODE();
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (bs) {
        blk_cancel_graph_change(bs, on ? 1 : -1);
    }
}
