/*
 * The guest's memory, whose pages may be swapped under a request
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_RAM_SWAP_H
#define SYSTEM_RAM_SWAP_H

#include "block/blk-cancel.h"

/*
 * ram_swap_get:
 * @path: as for page_swap_init()
 *
 * For a disk that lends the guest's memory to the storage.  From now on, and
 * until ram_swap_put(), whoever has that memory pinned is refused.
 *
 * Context: BQL held.
 * Returns: what the engine is to know, or NULL with @errp set if pages cannot
 * be swapped here, or if somebody has the memory already.
 */
const BlkCancelSwap *ram_swap_get(const char *path, Error **errp);
void ram_swap_put(void);

#endif /* SYSTEM_RAM_SWAP_H */
