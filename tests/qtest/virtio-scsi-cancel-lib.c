/*
 * What the tests of scsi-hd's cancel=on stand on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Commands and task management on the rings of virtio-blk-cancel-ring.c.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "virtio-scsi-cancel-lib.h"

#define CMD_HEADER      51      /* with a CDB of 32 bytes */
#define CMD_CDB         19
#define CMD_RESPONSE    108     /* with 96 bytes of sense */
#define TMF_HEADER      24
#define TARGET          1

static void put_lun(uint8_t *buf, unsigned int lun)
{
    buf[0] = 1;
    buf[1] = TARGET;
    buf[2] = 0x40;
    buf[3] = lun;
}

/* Allocate buffers and lay them out; @out is what the device reads first. */
static void ring_add(Vsd *s, VbcReq *r, const uint8_t *out, uint32_t out_len,
                     uint32_t in_len, uint32_t response)
{
    bool is_out = r->direction == VBC_DATA_OUT;
    Vbc *v = s->v;
    VbcSegment segs[4];
    unsigned int num = 0;
    uint64_t in;

    r->data_len = r->len;
    r->mem = guest_alloc(&v->alloc, out_len + in_len + r->data_len + 4);
    in = r->mem + out_len;
    r->data = r->at ?: in + in_len;
    r->status_addr = in + response;
    r->order = 0;
    r->used_len = 0;
    r->status = VBC_NO_STATUS;
    qtest_memwrite(v->qts, r->mem, out, out_len);
    qtest_memset(v->qts, in, VBC_NO_STATUS, in_len);
    if (r->data_len && !r->at) {
        vbc_fill(v, r, is_out ? r->fill : VBC_POISON);
    }

    segs[num++] = (VbcSegment) { .addr = r->mem, .len = out_len };
    if (is_out && r->data_len) {
        segs[num++] = (VbcSegment) { .addr = r->data, .len = r->data_len };
    }
    segs[num++] = (VbcSegment) { .addr = in, .len = in_len, .write = true };
    if (!is_out && r->data_len) {
        segs[num++] = (VbcSegment) { .addr = r->data, .len = r->data_len,
                                     .write = true };
    }
    vbc_ring_add(v, r, segs, num);
}

/* Commands */

static VsdCmd transfer(unsigned int lun, uint64_t tag, uint64_t sector,
                       uint32_t len, uint8_t opcode)
{
    VsdCmd c = {
        .r = { .sector = sector, .len = len, .queue = VSD_FIRST },
        .lun = lun, .tag = tag, .cdb = { opcode },
    };

    stl_be_p(&c.cdb[2], sector);
    stw_be_p(&c.cdb[7], len / VBC_SECTOR);
    return c;
}

VsdCmd vsd_read(unsigned int lun, uint64_t tag, uint64_t sector, uint32_t len)
{
    VsdCmd c = transfer(lun, tag, sector, len, 0x28);

    c.r.direction = VBC_DATA_IN;
    return c;
}

VsdCmd vsd_write(unsigned int lun, uint64_t tag, uint64_t sector, uint32_t len,
                 int fill)
{
    VsdCmd c = transfer(lun, tag, sector, len, 0x2a);

    c.r.direction = VBC_DATA_OUT;
    c.r.fill = fill;
    return c;
}

VsdCmd vsd_plain(Vsd *s, unsigned int lun, uint8_t opcode)
{
    return (VsdCmd) {
        .r.queue = s->v->q, .lun = lun, .tag = UINT64_MAX, .cdb = { opcode },
    };
}

void vsd_add(Vsd *s, VsdCmd *c)
{
    uint8_t header[CMD_HEADER] = {};

    put_lun(header, c->lun);
    stq_le_p(header + 8, c->tag);
    memcpy(header + CMD_CDB, c->cdb, sizeof(c->cdb));
    ring_add(s, &c->r, header, sizeof(header), CMD_RESPONSE, 11);
}

void vsd_send(Vsd *s, VsdCmd *c)
{
    vsd_add(s, c);
    vbc_kick(s->v, c->r.queue);
}

void vsd_expect_response(Vsd *s, VsdCmd *c, uint8_t response)
{
    vbc_expect(s->v, &c->r, response);
    c->status = qtest_readb(s->v->qts, c->r.status_addr - 1);
    c->sense_key = qtest_readb(s->v->qts, c->r.status_addr + 3);
}

void vsd_expect(Vsd *s, VsdCmd *c, uint8_t status)
{
    vsd_expect_response(s, c, VSD_S_OK);
    g_assert_cmphex(c->status, ==, status);
}

void vsd_do(Vsd *s, VsdCmd *c, uint8_t status)
{
    vsd_send(s, c);
    vsd_expect(s, c, status);
}

void vsd_sync(Vsd *s)
{
    for (unsigned int i = VSD_FIRST; i < s->v->num_queues; i++) {
        /* A read of nothing needs no storage, and comes last */
        VsdCmd nothing = vsd_read(0, UINT64_MAX - 1, 0, 0);

        nothing.r.queue = i;
        vsd_do(s, &nothing, VSD_GOOD);
    }
}

void vsd_hang(Vsd *s, VsdCmd *c)
{
    vbc_hold(s->v);
    for (unsigned int i = 0; i < VSD_HANGING; i++) {
        unsigned int lun = i % VSD_LUNS;
        uint64_t sector = lun * VSD_HALF + i / 4 * 16;

        c[i] = i % 4 < 2 ? vsd_write(lun, i, sector, VSD_LEN, 1)
                         : vsd_read(lun, i, sector, VSD_LEN);
        c[i].r.queue = VSD_FIRST + i % (s->v->num_queues - VSD_FIRST);
        vsd_send(s, &c[i]);
    }
    vsd_sync(s);
}

void vsd_expect_attention(Vsd *s)
{
    for (unsigned int lun = 0; lun < s->num_luns; lun++) {
        VsdCmd c = vsd_plain(s, lun, 0x00);

        vsd_do(s, &c, VSD_CHECK_CONDITION);
        g_assert_cmphex(c.sense_key, ==, 6);
        vsd_do(s, &c, VSD_GOOD);
    }
}

/* Task management */

void vsd_tmf_add(Vsd *s, VsdTmf *t)
{
    uint8_t header[TMF_HEADER] = {};

    stl_le_p(header + 4, t->subtype);
    put_lun(header + 8, t->lun);
    stq_le_p(header + 16, t->tag);
    ring_add(s, &t->r, header, sizeof(header), 1, 0);
}

void vsd_tmf_send(Vsd *s, VsdTmf *t)
{
    vsd_tmf_add(s, t);
    vbc_kick(s->v, VSD_CONTROL);
}

void vsd_tmf(Vsd *s, uint32_t subtype, unsigned int lun, uint64_t tag,
             uint8_t response)
{
    VsdTmf t = { .subtype = subtype, .lun = lun, .tag = tag };

    vsd_tmf_send(s, &t);
    vbc_expect(s->v, &t.r, response);
}

void vsd_abort(Vsd *s, VsdCmd *c)
{
    VsdTmf t = { .subtype = VSD_TMF_ABORT_TASK, .lun = c->lun, .tag = c->tag };

    vbc_expect_pending(s->v, &c->r);
    vsd_tmf_send(s, &t);
    vbc_expect(s->v, &t.r, VSD_S_OK);
    vbc_reap(s->v);
    vsd_expect_response(s, c, VSD_S_ABORTED);
}

/* Everything together */

static void create_image(Vsd *s)
{
    g_autofree uint8_t *buf = g_malloc(VBC_DISK_SIZE);
    int fd = g_file_open_tmp("qtest-scsi.XXXXXX", &s->image, NULL);

    g_assert_cmpint(fd, >=, 0);
    disk_pattern(buf, VBC_DISK_SIZE, 0, VBC_OLD);
    g_assert_cmpint(write(fd, buf, VBC_DISK_SIZE), ==, VBC_DISK_SIZE);
    close(fd);
}

static void unlink_image(void *opaque)
{
    Vsd *s = opaque;

    unlink(s->image);
}

static void add_hba(GString *out, const VbcOptions *base)
{
    g_string_append_printf(out, "-device '{\"driver\": \"virtio-scsi-pci\","
                           " \"id\": \"hba\", \"addr\": \"%x.0\","
                           " \"num_queues\": %u", VBC_SLOT,
                           base->queues ?: 1);
    if (base->iothreads == 1) {
        g_string_append(out, ", \"iothread\": \"io0\"");
    } else if (base->iothreads) {
        g_string_append(out, ", \"iothread-vq-mapping\": ["
                        "{\"iothread\": \"io0\"}, {\"iothread\": \"io1\"}]");
    }
    g_string_append(out, "}' ");
}

static void add_disk(GString *out, const VsdOptions *opts, unsigned int lun)
{
    g_autoptr(GString) more = g_string_new(opts->disk ?: "");

    g_strdelimit(more->str, "'", '"');
    g_string_append_printf(out, "-device '{\"driver\": \"scsi-hd\","
                           " \"bus\": \"hba.0\", \"scsi-id\": %u,"
                           " \"lun\": %u, \"id\": \"lun%u\","
                           " \"drive\": \"%s\"%s%s%s}' ",
                           TARGET, lun, lun,
                           opts->slow ? "top" : lun ? "drv1" : "drv",
                           opts->off ? "" : ", \"cancel\": true",
                           opts->disk ? ", " : "", more->str);
}

Vsd *vsd_start(const VsdOptions *opts)
{
    VbcOptions o = *opts->base;
    Vsd *s = g_new0(Vsd, 1);
    g_autoptr(GString) devices = g_string_new("");
    g_autofree char *drive = NULL;

    create_image(s);
    o.slow = o.node = opts->slow;
    if (opts->qcow2) {
        vbc_create_qcow2(s->image, 2 * VBC_DISK_SIZE);
        o.format = "qcow2";
    }
    s->num_luns = opts->drive_all || opts->qcow2 ? 1 : VSD_LUNS;
    add_hba(devices, &o);
    add_disk(devices, opts, 0);
    if (opts->drive_all) {
        drive = g_strdup_printf(opts->drive_all, s->image);
        o.drive_all = drive;
    } else {
        o.server = true;
    }
    if (s->num_luns > 1) {
        g_string_append_printf(devices, "-drive if=none,id=drv1,format=raw,"
                               "discard=unmap,file.driver=nbd,"
                               "file.server.type=unix,file.export=disk,"
                               "file.server.path=%s.sock ", s->image);
        add_disk(devices, opts, 1);
    }
    o.queues = VSD_FIRST + (o.queues ?: 1);
    o.stock = true;
    o.image = s->image;
    o.device_all = devices->str;
    o.args = opts->args;
    s->v = vbc_start(&o);
    if (!s->v) {
        unlink(s->image);
        g_free(s->image);
        g_free(s);
        return NULL;
    }
    qtest_add_abrt_handler(unlink_image, s);
    vsd_expect_attention(s);
    return s;
}

static void end(Vsd *s, void (*stop)(Vbc *v))
{
    stop(s->v);
    qtest_remove_abrt_handler(s);
    unlink(s->image);
    g_free(s->image);
    g_free(s);
}

void vsd_stop(Vsd *s)
{
    end(s, vbc_stop);
}

void vsd_abandon(Vsd *s)
{
    end(s, vbc_abandon);
}

void vsd_add_test(const char *path, void (*fn)(const void *base))
{
    static const struct {
        const char *name;
        VbcOptions base;
    } setup[] = {
        { "main-loop" },
        { "iothreads", { .iothreads = 2, .queues = 4 } },
    };

    for (unsigned int i = 0; i < ARRAY_SIZE(setup); i++) {
        g_autofree char *name = g_strdup_printf("/virtio-scsi-cancel/%s/%s",
                                                path, setup[i].name);

        qtest_add_data_func(name, &setup[i].base, fn);
    }
}
