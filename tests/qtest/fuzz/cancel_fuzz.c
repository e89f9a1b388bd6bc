/*
 * What the fuzz targets of devices with cancel= stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The storage, and the machine.
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "block/blk-cancel_int.h"
#include "block/block_int.h"
#include "exec/address-spaces.h"
#include "hw/boards.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pcie.h"
#include "hw/sysbus.h"
#include "system/block-backend.h"
#include "system/runstate.h"
#include "cancel_fuzz.h"

#define MAX_PLANNED     64
#define MAX_HANG        (32 * KiB)  /* more could not be abandoned */
#define PATIENCE_NS     (20 * NANOSECONDS_PER_SECOND)
#define WINDOW          0xe0000000  /* of the first port */
#define WINDOW_SIZE     0x00200000
#define MEMORY          "16"        /* MiB */

/*
 * The storage
 */

typedef struct FuzzDiskOp {
    bool write;
    QEMUIOVector *qiov;         /* or NULL */
    int64_t bytes;
    Coroutine *co;
    uint8_t what;               /* what becomes of it */
    QTAILQ_ENTRY(FuzzDiskOp) next;
} FuzzDiskOp;

/* Under the lock, because there may be IOThreads */
static struct {
    QemuMutex lock;
    QTAILQ_HEAD(, FuzzDiskOp) hung;
    uint8_t planned[MAX_PLANNED];
    unsigned int num_planned;
    uint8_t what;               /* if nothing is planned */
    bool check;
} disk = { .hung = QTAILQ_HEAD_INITIALIZER(disk.hung) };

static int disk_error(uint8_t what)
{
    static const int error[] = { EIO, ENOSPC, ECANCELED, EAGAIN };

    return -error[what / FUZZ_DISK__MAX % ARRAY_SIZE(error)];
}

static uint8_t disk_next(void)
{
    uint8_t what = disk.what;

    if (disk.num_planned) {
        what = disk.planned[0];
        disk.num_planned--;
        memmove(disk.planned, disk.planned + 1, disk.num_planned);
    }
    return what;
}

/* Each sector of a write is as fuzz_disk_fill() has made it. */
static void disk_check_data(FuzzDiskOp *op)
{
    g_autofree uint8_t *buf = g_malloc(op->bytes);

    qemu_iovec_to_buf(op->qiov, 0, buf, op->bytes);
    for (int64_t i = 0; i < op->bytes; i += FUZZ_SECTOR) {
        FUZZ_CHECK(buf[i + 4] == FUZZ_DATA);
        FUZZ_CHECK(buf[i + FUZZ_SECTOR - 1] == FUZZ_DATA);
    }
}

static int disk_transfer(FuzzDiskOp *op)
{
    uint8_t how = op->what % FUZZ_DISK__MAX;

    if (op->write && op->qiov && op->bytes && qatomic_read(&disk.check)) {
        disk_check_data(op);
    }
    if (how == FUZZ_DISK_FAIL || how == FUZZ_DISK_FAIL_LATER) {
        return disk_error(op->what);
    }
    if (!op->write && op->qiov) {
        qemu_iovec_memset(op->qiov, 0, 0x22, op->bytes);
    }
    return 0;
}

static int coroutine_fn disk_co_do(FuzzDiskOp *op)
{
    WITH_QEMU_LOCK_GUARD(&disk.lock) {
        op->what = disk_next();
        if (op->what % FUZZ_DISK__MAX >= FUZZ_DISK_HANG) {
            if (op->bytes > MAX_HANG && op->qiov) {
                op->what = FUZZ_DISK_END_LATER;
            } else {
                op->co = qemu_coroutine_self();
                QTAILQ_INSERT_TAIL(&disk.hung, op, next);
            }
        }
    }

    if (op->co) {
        qemu_coroutine_yield();
    } else if (op->what % FUZZ_DISK__MAX != FUZZ_DISK_END &&
               op->what % FUZZ_DISK__MAX != FUZZ_DISK_FAIL) {
        aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
        qemu_coroutine_yield();
    }
    return disk_transfer(op);
}

static int coroutine_fn disk_co_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, QEMUIOVector *qiov,
                                       BdrvRequestFlags flags)
{
    return disk_co_do(&(FuzzDiskOp) { .qiov = qiov, .bytes = bytes });
}

static int coroutine_fn disk_co_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, QEMUIOVector *qiov,
                                        BdrvRequestFlags flags)
{
    return disk_co_do(&(FuzzDiskOp) { .write = true, .qiov = qiov,
                                      .bytes = bytes });
}

static int coroutine_fn disk_co_pwrite_zeroes(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              BdrvRequestFlags flags)
{
    return disk_co_do(&(FuzzDiskOp) { .write = true, .bytes = bytes });
}

static int coroutine_fn disk_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes)
{
    return disk_co_do(&(FuzzDiskOp) { .write = true, .bytes = bytes });
}

static int coroutine_fn disk_co_flush(BlockDriverState *bs)
{
    return disk_co_do(&(FuzzDiskOp) {});
}

static int64_t coroutine_fn disk_co_getlength(BlockDriverState *bs)
{
    return FUZZ_DISK_SIZE;
}

static int disk_open(BlockDriverState *bs, QDict *options, int flags,
                     Error **errp)
{
    bs->supported_write_flags = BDRV_REQ_FUA;
    bs->supported_zero_flags = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                               BDRV_REQ_NO_FALLBACK;
    return 0;
}

static int disk_reopen_prepare(BDRVReopenState *state,
                               BlockReopenQueue *queue, Error **errp)
{
    return 0;
}

static BlockDriver bdrv_fuzz_disk = {
    .format_name            = "fuzz-disk",
    .protocol_name          = "fuzz-disk",
    .bdrv_open              = disk_open,
    .bdrv_reopen_prepare    = disk_reopen_prepare,
    .bdrv_co_getlength      = disk_co_getlength,
    .bdrv_co_preadv         = disk_co_preadv,
    .bdrv_co_pwritev        = disk_co_pwritev,
    .bdrv_co_pwrite_zeroes  = disk_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = disk_co_pdiscard,
    .bdrv_co_flush_to_disk  = disk_co_flush,
};

static void disk_init(void)
{
    qemu_mutex_init(&disk.lock);
    bdrv_register(&bdrv_fuzz_disk);
}

block_init(disk_init);

void fuzz_disk_plan(uint8_t what)
{
    QEMU_LOCK_GUARD(&disk.lock);

    if (disk.num_planned < MAX_PLANNED) {
        disk.planned[disk.num_planned++] = what;
    }
}

void fuzz_disk_default(uint8_t what)
{
    QEMU_LOCK_GUARD(&disk.lock);

    disk.what = what;
}

/* Everything ends from now on, and what hangs as well. */
static void disk_calm(void)
{
    WITH_QEMU_LOCK_GUARD(&disk.lock) {
        disk.what = FUZZ_DISK_END;
        disk.num_planned = 0;
    }
    fuzz_disk_release_all();
}

/* Returns: the one that hangs, off its list; or NULL */
static FuzzDiskOp *disk_take(unsigned int index)
{
    FuzzDiskOp *op;

    QEMU_LOCK_GUARD(&disk.lock);

    QTAILQ_FOREACH(op, &disk.hung, next) {
        if (!index--) {
            QTAILQ_REMOVE(&disk.hung, op, next);
            return op;
        }
    }
    return NULL;
}

void fuzz_disk_release(unsigned int index, uint8_t what)
{
    FuzzDiskOp *op = disk_take(index);

    if (op) {
        op->what = what;
        aio_co_wake(op->co);
    }
}

void fuzz_disk_release_all(void)
{
    FuzzDiskOp *op;

    while ((op = disk_take(0))) {
        op->what = FUZZ_DISK_END;
        aio_co_wake(op->co);
    }
}

void fuzz_disk_reset(void)
{
    QEMU_LOCK_GUARD(&disk.lock);

    FUZZ_CHECK(QTAILQ_EMPTY(&disk.hung));
    disk.num_planned = 0;
    disk.what = FUZZ_DISK_END;
    disk.check = true;
}

/* Several that were merged are one write: look at all of its sectors. */
static bool disk_has_serial(FuzzDiskOp *op, uint32_t serial)
{
    for (int64_t i = 0; op->write && op->qiov && i < op->bytes;
         i += FUZZ_SECTOR) {
        uint32_t found;

        qemu_iovec_to_buf(op->qiov, i, &found, sizeof(found));
        if (found == serial) {
            return true;
        }
    }
    return false;
}

bool fuzz_disk_is_writing(uint32_t serial)
{
    FuzzDiskOp *op;

    QEMU_LOCK_GUARD(&disk.lock);

    QTAILQ_FOREACH(op, &disk.hung, next) {
        if (disk_has_serial(op, serial)) {
            return true;
        }
    }
    return false;
}

void fuzz_disk_fill(uint8_t *buf, size_t len, uint32_t serial)
{
    memset(buf, FUZZ_DATA, len);
    for (size_t i = 0; i + FUZZ_SECTOR <= len; i += FUZZ_SECTOR) {
        memcpy(buf + i, &serial, sizeof(serial));
    }
}

void fuzz_disk_check(bool on)
{
    qatomic_set(&disk.check, on);
}

/*
 * The machine
 */

GString *fuzz_machine(void)
{
    return g_string_new(TARGET_NAME " -machine q35,accel=qtest -display none"
                        " -nodefaults -m " MEMORY);
}

void fuzz_machine_port(GString *cmd, unsigned int index)
{
    g_string_append_printf(cmd, " -device pcie-root-port,id=p%u,chassis=%u",
                           index, index + 1);
}

void fuzz_machine_disk(GString *cmd, unsigned int index, const char *more)
{
    g_string_append_printf(cmd, " -drive if=none,id=d%u,driver=fuzz-disk,"
                           "discard=unmap%s", index, more);
}

const char *fuzz_cancel(const char *mode)
{
    return getenv("FUZZ_STOCK") ? "off" : mode;
}

static void config_write(PCIDevice *dev, uint32_t addr, uint32_t val, int len)
{
    dev->config_write(dev, addr, val, len);
}

static void configure_port(FuzzPCI *pci)
{
    PCIDevice *port = pci_bridge_get_device(pci_get_bus(pci->dev));
    unsigned int bus = pci->index + 1;
    uint16_t base = pci->bar >> 16, limit = base + (WINDOW_SIZE >> 17) - 1;

    config_write(port, PCI_SECONDARY_BUS, bus, 1);
    config_write(port, PCI_SUBORDINATE_BUS, bus, 1);
    config_write(port, PCI_MEMORY_BASE, base, 2);
    config_write(port, PCI_MEMORY_LIMIT, limit, 2);
    base += WINDOW_SIZE >> 17;
    limit += WINDOW_SIZE >> 17;
    config_write(port, PCI_PREF_MEMORY_BASE, base, 2);
    config_write(port, PCI_PREF_MEMORY_LIMIT, limit, 2);
    config_write(port, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

static void configure(FuzzPCI *pci)
{
    bool pref = pci->dev->io_regions[pci->bar_nr].type &
                PCI_BASE_ADDRESS_MEM_PREFETCH;
    unsigned int bar = PCI_BASE_ADDRESS_0 + 4 * pci->bar_nr;

    pci->bar = WINDOW + pci->index * WINDOW_SIZE;
    configure_port(pci);
    pci->bar += pref ? WINDOW_SIZE / 2 : 0;
    config_write(pci->dev, bar, pci->bar, 4);
    config_write(pci->dev, bar + 4, 0, 4);
    fuzz_pci_bus_master(pci, true);
}

void fuzz_pci_find(FuzzPCI *pci, const char *id, unsigned int index,
                   unsigned int bar_nr)
{
    pci->dev = PCI_DEVICE(qdev_find_recursive(sysbus_get_default(), id));
    pci->index = index;
    pci->bar_nr = bar_nr;
    configure(pci);
}

void fuzz_pci_bus_master(FuzzPCI *pci, bool on)
{
    config_write(pci->dev, PCI_COMMAND, PCI_COMMAND_MEMORY |
                 (on ? PCI_COMMAND_MASTER : 0), 2);
}

void fuzz_pci_flr(FuzzPCI *pci)
{
    config_write(pci->dev, pci->dev->exp.exp_cap + PCI_EXP_DEVCTL,
                 PCI_EXP_DEVCTL_BCR_FLR, 2);
    configure(pci);
}

uint8_t *fuzz_ram(uint64_t addr)
{
    return (uint8_t *)memory_region_get_ram_ptr(current_machine->ram) + addr;
}

bool fuzz_run(unsigned int num)
{
    while (num && aio_poll(qemu_get_aio_context(), false)) {
        num--;
    }
    return num;
}

void fuzz_stop_cont(void)
{
    disk_calm();
    vm_stop(RUN_STATE_PAUSED);
    fuzz_run(4);
    vm_start();
}

static bool drained;

void fuzz_drain(bool begin)
{
    if (begin == drained) {
        return;
    }
    drained = begin;
    if (begin) {
        disk_calm();
        bdrv_drain_all_begin();
    } else {
        bdrv_drain_all_end();
    }
}

static bool disks_idle(void)
{
    BlockBackend *blk = NULL;

    while ((blk = blk_all_next(blk))) {
        if (blk_cancel_in_flight(blk)) {
            return false;
        }
    }
    return true;
}

void fuzz_settle(QTestState *s, bool (*idle)(void))
{
    int64_t end = get_clock() + PATIENCE_NS;

    fuzz_drain(false);
    vm_start();
    do {
        disk_calm();
        if (fuzz_run(UINT_MAX) && !(disks_idle() && idle())) {
            /* What is parked, and throttled; a thread may be on its way, too */
            fuzz_stop_cont();
            qtest_clock_step(s, NANOSECONDS_PER_SECOND);
        }
        FUZZ_CHECK(get_clock() < end);
    } while (!(disks_idle() && idle()));

    /* What waits for RCU, and for the big lock */
    main_loop_wait(true);
    fuzz_disk_reset();
}

/*
 * Operations that are the same for all devices
 */

void fuzz_op_run(FuzzInput *in)
{
    fuzz_run(1 + fuzz_byte(in) % 64);
}

void fuzz_op_plan(FuzzInput *in)
{
    fuzz_disk_plan(fuzz_byte(in));
}

void fuzz_op_default(FuzzInput *in)
{
    fuzz_disk_default(fuzz_byte(in));
}

void fuzz_op_release(FuzzInput *in)
{
    uint8_t index = fuzz_byte(in);

    fuzz_disk_release(index, fuzz_byte(in));
}

void fuzz_op_release_all(FuzzInput *in)
{
    fuzz_disk_release_all();
}

void fuzz_op_stop_cont(FuzzInput *in)
{
    fuzz_stop_cont();
}

void fuzz_op_drain(FuzzInput *in)
{
    fuzz_drain(fuzz_byte(in) & 1);
}
