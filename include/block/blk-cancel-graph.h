/*
 * Which block nodes are, or have been, below a BlockBackend with cancelling on
 * or an export with the option
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A node of a host file submits its requests where they cannot block the
 * event loop if it is below such a BlockBackend, whatever lies in between.
 *
 * Why the graph says so, and no option of the node: what a disk's data is in
 * changes while it runs.  The overlay of a snapshot, the target of a mirror,
 * the filter of a job and the medium that is put in come later than the disk,
 * and each of them would need the option, from whoever runs the command; one
 * that is forgotten blocks the event loop a year later.  A flag of the request
 * does not reach the file, because formats make requests of their own.  All
 * these nodes get an edge from above, so one hook where an edge comes sees
 * them all.
 *
 * The mark stays for as long as the node lives.  So whatever is left to do when
 * the disk has gone, such as closing the file, knows of it; nothing needs to be
 * counted; and what another user of the node pays is some CPU time.
 *
 * Hooks: block.c and block-backend.c (an edge comes), export.c (its option),
 * file-posix.c (asks).
 */

#ifndef BLOCK_BLK_CANCEL_GRAPH_H
#define BLOCK_BLK_CANCEL_GRAPH_H

#include "block/block_int-common.h"
#include "block/graph-lock.h"

/*
 * blk_cancel_is_above:
 *
 * Whether a BlockBackend with cancelling on is, or has been, above @bs.
 *
 * Context: any thread.  Of a request that came from such a BlockBackend the
 * answer is true throughout.
 */
static inline bool blk_cancel_is_above(const BlockDriverState *bs)
{
    return qatomic_read(&bs->below_cancel);
}

void GRAPH_RDLOCK blk_cancel_graph_mark(BlockDriverState *bs);

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
        blk_cancel_graph_mark(child->bs);
    }
}

/*
 * blk_cancel_graph_switch_on:
 * @bs: the root node of a BlockBackend, or NULL if it has none
 *
 * That BlockBackend has switched cancelling on.
 *
 * Context: main loop, BQL held, no request of the BlockBackend in flight.
 */
void blk_cancel_graph_switch_on(BlockDriverState *bs);

/*
 * blk_cancel_graph_is_leaf:
 *
 * For whoever closes @bs: one without children needs no change of the graph,
 * whose lock waits for all requests, also for those that hang.
 *
 * Context: main loop, BQL held.
 */
bool blk_cancel_graph_is_leaf(BlockDriverState *bs);

/*
 * blk_cancel_graph_share:
 * @bs: what is exported, or NULL
 * @cancelling: the option of the export; without it nothing is done
 * @begin: whether the export comes or goes
 *
 * Nodes below an export with the option submit their requests as those below a
 * disk with cancelling on.  Its clients take nothing back.
 *
 * Context: main loop, BQL held.
 */
void blk_cancel_graph_share(BlockDriverState *bs, bool cancelling, bool begin);

/* A question to nodes, and who has not answered */
typedef struct BlkCancelAsk {
    int64_t since_ns;           /* of get_clock(); 0: do not ask anew */
    BlockDriverState *bs;       /* who has not for longest, or NULL */
    int64_t longest_ns;         /* for how long */
    int64_t shortest_ns;        /* and who has not for the shortest time */
} BlkCancelAsk;

/*
 * blk_cancel_ask:
 *
 * Ask @bs, and all that is below, something small, so that storage that hangs
 * while nobody uses it is found out; unless that was done after @ask->since_ns.
 * Threads do it, and nobody waits for them: the next call tells.  What cannot
 * be asked - all but host files, and those if the host allows no further thread
 * - counts as having answered.
 *
 * Context: BQL held.
 */
void blk_cancel_ask(BlockDriverState *bs, BlkCancelAsk *ask);

/*
 * blk_cancel_co_ask_file:
 *
 * A file is about to be opened with the BQL held: wait until it answers, for
 * @patience_ns at most.  If it has not, opening it fails at once.
 *
 * Context: a coroutine in the main loop.
 */
void coroutine_fn blk_cancel_co_ask_file(const char *filename,
                                         int64_t patience_ns);

#endif /* BLOCK_BLK_CANCEL_GRAPH_H */
