/*
 * SCSI disks whose commands can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With cancel=on a SCSI disk's BlockBackend gives requests back at once when
 * they are cancelled (see block/blk-cancel.h), so that task management and
 * resets do not wait for the storage.
 *
 * Hooks: scsi-bus.c (cancel, purge), scsi-disk.c (properties, results),
 * virtio-scsi.c (task management) and virtio-scsi-dataplane.c (stop).
 */

#ifndef HW_SCSI_SCSI_CANCEL_H
#define HW_SCSI_SCSI_CANCEL_H

#include "qemu/units.h"
#include "block/blk-cancel.h"
#include "block/blk-orphan.h"
#include "hw/block/cancel-stats.h"
#include "hw/scsi/scsi.h"
#include "system/dma-guard.h"

struct VirtIOSCSI;

/*
 * scsi_cancel_realize:
 *
 * Switch cancelling on if the device's properties say so.
 *
 * Context: main loop, BQL held.
 * Returns: true, or false with @errp set.
 */
bool scsi_cancel_realize(SCSIDevice *s, Error **errp);

/*
 * @s leaves its BlockBackend, after its commands have been taken back.
 * Context: as above.
 */
void scsi_cancel_unrealize(SCSIDevice *s);

/*
 * scsi_cancel_command:
 *
 * @req is being cancelled asynchronously.
 *
 * Context: the AioContext of @req.
 * Returns: whether it stays in the list of the device's requests until it has
 * ended, which is at once unless its I/O cannot be abandoned.
 */
bool scsi_cancel_command(SCSIRequest *req);

/*
 * scsi_cancel_abort:
 * @notifier: told when @req has ended
 *
 * Cancel @req for a task management function, and count that.
 *
 * Context: the AioContext of @req.
 */
void scsi_cancel_abort(SCSIRequest *req, Notifier *notifier);

/*
 * scsi_cancel_refuses:
 *
 * Count it, and return true, if a task management function must leave @req
 * alone because of cancel-after.
 *
 * Context: the AioContext of @req.
 */
bool scsi_cancel_refuses(SCSIRequest *req);

/*
 * scsi_cancel_abort_missed:
 *
 * Count a task management function of @s that has not found its command.
 *
 * Context: any thread.
 */
void scsi_cancel_abort_missed(SCSIDevice *s);

/*
 * scsi_cancel_settle:
 * @done: the result that has just come ends the command, with success
 *
 * To be called before anybody looks at @req->io_canceled.  A command that has
 * done what it was asked to do says so, also if a cancel came just then.
 *
 * Context: the AioContext of @req, in the callback of its I/O.
 */
void scsi_cancel_settle(SCSIRequest *req, bool done);

/*
 * scsi_was_canceled:
 * @ret: what the callback of @req's I/O has got
 *
 * Whether @ret is no result, but tells that the I/O was taken back.
 *
 * Context: as above.
 */
bool scsi_was_canceled(SCSIRequest *req, int ret);

/* Account for the I/O of a cancelled command.  Context: as above. */
void scsi_cancel_account(SCSIRequest *req, int ret);

/*
 * scsi_cancel_purge:
 *
 * Cancel all requests of @s.  On return nothing of theirs touches the guest's
 * memory any more.  Does not wait for the storage, except for requests that
 * cannot be abandoned.
 *
 * Context: main loop, BQL held; other event loops may run requests of @s.
 * Returns: false if nothing was done, because cancelling is off.
 */
bool scsi_cancel_purge(SCSIDevice *s);

/*
 * scsi_cancel_stop:
 *
 * The HBA of @bus, whose queues are not served any more, is to be reset: end
 * what its devices have in flight.  Those without cancelling are drained.
 *
 * Context: main loop, BQL held.
 * Returns: false if nothing was done, because no disk of the VM has
 * cancelling on.
 */
bool scsi_cancel_stop(SCSIBus *bus);

/*
 * virtio_scsi_cancel_stop:
 *
 * The same for @s, if it is not the VM that stops.
 */
bool virtio_scsi_cancel_stop(struct VirtIOSCSI *s);

/*
 * scsi_cancel_late:
 *
 * The HBA of @bus is being reset: cancel what has come since its devices were.
 * Of a PCI function or a machine, they are reset before the HBA is, and not
 * once more with it; in between its queues are looked at for the last time.
 *
 * Context: main loop, BQL held.
 */
void scsi_cancel_late(SCSIBus *bus);

#endif /* HW_SCSI_SCSI_CANCEL_H */
