/*
 * Fuzz target: virtio-blk with cancel=on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first byte of an input chooses one of several devices, the second the
 * features that the driver accepts; the rest are operations, see ops[].
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_pci.h"
#include "standard-headers/linux/virtio_ring.h"
#include "cancel_fuzz_virtio.h"

/* The wire once more, in numbers, as in virtio-blk-cancel-lib.h */
#define F_CANCEL        50
#define T_CANCEL        28
#define S_CANCELED      7
#define S_NOT_CANCELED  8

#define F(bit)          (1ull << (bit))
#define MAX_OPS         200

static const struct {
    const char *device;
    const char *cancel;
    const char *drive;
} configs[] = {
    { "ioeventfd=off", "on", "" },
    { "ioeventfd=on", "on", "" },
    { "ioeventfd=off,rerror=stop,werror=stop", "on", "" },
    { "ioeventfd=off,cancel-budget=64K", "on", ",throttling.iops-total=100" },
    { "ioeventfd=on", "reset", "" },
};

static Fv devices[ARRAY_SIZE(configs)];
static Fv *v;
static uint32_t last_serial;

static GString *blk_cmdline(FuzzTarget *t)
{
    GString *cmd = fuzz_machine();

    for (unsigned int i = 0; i < ARRAY_SIZE(configs); i++) {
        fuzz_machine_port(cmd, i);
        fuzz_machine_disk(cmd, i, configs[i].drive);
        g_string_append_printf(cmd, " -device virtio-blk-pci,id=v%u,bus=p%u,"
                               "drive=d%u,packed=on,in_order=on,"
                               "num-queues=2,vectors=0,"
                               "queue-size=%u,%s,cancel=%s", i, i, i,
                               FV_QUEUE_SIZE, configs[i].device,
                               fuzz_cancel(configs[i].cancel));
    }
    return cmd;
}

/* What the device has answered */

static bool is_data(FvSlot *s)
{
    switch (s->kind) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return true;
    default:
        return false;
    }
}

static void check_cancel(FvSlot *s, uint8_t status)
{
    FvSlot *target = s->target >= 0 ? &v->slot[s->target] : NULL;
    bool held = target && target->busy && target->order == s->target_order;

    if (!fv_has(v, F_CANCEL)) {
        FUZZ_CHECK(status == VIRTIO_BLK_S_UNSUPP);
        return;
    }
    switch (status) {
    case VIRTIO_BLK_S_OK:
        FUZZ_CHECK(!held);
        break;
    case S_NOT_CANCELED:
        /* If it is over now, it was used after the CANCEL */
        FUZZ_CHECK(s->target < 0 || held || target->order != s->target_order ||
                   target->used_order > s->used_order);
        break;
    default:
        FUZZ_CHECK(status == VIRTIO_BLK_S_IOERR && s->len);
    }
}

static void blk_used(Fv *dev, FvSlot *s)
{
    uint8_t status = *fuzz_ram(fv_response(v, s));

    FUZZ_CHECK(status != FV_NO_STATUS);
    if (s->kind == T_CANCEL) {
        check_cancel(s, status);
    } else if (status == S_CANCELED) {
        FUZZ_CHECK(s->asked);
        FUZZ_CHECK(s->used_len <= 1);
        s->given_up = true;
    } else if (status == VIRTIO_BLK_S_OK && is_data(s)) {
        fv_check_settled(v, s);
    }
}

/* Requests */

static bool is_any(FvSlot *s)
{
    return true;
}

static bool is_target(FvSlot *s)
{
    return s->kind != T_CANCEL;
}

static void write_header(FvSlot *s, uint32_t type)
{
    uint8_t *header = fuzz_ram(fv_header(v, s));

    stl_le_p(header, type);
    stq_le_p(header + 8, s->kind == VIRTIO_BLK_T_IN ||
                         s->kind == VIRTIO_BLK_T_OUT ? s->sector : 0);
    stq_le_p(header + 16, s->tag);
    *fuzz_ram(fv_response(v, s)) = FV_NO_STATUS;
}

static void write_data(FvSlot *s)
{
    uint8_t *data = fuzz_ram(fv_data(v, s));

    if (s->kind == VIRTIO_BLK_T_OUT) {
        s->serial = ++last_serial;
        fuzz_disk_fill(data, s->len, s->serial);
    } else if (s->kind == VIRTIO_BLK_T_DISCARD ||
               s->kind == VIRTIO_BLK_T_WRITE_ZEROES) {
        stq_le_p(data, s->sector);
        stl_le_p(data + 8, s->len / FUZZ_SECTOR);
        stl_le_p(data + 12, 0);
    }
}

/* @how: bit 0: indirect, bit 1: the header in pieces, bit 2: data as well */
static void add_request(FvSlot *s, uint32_t type, FvSeg data, uint8_t how)
{
    uint32_t header = fv_has(v, F_CANCEL) ? 24 : 16;
    uint64_t addr = fv_header(v, s);
    uint32_t half = how & 4 && !(data.len & 1023) ? data.len / 2 : 0;
    FvSeg segs[FV_MAX_SEGS];
    unsigned int num = 0;

    write_header(s, type);
    write_data(s);
    if (how & 2) {
        segs[num++] = (FvSeg) { .addr = addr, .len = 9 };
        segs[num++] = (FvSeg) { .addr = addr + 9, .len = header - 9 };
    } else {
        segs[num++] = (FvSeg) { .addr = addr, .len = header };
    }
    if (half) {
        segs[num++] = (FvSeg) { data.addr, half, data.write };
        data.addr += half;
        data.len -= half;
    }
    if (data.len) {
        segs[num++] = data;
    }
    segs[num++] = (FvSeg) { .addr = fv_response(v, s), .len = 1,
                            .write = true };
    fv_add(v, s, segs, num, how & 1);
}

static uint32_t data_len(FvSlot *s)
{
    switch (s->kind) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        return s->len;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return 16;
    case VIRTIO_BLK_T_GET_ID:
        return VIRTIO_BLK_ID_BYTES;
    default:
        return 0;
    }
}

static void op_request(FuzzInput *in)
{
    static const uint32_t kinds[] = {
        VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH,
        VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_GET_ID,
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_ZONE_APPEND,
    };
    static const unsigned int sectors[] = { 1, 2, 8, 16 };
    uint8_t what = fuzz_byte(in), where = fuzz_byte(in);
    FvSlot *s = fv_new(v);
    FvSlot *other;
    FvSeg data;

    if (!s) {
        return;
    }
    s->kind = kinds[what % ARRAY_SIZE(kinds)];
    s->queue = what >> 3 & 1;
    s->tag = ++last_serial;
    s->sector = where & 63;
    s->len = is_data(s) ? sectors[where >> 6] * FUZZ_SECTOR : 0;
    data = (FvSeg) { fv_data(v, s), data_len(s),
                     s->kind == VIRTIO_BLK_T_IN ||
                     s->kind == VIRTIO_BLK_T_GET_ID };
    if (what >> 7) {
        /* A duplicate: any of them may be cancelled */
        other = fv_pick(v, where, is_target);
        if (other && other->queue == s->queue) {
            s->tag = other->tag;
        }
    }
    add_request(s, s->kind, data, what >> 4);
}

/* Which of several with the same tag is taken back is the device's choice. */
static void ask(FvSlot *cancel)
{
    unsigned int num = 0;

    for (unsigned int i = 0; i < FV_SLOTS; i++) {
        FvSlot *s = &v->slot[i];

        if (s->busy && is_target(s) && s->queue == cancel->queue &&
            s->tag == cancel->tag && s->order < cancel->order) {
            s->asked = true;
            cancel->target = num++ ? -1 : i;
            cancel->target_order = s->order;
        }
    }
}

static void op_cancel(FuzzInput *in)
{
    uint8_t which = fuzz_byte(in), how = fuzz_byte(in);
    FvSlot *s = fv_new(v), *target = fv_pick(v, which, is_target);
    FvSeg data = {};

    if (!s) {
        return;
    }
    s->kind = T_CANCEL;
    s->queue = target ? target->queue : how >> 5 & 1;
    s->tag = target ? target->tag : which;
    if (how & 8) {
        s->queue ^= 1;
    }
    if (how & 16) {
        s->tag += which;
    }
    if ((how & 0xc0) == 0xc0) {
        s->len = FUZZ_SECTOR;
        data = (FvSeg) { fv_data(v, s), s->len, how & 32 };
    }
    add_request(s, T_CANCEL, data, how);
    if (s->busy && !s->len) {
        ask(s);
    }
}

/* A request that breaks the rules */
static void op_evil_request(FuzzInput *in)
{
    uint8_t what = fuzz_byte(in), how = fuzz_byte(in);
    uint32_t len = fuzz_bytes(in, 2) << (how & 3);
    uint64_t addrs[] = {
        v->pci.bar + fuzz_bytes(in, 2) % 0x4000,    /* its own registers */
        fv_ring(how >> 5 & 1), 0xfee00000, 0xa0000, 0x00fffff0, 1ull << 63,
        fuzz_bytes(in, 2), 0x200000,
    };
    FvSlot *s;

    fv_set_hostile(v);
    s = fv_new(v);
    if (!s) {
        return;
    }
    s->kind = what & 31;
    s->queue = what >> 5 & 1;
    s->tag = fuzz_byte(in);
    s->sector = fuzz_byte(in);
    add_request(s, s->kind | (uint32_t)fuzz_byte(in) << 24,
                (FvSeg) { addrs[how >> 2 & 7], len, what >> 6 & 1 }, how >> 5);
}

static void op_kick(FuzzInput *in)
{
    fv_kick(v, fuzz_byte(in) & 1);
}

static void op_send_all(FuzzInput *in)
{
    fv_kick(v, 0);
    fv_kick(v, 1);
    fuzz_run(fuzz_byte(in));
}

static void op_reap(FuzzInput *in)
{
    fv_reap(v);
}

/* Resets, and what the host does */

static uint64_t features_of(uint8_t byte)
{
    uint64_t features = F(VIRTIO_F_VERSION_1) | F(F_CANCEL) |
                        F(VIRTIO_F_RING_RESET) | F(VIRTIO_BLK_F_FLUSH) |
                        F(VIRTIO_BLK_F_DISCARD) | F(VIRTIO_BLK_F_WRITE_ZEROES) |
                        F(VIRTIO_BLK_F_CONFIG_WCE);

    features |= byte & 1 ? F(VIRTIO_F_RING_PACKED) : 0;
    features |= byte & 2 ? F(VIRTIO_RING_F_INDIRECT_DESC) : 0;
    features |= byte & 4 ? F(VIRTIO_RING_F_EVENT_IDX) : 0;
    if ((byte & 0x18) == 0x18) {
        features &= ~F(F_CANCEL);
    }
    if ((byte & 0xe0) == 0xe0 && features & F(F_CANCEL)) {
        features |= F(VIRTIO_F_IN_ORDER);       /* which excludes it */
    }
    return features;
}

static void op_reset(FuzzInput *in)
{
    fv_reset(v);
    fv_start(v, features_of(fuzz_byte(in)));
}

static void op_flr(FuzzInput *in)
{
    fuzz_pci_flr(&v->pci);
    fv_reap(v);
    fv_forget(v);
    fv_start(v, features_of(fuzz_byte(in)));
}

static void op_queue_reset(FuzzInput *in)
{
    fv_reset_queue(v, fuzz_byte(in) & 1);
}

static void op_bus_master(FuzzInput *in)
{
    /* What ends meanwhile is lost */
    fv_set_hostile(v);
    fuzz_pci_bus_master(&v->pci, false);
    fuzz_run(fuzz_byte(in));
    fuzz_pci_bus_master(&v->pci, true);
    /* It needs DRIVER_OK again, and goes on where it was */
    fv_write(v, VIRTIO_PCI_COMMON_STATUS, 0xf, 1);
}

static void op_clock(FuzzInput *in)
{
    qtest_clock_step(v->qts, (1 + fuzz_byte(in)) * SCALE_MS);
}

/* Anything */

static void op_write_register(FuzzInput *in)
{
    uint16_t offset = fuzz_bytes(in, 2) % 0x4000;
    unsigned int len = 1 << (fuzz_byte(in) & 3);

    fv_set_hostile(v);
    fv_write(v, offset & -len, fuzz_bytes(in, len), len);
}

static void op_write_ring(FuzzInput *in)
{
    uint8_t where = fuzz_byte(in);
    uint64_t addr = fv_ring(where & 1) + (where >> 1 & 3) * 0x1000 +
                    fuzz_byte(in);

    fv_set_hostile(v);
    stl_le_p(fuzz_ram(addr), fuzz_bytes(in, 4));
}

static void op_write_slot(FuzzInput *in)
{
    FvSlot *s = fv_pick(v, fuzz_byte(in), is_any);
    uint8_t offset = fuzz_byte(in);
    uint32_t value = fuzz_bytes(in, 4);

    if (s) {
        fv_set_hostile(v);
        stl_le_p(fuzz_ram(fv_header(v, s) + offset * 4), value);
    }
}

static void (*const ops[])(FuzzInput *in) = {
    op_request, op_request, op_request, op_cancel, op_cancel, op_send_all,
    op_kick, fuzz_op_run, fuzz_op_plan, fuzz_op_default, fuzz_op_release,
    fuzz_op_release_all, op_reap, op_reset, op_queue_reset, op_flr,
    op_bus_master, fuzz_op_stop_cont, fuzz_op_drain, op_clock, op_evil_request,
    op_write_register, op_write_ring, op_write_slot,
};

static bool blk_idle(void)
{
    return fv_idle(v);
}

static void blk_fuzz(QTestState *s, const unsigned char *data, size_t size)
{
    FuzzInput in = { .data = data, .size = size };

    v = &devices[fuzz_byte(&in) % ARRAY_SIZE(devices)];
    v->hostile = false;
    last_serial = 0;
    fv_start(v, features_of(fuzz_byte(&in)));
    for (unsigned int i = 0; in.size && i < MAX_OPS; i++) {
        ops[fuzz_byte(&in) % ARRAY_SIZE(ops)](&in);
    }

    for (unsigned int i = 0; i < v->num_queues; i++) {
        fv_kick(v, i);
    }
    fuzz_settle(s, blk_idle);
    if (v->hostile) {
        fuzz_pci_flr(&v->pci);
        fv_forget(v);
    } else {
        fv_reset(v);
    }
    fuzz_settle(s, blk_idle);
    fv_check(v);
}

static void blk_pre_fuzz(QTestState *s)
{
    for (unsigned int i = 0; i < ARRAY_SIZE(devices); i++) {
        g_autofree char *id = g_strdup_printf("v%u", i);

        devices[i].qts = s;
        devices[i].num_queues = 2;
        devices[i].used = blk_used;
        fuzz_pci_find(&devices[i].pci, id, i, 4);
    }
    fuzz_disk_reset();
}

static void register_targets(void)
{
    fuzz_add_target(&(FuzzTarget) {
        .name = "virtio-blk-cancel-fuzz",
        .description = "virtio-blk: CANCEL and resets while storage hangs",
        .get_init_cmdline = blk_cmdline,
        .pre_fuzz = blk_pre_fuzz,
        .fuzz = blk_fuzz,
    });
}

fuzz_target_init(register_targets);
