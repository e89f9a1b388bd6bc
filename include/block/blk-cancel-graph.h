/*
 * Which block nodes are below a BlockBackend with cancelling on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A node of a host file submits its requests where they cannot block the
 * event loop if it is below such a BlockBackend, whatever lies in between.
 *
 * Hooks: block.c and block-backend.c (an edge comes or goes), file-posix.c
 * (asks).
 */

#ifndef BLOCK_BLK_CANCEL_GRAPH_H
#define BLOCK_BLK_CANCEL_GRAPH_H

#include "block/block_int-common.h"
#include "block/graph-lock.h"

/*
 * blk_cancel_is_above:
 *
 * Whether a BlockBackend with cancelling on is above @bs.
 *
 * Context: any thread.  The answer may change unless @bs has a request in
 * flight that came from that BlockBackend.
 */
static inline bool blk_cancel_is_above(const BlockDriverState *bs)
{
    return qatomic_read(&bs->cancelling_parents);
}

void GRAPH_RDLOCK blk_cancel_graph_change(BlockDriverState *bs, int delta);

/*
 * blk_cancel_graph_link:
 * @cancelling: whether cancelling is on in or above the parent of @child
 *
 * The parent has got the edge @child to @child->bs.
 *
 * Context: main loop, BQL held.
 */
static inline void GRAPH_RDLOCK
blk_cancel_graph_link(BdrvChild *child, bool cancelling)
{
    if (unlikely(cancelling)) {
        blk_cancel_graph_change(child->bs, 1);
    }
}

/*
 * blk_cancel_graph_unlink:
 *
 * The opposite, with the same @cancelling; @child->bs is still there.
 */
static inline void GRAPH_RDLOCK
blk_cancel_graph_unlink(BdrvChild *child, bool cancelling)
{
    if (unlikely(cancelling)) {
        blk_cancel_graph_change(child->bs, -1);
    }
}

/*
 * blk_cancel_graph_switch:
 * @bs: the root node of a BlockBackend, or NULL if it has none
 *
 * That BlockBackend has switched cancelling on or off.
 *
 * Context: main loop, BQL held, no request of the BlockBackend in flight.
 */
void blk_cancel_graph_switch(BlockDriverState *bs, bool on);

#endif /* BLOCK_BLK_CANCEL_GRAPH_H */
