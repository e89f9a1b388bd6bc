/*
 * SCSI disks whose commands can be taken back while the storage hangs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With detach=on a SCSI disk's BlockBackend gives requests back at once when
 * they are cancelled (see block/blk-detach.h), so that task management and
 * resets do not wait for the storage.
 *
 * Hooks: scsi-bus.c (cancel, purge), scsi-disk.c (properties, results),
 * virtio-scsi.c (task management) and virtio-scsi-dataplane.c (stop).
 */

#ifndef HW_SCSI_SCSI_DETACH_H
#define HW_SCSI_SCSI_DETACH_H

#include "qemu/units.h"
#include "block/blk-detach.h"
#include "hw/block/detach-stats.h"
#include "hw/scsi/scsi.h"

struct VirtIOSCSI;

/*
 * scsi_detach_realize:
 *
 * Switch detaching on if the device's properties say so.
 *
 * Context: main loop, BQL held.
 * Returns: true, or false with @errp set.
 */
bool scsi_detach_realize(SCSIDevice *s, Error **errp);

/*
 * @s leaves its BlockBackend, after its commands have been taken back.
 * Context: as above.
 */
void scsi_detach_unrealize(SCSIDevice *s);

/*
 * scsi_detach_cancel:
 *
 * @req is being cancelled asynchronously.
 *
 * Context: the AioContext of @req.
 * Returns: whether it stays in the list of the device's requests until it has
 * ended, which is at once unless its I/O cannot be detached.
 */
bool scsi_detach_cancel(SCSIRequest *req);

/*
 * scsi_detach_abort:
 * @notifier: told when @req has ended
 *
 * Cancel @req for a task management function, and count that.
 *
 * Context: the AioContext of @req.
 */
void scsi_detach_abort(SCSIRequest *req, Notifier *notifier);

/*
 * scsi_detach_abort_missed:
 *
 * Count a task management function of @s that has not found its command.
 *
 * Context: any thread.
 */
void scsi_detach_abort_missed(SCSIDevice *s);

/*
 * scsi_detach_settle:
 * @done: the result that has just come ends the command, with success
 *
 * To be called before anybody looks at @req->io_canceled.  A command that has
 * done what it was asked to do says so, also if a cancel came just then.
 *
 * Context: the AioContext of @req, in the callback of its I/O.
 */
void scsi_detach_settle(SCSIRequest *req, bool done);

/*
 * scsi_detach_was_canceled:
 * @ret: what the callback of @req's I/O has got
 *
 * Whether @ret is no result, but tells that the I/O was taken back.
 *
 * Context: as above.
 */
bool scsi_detach_was_canceled(SCSIRequest *req, int ret);

/* Account for the I/O of a cancelled command.  Context: as above. */
void scsi_detach_account(SCSIRequest *req, int ret);

/*
 * scsi_detach_purge:
 *
 * Cancel all requests of @s.  On return nothing of theirs touches the guest's
 * memory any more.  Does not wait for the storage, except for requests that
 * cannot be detached.
 *
 * Context: main loop, BQL held; other event loops may run requests of @s.
 * Returns: false if nothing was done, because detaching is off.
 */
bool scsi_detach_purge(SCSIDevice *s);

/*
 * scsi_detach_stop:
 *
 * The HBA of @bus, whose queues are not served any more, is to be reset: end
 * what its devices have in flight.  Those without detaching are drained.
 *
 * Context: main loop, BQL held.
 * Returns: false if nothing was done, because detaching is off for all disks of
 * the VM.
 */
bool scsi_detach_stop(SCSIBus *bus);

/*
 * virtio_scsi_detach_stop:
 *
 * The same for @s, if it is not the VM that stops.
 */
bool virtio_scsi_detach_stop(struct VirtIOSCSI *s);

#endif /* HW_SCSI_SCSI_DETACH_H */
