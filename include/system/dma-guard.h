/*
 * A device does not reach its own registers by DMA
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest may have a request's buffers lie in the registers of the device that
 * executes it.  To complete the request is then to reset the device, say, in
 * the middle of that, and in the thread of an IOThread if it runs there: the
 * reset would wait for the request that is just completing.
 *
 * MemReentrancyGuard forbids that to a device that is in its own MMIO handlers
 * and bottom halves.  This does so for what runs in callbacks of the block
 * layer, in any thread: no other device, and no vCPU, is kept from anything
 * meanwhile.  What is refused reads as 0 and has no effect.
 *
 * The configuration space of PCI in memory is out of reach as well: it resets
 * devices too, and root complexes have no path for a device to get there.
 *
 * Hooks: memory.c and physmem.c (who refuses, without waiting for the BQL);
 * dma-helpers.c, virtio-blk.c and virtio-scsi.c (what is guarded).
 */

#ifndef SYSTEM_DMA_GUARD_H
#define SYSTEM_DMA_GUARD_H

#include "qemu/queue.h"

typedef struct DeviceState DeviceState;
typedef struct MemoryRegion MemoryRegion;

/* Owned by the thread that is between begin and end. */
typedef struct DMAGuard {
    DeviceState *dev;
    QLIST_ENTRY(DMAGuard) next;
} DMAGuard;

/* Returns: @guard, for dma_guard_end(); see DMA_GUARD() */
DMAGuard *dma_guard_begin(DMAGuard *guard, DeviceState *dev);
void dma_guard_end(DMAGuard *guard);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DMAGuard, dma_guard_end)

/* For DMA_GUARD(), with a DMAGuard * or NULL. */
#define DMA_GUARD_UNTIL_END(begun)                                      \
    g_autoptr(DMAGuard) glue(dma_guard_, __COUNTER__) G_GNUC_UNUSED = (begun)

/*
 * DMA_GUARD:
 * @dev: whose DMA this thread does from here to the end of the scope; for a
 *       virtio device its proxy counts as well
 *
 * Context: any thread; may be nested, must not yield.
 */
#define DMA_GUARD(dev)                                                  \
    DMA_GUARD_UNTIL_END(dma_guard_begin(&(DMAGuard) {}, (dev)))

/*
 * dma_guard_refuses:
 *
 * Context: any thread.
 * Returns: whether this thread must not access @mr now.
 */
bool dma_guard_refuses(MemoryRegion *mr);

#endif
