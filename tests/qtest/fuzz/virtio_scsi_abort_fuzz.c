/*
 * Fuzz target: SCSI disks with cancel=on behind virtio-scsi
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first byte of an input chooses the HBA, the second the features that the
 * driver accepts; the rest are operations, see ops[].
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ring.h"
#include "standard-headers/linux/virtio_scsi.h"
#include "scsi/constants.h"
#include "cancel_fuzz_virtio.h"

#define LUNS            2
#define TARGET          1
#define CONTROL         0       /* virtqueues */
#define FIRST           2
#define CMD_HEADER      51      /* with a CDB of 32 bytes */
#define CMD_CDB         19
#define CMD_RESPONSE    108     /* with 96 bytes of sense */
#define TMF_HEADER      24
#define KIND_TMF        0x100   /* else the opcode */
#define MAX_OPS         200

#define F(bit)          (1ull << (bit))

static const struct {
    const char *hba;
    const char *disk;
} configs[] = {
    { "ioeventfd=off", "" },
    { "ioeventfd=on", ",rerror=stop,werror=stop" },
};

static Fv devices[ARRAY_SIZE(configs)];
static Fv *v;
static uint32_t last_serial;

static GString *scsi_cmdline(FuzzTarget *t)
{
    GString *cmd = fuzz_machine();

    for (unsigned int i = 0; i < ARRAY_SIZE(configs); i++) {
        fuzz_machine_port(cmd, i);
        g_string_append_printf(cmd, " -device virtio-scsi-pci,id=s%u,bus=p%u,"
                               "packed=on,num_queues=2,vectors=0,"
                               "virtqueue_size=%u,%s", i, i, FV_QUEUE_SIZE,
                               configs[i].hba);
        for (unsigned int lun = 0; lun < LUNS; lun++) {
            unsigned int disk = i * LUNS + lun;

            fuzz_machine_disk(cmd, disk, "");
            g_string_append_printf(cmd, " -device scsi-hd,bus=s%u.0,scsi-id=%u,"
                                   "lun=%u,drive=d%u,cancel=%s%s", i, TARGET,
                                   lun, disk, fuzz_cancel("on"),
                                   configs[i].disk);
        }
    }
    return cmd;
}

static void scsi_used(Fv *dev, FvSlot *s)
{
    const uint8_t *response = fuzz_ram(fv_response(v, s));

    if (s->kind == KIND_TMF) {
        FUZZ_CHECK(response[0] != FV_NO_STATUS);
        return;
    }
    FUZZ_CHECK(response[11] != FV_NO_STATUS);
    if (response[11] == VIRTIO_SCSI_S_OK) {
        if (response[10] == GOOD && s->len) {
            fv_check_settled(v, s);
        }
    } else {
        s->given_up = true;
    }
}

static bool is_command(FvSlot *s)
{
    return s->kind != KIND_TMF;
}

static bool is_any(FvSlot *s)
{
    return true;
}

static void put_lun(uint8_t *buf, unsigned int lun)
{
    buf[0] = 1;
    buf[1] = TARGET;
    buf[2] = 0x40;
    buf[3] = lun;
}

/* Add a command; its CDB, and data, are in place. */
static void add_command(FvSlot *s, FvSeg data, uint8_t how)
{
    uint8_t *header = fuzz_ram(fv_header(v, s));
    uint32_t half = how & 2 && !(data.len & 1023) ? data.len / 2 : 0;
    FvSeg segs[FV_MAX_SEGS];
    unsigned int num = 0;
    FvSeg response = { fv_response(v, s), CMD_RESPONSE, true };

    put_lun(header, s->disk);
    stq_le_p(header + 8, s->tag);
    memset(fuzz_ram(response.addr), FV_NO_STATUS, CMD_RESPONSE);
    segs[num++] = (FvSeg) { .addr = fv_header(v, s), .len = CMD_HEADER };
    if (data.write) {
        segs[num++] = response;
    }
    if (half) {
        segs[num++] = (FvSeg) { data.addr, half, data.write };
        data.addr += half;
        data.len -= half;
    }
    if (data.len) {
        segs[num++] = data;
    }
    if (!data.write) {
        segs[num++] = response;
    }
    fv_add(v, s, segs, num, how & 1);
}

/* What an UNMAP has as data */
static void put_unmap(uint8_t *data, uint64_t sector, uint32_t sectors)
{
    memset(data, 0, 24);
    stw_be_p(data, 22);
    stw_be_p(data + 2, 16);
    stq_be_p(data + 8, sector);
    stl_be_p(data + 16, sectors);
}

/* Returns: how much data there is, which is in place */
static uint32_t put_command(FvSlot *s, uint8_t flags)
{
    uint8_t *cdb = fuzz_ram(fv_header(v, s) + CMD_CDB);
    uint8_t *data = fuzz_ram(fv_data(v, s));
    uint32_t sectors = s->len / FUZZ_SECTOR;

    cdb[0] = s->kind;
    switch (s->kind) {
    case WRITE_10:
    case WRITE_VERIFY_10:
        s->serial = ++last_serial;
        fuzz_disk_fill(data, s->len, s->serial);
        /* fall through */
    case READ_10:
        cdb[1] = flags & 8;                 /* FUA */
        stl_be_p(cdb + 2, s->sector);
        stw_be_p(cdb + 7, sectors);
        return s->len;
    case VERIFY_10:
        cdb[1] = flags & 2;                 /* compare with data */
        stl_be_p(cdb + 2, s->sector);
        stw_be_p(cdb + 7, sectors);
        fuzz_disk_fill(data, s->len, 1);
        return cdb[1] ? s->len : 0;
    case WRITE_SAME_10:
        cdb[1] = flags & 8;                 /* unmap */
        stl_be_p(cdb + 2, s->sector);
        stw_be_p(cdb + 7, sectors);
        memset(data, flags & 4 ? 0 : FUZZ_DATA, FUZZ_SECTOR);
        return FUZZ_SECTOR;
    case UNMAP:
        stw_be_p(cdb + 7, 24);
        put_unmap(data, s->sector, sectors);
        return 24;
    default:
        s->len = 0;
        return 0;
    }
}

static FvSlot *new_command(uint8_t what, uint8_t where)
{
    static const unsigned int sectors[] = { 1, 2, 8, 16 };
    FvSlot *s = fv_new(v);

    if (s) {
        s->queue = FIRST + (what >> 3 & 1);
        s->disk = what >> 4 & 1;
        s->tag = ++last_serial;
        s->sector = where & 63;
        s->len = sectors[where >> 6] * FUZZ_SECTOR;
    }
    return s;
}

static void op_command(FuzzInput *in)
{
    static const uint8_t kinds[] = {
        READ_10, WRITE_10, SYNCHRONIZE_CACHE, UNMAP, WRITE_SAME_10, VERIFY_10,
        WRITE_VERIFY_10, TEST_UNIT_READY,
    };
    uint8_t what = fuzz_byte(in), where = fuzz_byte(in);
    FvSlot *s = new_command(what, where);
    uint32_t len;

    if (s) {
        s->kind = kinds[what % ARRAY_SIZE(kinds)];
        len = put_command(s, what >> 4);
        add_command(s, (FvSeg) { fv_data(v, s), len, s->kind == READ_10 },
                    what >> 5);
    }
}

/* Any CDB, with data in one direction */
static void op_any_command(FuzzInput *in)
{
    uint8_t what = fuzz_byte(in);
    FvSlot *s = new_command(what, fuzz_byte(in));
    uint8_t *cdb;

    if (!s) {
        return;
    }
    fuzz_disk_check(false);
    cdb = fuzz_ram(fv_header(v, s) + CMD_CDB);
    for (unsigned int i = 0; i < 12; i++) {
        cdb[i] = fuzz_byte(in);
    }
    s->kind = cdb[0];
    add_command(s, (FvSeg) { fv_data(v, s), s->len, what & 1 }, what >> 5);
    s->len = 0;
}

static void op_tmf(FuzzInput *in)
{
    static const uint8_t kinds[] = {
        VIRTIO_SCSI_T_TMF_ABORT_TASK, VIRTIO_SCSI_T_TMF_ABORT_TASK_SET,
        VIRTIO_SCSI_T_TMF_ABORT_TASK, VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET,
        VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET,
        VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, VIRTIO_SCSI_T_TMF_QUERY_TASK,
        VIRTIO_SCSI_T_TMF_QUERY_TASK_SET,
    };
    uint8_t what = fuzz_byte(in), which = fuzz_byte(in);
    FvSlot *target = fv_pick(v, which, is_command), *s = fv_new(v);
    uint8_t *header;
    FvSeg segs[FV_MAX_SEGS];

    if (!s) {
        return;
    }
    s->kind = KIND_TMF;
    s->queue = CONTROL;
    header = fuzz_ram(fv_header(v, s));
    stl_le_p(header + 4, kinds[what % ARRAY_SIZE(kinds)]);
    put_lun(header + 8, what & 8 || !target ? which & 1 : target->disk);
    stq_le_p(header + 16, target && !(what & 16) ? target->tag : which);
    *fuzz_ram(fv_response(v, s)) = FV_NO_STATUS;
    segs[0] = (FvSeg) { .addr = fv_header(v, s), .len = TMF_HEADER };
    segs[1] = (FvSeg) { .addr = fv_response(v, s), .len = 1, .write = true };
    fv_add(v, s, segs, 2, what & 32);
}

static void op_evil_command(FuzzInput *in)
{
    uint8_t what = fuzz_byte(in), how = fuzz_byte(in);
    uint32_t len = fuzz_bytes(in, 2) << (how & 3);
    uint64_t addrs[] = {
        v->pci.bar + fuzz_bytes(in, 2) % 0x4000,    /* its own registers */
        fv_ring(how >> 5 & 3), 0xfee00000, 0xa0000, 0x00fffff0, 1ull << 63,
        fuzz_bytes(in, 2), 0x200000,
    };
    FvSlot *s;

    fv_set_hostile(v);
    s = new_command(what, fuzz_byte(in));
    if (s) {
        s->kind = what & 1 ? WRITE_10 : READ_10;
        put_command(s, how);
        add_command(s, (FvSeg) { addrs[how >> 2 & 7], len, !(what & 1) },
                    how >> 5);
    }
}

static void op_kick(FuzzInput *in)
{
    fv_kick(v, fuzz_byte(in) & 3);
}

static void op_send_all(FuzzInput *in)
{
    fv_kick(v, FIRST);
    fv_kick(v, FIRST + 1);
    fv_kick(v, CONTROL);
    fuzz_run(fuzz_byte(in));
}

static void op_reap(FuzzInput *in)
{
    fv_reap(v);
}

/* Resets, and what the host does */

/* The unit attention after a reset is answered before the input goes on. */
static void start(uint8_t byte)
{
    uint64_t features = F(VIRTIO_F_VERSION_1) | F(VIRTIO_F_RING_RESET);

    features |= byte & 1 ? F(VIRTIO_F_RING_PACKED) : 0;
    features |= byte & 2 ? F(VIRTIO_RING_F_INDIRECT_DESC) : 0;
    features |= byte & 4 ? F(VIRTIO_RING_F_EVENT_IDX) : 0;
    features |= byte & 8 ? F(VIRTIO_SCSI_F_CHANGE) : 0;
    if (!fv_start(v, features) || byte & 0x80) {
        return;
    }
    for (unsigned int i = 0; i < LUNS; i++) {
        FvSlot *s = new_command(i << 4, 0);

        if (s) {
            s->kind = TEST_UNIT_READY;
            add_command(s, (FvSeg) { .len = put_command(s, 0) }, 0);
        }
    }
    fv_kick(v, FIRST);
    fuzz_run(64);
}

static void op_reset(FuzzInput *in)
{
    fv_reset(v);
    start(fuzz_byte(in));
}

static void op_flr(FuzzInput *in)
{
    fuzz_pci_flr(&v->pci);
    fv_reap(v);
    fv_forget(v);
    start(fuzz_byte(in));
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
    uint64_t addr = fv_ring(where & 3) + (where >> 2 & 3) * 0x1000 +
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
    op_command, op_command, op_command, op_tmf, op_tmf, op_send_all, op_kick,
    fuzz_op_run, fuzz_op_plan, fuzz_op_default, fuzz_op_release,
    fuzz_op_release_all, op_reap, op_reset, op_flr, fuzz_op_stop_cont,
    fuzz_op_drain, op_any_command, op_evil_command, op_write_register,
    op_write_ring, op_write_slot,
};

static bool scsi_idle(void)
{
    return fv_idle(v);
}

static void scsi_fuzz(QTestState *s, const unsigned char *data, size_t size)
{
    FuzzInput in = { .data = data, .size = size };

    v = &devices[fuzz_byte(&in) % ARRAY_SIZE(devices)];
    v->hostile = false;
    last_serial = 0;
    start(fuzz_byte(&in));
    for (unsigned int i = 0; in.size && i < MAX_OPS; i++) {
        ops[fuzz_byte(&in) % ARRAY_SIZE(ops)](&in);
    }

    for (unsigned int i = 0; i < v->num_queues; i++) {
        fv_kick(v, i);
    }
    fuzz_settle(s, scsi_idle);
    if (v->hostile) {
        fuzz_pci_flr(&v->pci);
        fv_forget(v);
    } else {
        fv_reset(v);
    }
    fuzz_settle(s, scsi_idle);
    fv_check(v);
}

static void scsi_pre_fuzz(QTestState *s)
{
    for (unsigned int i = 0; i < ARRAY_SIZE(devices); i++) {
        g_autofree char *id = g_strdup_printf("s%u", i);

        devices[i].qts = s;
        devices[i].num_queues = FIRST + 2;
        devices[i].used = scsi_used;
        fuzz_pci_find(&devices[i].pci, id, i, 4);
    }
    fuzz_disk_reset();
}

static void register_targets(void)
{
    fuzz_add_target(&(FuzzTarget) {
        .name = "virtio-scsi-abort-fuzz",
        .description = "scsi-hd: task management while storage hangs",
        .get_init_cmdline = scsi_cmdline,
        .pre_fuzz = scsi_pre_fuzz,
        .fuzz = scsi_fuzz,
    });
}

fuzz_target_init(register_targets);
