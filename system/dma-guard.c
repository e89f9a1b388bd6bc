/*
 * A device does not reach its own registers by DMA
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/coroutine-tls.h"
#include "qemu/error-report.h"
#include "system/dma.h"
#include "hw/pci/pcie_host.h"
#include "hw/qdev-core.h"
#include "system/dma-guard.h"

typedef QLIST_HEAD(, DMAGuard) DMAGuardList;

/* This thread's; innermost first */
QEMU_DEFINE_STATIC_CO_TLS(DMAGuardList, guards)

DMAGuard *dma_guard_begin(DMAGuard *guard, DeviceState *dev)
{
    guard->dev = dev;
    QLIST_INSERT_HEAD(get_ptr_guards(), guard, next);
    return guard;
}

void dma_guard_end(DMAGuard *guard)
{
    QLIST_REMOVE(guard, next);
}

static bool is_own(const DeviceState *dev, const DeviceState *owner)
{
    return owner == dev ||
           (dev->parent_bus && dev->parent_bus->parent == owner);
}

bool dma_guard_refuses(MemoryRegion *mr)
{
    DMAGuardList *guards = get_ptr_guards();
    DMAGuard *guard;

    if (likely(QLIST_EMPTY(guards)) || !mr->dev ||
        mr->disable_reentrancy_guard) {
        return false;
    }
    if (object_dynamic_cast(OBJECT(mr->dev), TYPE_PCIE_HOST_BRIDGE)) {
        warn_report_once("A device was kept from reaching PCI configuration "
                         "space by DMA");
        return true;
    }
    QLIST_FOREACH(guard, guards, next) {
        if (is_own(guard->dev, mr->dev)) {
            warn_report_once("A device was kept from reaching its own "
                             "registers by DMA: %s", memory_region_name(mr));
            return true;
        }
    }
    return false;
}
