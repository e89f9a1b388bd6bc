/*
 * BlockBackends that outlive their device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A disk is unplugged when the guest says so, in a vCPU thread, and no command
 * that could be refused is near.  To give up its BlockBackend is to drain it
 * and to change the block graph, and both wait for storage that hangs.  So the
 * device goes at once, and the BlockBackend stays behind as an orphan: with its
 * root node, whose permissions keep others off the image; with the IOThreads
 * that its abandoned requests run in; and with its engine.  It goes when the
 * nothing is under way any more (blk-hold.h).
 *
 * Hooks: block-backend.c (the device leaves; naming), block/qapi.c (listing),
 * virtio-scsi.c (an HBA whose disk has left), iothread.c (which there are).
 */

#ifndef BLOCK_BLK_ORPHAN_H
#define BLOCK_BLK_ORPHAN_H

#include "qom/object.h"
#include "system/block-backend-common.h"

/* BQL; NULL in BlockBackend unless its device has left, or is about to */
typedef struct BlkOrphan BlkOrphan;

/* Where @blk keeps it */
BlkOrphan **blk_orphan_slot(BlockBackend *blk);

/*
 * blk_orphan_begin:
 *
 * For a device model that is being unrealized, and has taken back all requests
 * of @blk.
 *
 * Context: BQL held.
 * Returns: true if requests are in flight, here or elsewhere, that draining
 * would wait for: the device model must leave @blk as it is.  false if it may
 * tidy up; cancelling is switched off then.
 */
bool blk_orphan_begin(BlockBackend *blk);

/* Whether blk_orphan_begin() has returned true for @blk.  BQL held. */
bool blk_orphan_begun(BlockBackend *blk);

/*
 * blk_orphan_adopt:
 *
 * The device model leaves @blk now.  Either @blk becomes an orphan, whose
 * permissions must stay what they are, and is referenced and let go later; or
 * there is nothing to wait for, and cancelling is switched off.
 *
 * Context: BQL held.
 */
void blk_orphan_adopt(BlockBackend *blk);

/*
 * blk_orphan_reap:
 *
 * Let all orphans go.
 *
 * Context: main loop, outside coroutines and nested event loops, between
 * beginning and ending to hold disks.
 */
void blk_orphan_reap(void);

/* Whether blk_orphan_reap() has something to do.  BQL held. */
bool blk_orphan_any(void);

/*
 * blk_orphan_id:
 *
 * Context: BQL held.
 * Returns: a name for @blk by the device that it had, or NULL if it is no
 * orphan.  Unlike a QOM path it names no object; no two orphans share it.
 */
const char *blk_orphan_id(BlockBackend *blk);

/* An IOThread comes into being, and is about to end.  BQL held. */
void blk_orphan_iothread_begins(Object *iothread);
void blk_orphan_iothread_ends(Object *iothread);

#endif /* BLOCK_BLK_ORPHAN_H */
