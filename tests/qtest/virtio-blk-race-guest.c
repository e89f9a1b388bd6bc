/*
 * The race tests of virtio-blk's CANCEL request: the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Guest memory is a file that this process maps as well.  Each request has a
 * page of it; a page that has been given back is filled with a canary and goes
 * to the end of a queue, and must not have been touched when it comes out.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_ring.h"
#include "virtio-blk-cancel-lib.h"
#include "virtio-blk-race.h"

#define NUM_PAGES       1024

/* A page */
#define PAGE_DATA       0
#define PAGE_DATA_SIZE  (RACE_MAX_SECTORS * RACE_SECTOR)
#define PAGE_HEADER     PAGE_DATA_SIZE
#define PAGE_RANGE      (PAGE_HEADER + 32)
#define PAGE_STATUS     (PAGE_RANGE + 32)
#define PAGE_TABLE      (PAGE_STATUS + 64)
#define PAGE_SIZE_ALL   (PAGE_DATA_SIZE + 4096)
#define STATUS_CANARY   0x5a

typedef struct Desc {
    uint64_t addr;
    uint32_t len;
    uint16_t third;         /* split: flags, packed: id */
    uint16_t fourth;        /* split: next, packed: flags */
} Desc;

/* Pages */

static void *at(Guest *g, uint64_t addr)
{
    return g->ram + addr;
}

static uint64_t page_addr(Guest *g, unsigned int page)
{
    return g->pages + (uint64_t)page * PAGE_SIZE_ALL;
}

/* A content that differs from page to page */
static uint64_t page_sector(unsigned int page)
{
    return RACE_SECTORS + page * RACE_MAX_SECTORS;
}

static void check_canary(Guest *g, unsigned int page, unsigned int first)
{
    uint8_t *data = at(g, page_addr(g, page) + PAGE_DATA);

    for (unsigned int i = first; i < RACE_MAX_SECTORS; i++) {
        uint32_t stamp;

        if (!race_stamp_of(data + i * RACE_SECTOR, page_sector(page) + i,
                           &stamp) || stamp != RACE_STAMP_CANARY) {
            race_fail("buffer %u was touched at sector %u: stamp %u", page, i,
                      stamp);
        }
    }
}

static unsigned int page_get(Guest *g)
{
    unsigned int page = GPOINTER_TO_UINT(g_queue_pop_head(&g->free_pages));
    uint8_t *status = at(g, page_addr(g, page) + PAGE_STATUS);

    check_canary(g, page, 0);
    if (qatomic_read(status) != STATUS_CANARY) {
        race_fail("status byte of buffer %u was touched", page);
    }
    return page;
}

static void page_put(Guest *g, unsigned int page)
{
    race_fill(at(g, page_addr(g, page) + PAGE_DATA), page_sector(page),
              RACE_MAX_SECTORS, RACE_STAMP_CANARY);
    *(uint8_t *)at(g, page_addr(g, page) + PAGE_STATUS) = STATUS_CANARY;
    g_queue_push_tail(&g->free_pages, GUINT_TO_POINTER(page));
}

/* Requests */

static bool is_range(uint32_t type)
{
    return type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
}

static bool is_write(uint32_t type)
{
    return type == VIRTIO_BLK_T_OUT || is_range(type);
}

static void add_desc(Guest *g, Desc *table, unsigned int *num, uint64_t addr,
                     uint32_t len, bool write)
{
    uint16_t flags = write ? VRING_DESC_F_WRITE : 0;

    if (!g->opts.packed && *num) {
        /* The one before it is not the last */
        table[*num - 1].third |= cpu_to_le16(VRING_DESC_F_NEXT);
    }
    table[*num] = (Desc) {
        .addr = cpu_to_le64(addr),
        .len = cpu_to_le32(len),
        .third = cpu_to_le16(g->opts.packed ? 0 : flags),
        .fourth = cpu_to_le16(g->opts.packed ? flags : *num + 1),
    };
    (*num)++;
}

/* The data in two pieces, cut where no sector ends */
static void add_data(Guest *g, GuestReq *r, Desc *table, unsigned int *num)
{
    uint64_t addr = r->data ?: page_addr(g, r->page) + PAGE_DATA;
    uint32_t len = r->num * RACE_SECTOR;
    uint32_t cut = r->tag * 119 % len;

    if (cut) {
        add_desc(g, table, num, addr, cut, r->type == VIRTIO_BLK_T_IN);
    }
    add_desc(g, table, num, addr + cut, len - cut,
             r->type == VIRTIO_BLK_T_IN);
}

static void write_header(Guest *g, GuestReq *r)
{
    uint8_t *header = at(g, page_addr(g, r->page) + PAGE_HEADER);

    stl_le_p(header, r->type);
    stl_le_p(header + 4, 0);
    stq_le_p(header + 8, is_range(r->type) ? 0 : r->sector);
    stq_le_p(header + 16, r->tag);
}

/* Returns: how many descriptors the table has */
static unsigned int write_table(Guest *g, GuestReq *r)
{
    uint64_t page = page_addr(g, r->page);
    Desc *table = at(g, page + PAGE_TABLE);
    struct virtio_blk_discard_write_zeroes range = {
        .sector = cpu_to_le64(r->sector),
        .num_sectors = cpu_to_le32(r->num),
    };
    unsigned int num = 0;

    write_header(g, r);
    add_desc(g, table, &num, page + PAGE_HEADER, VBC_HEADER, false);
    if (is_range(r->type)) {
        memcpy(at(g, page + PAGE_RANGE), &range, sizeof(range));
        add_desc(g, table, &num, page + PAGE_RANGE, sizeof(range), false);
    } else if (r->with_data) {
        add_desc(g, table, &num, page + PAGE_RANGE, 1, false);
    } else if (r->num) {
        if (r->type == VIRTIO_BLK_T_OUT && g->model) {
            race_fill(at(g, page + PAGE_DATA), r->sector, r->num, r->stamp);
        }
        add_data(g, r, table, &num);
    }
    *(uint8_t *)at(g, page + PAGE_STATUS) = VBC_NO_STATUS;
    add_desc(g, table, &num, page + PAGE_STATUS, 1, true);
    return num;
}

bool guest_has_room(Guest *g, unsigned int queue)
{
    return g->queue[queue].num_free &&
           g_queue_get_length(&g->free_pages) > NUM_PAGES / 2;
}

static void split_add(Guest *g, GuestQueue *q, GuestReq *r, Desc desc)
{
    uint16_t *ring = at(g, q->avail + 4);

    desc.third = cpu_to_le16(VRING_DESC_F_INDIRECT);
    memcpy(at(g, q->desc + r->id * sizeof(desc)), &desc, sizeof(desc));
    ring[q->avail_idx % GUEST_QUEUE_SIZE] = cpu_to_le16(r->id);
    q->avail_idx++;
}

static void packed_add(Guest *g, GuestQueue *q, GuestReq *r, Desc desc)
{
    uint16_t both = 1 << VRING_PACKED_DESC_F_AVAIL |
                    1 << VRING_PACKED_DESC_F_USED;
    uint16_t flags = VRING_DESC_F_INDIRECT |
                     1 << (q->avail_wrap ? VRING_PACKED_DESC_F_AVAIL
                                         : VRING_PACKED_DESC_F_USED);

    if (!q->batch) {
        /* The device stops here until guest_kick() */
        q->batch_idx = q->avail_idx;
        q->batch_flags = flags;
        flags ^= both;
    }
    desc.third = cpu_to_le16(r->id);
    desc.fourth = cpu_to_le16(flags);
    memcpy(at(g, q->desc + q->avail_idx * sizeof(desc)), &desc, sizeof(desc));
    if (++q->avail_idx == GUEST_QUEUE_SIZE) {
        q->avail_idx = 0;
        q->avail_wrap = !q->avail_wrap;
    }
}

GuestReq *guest_add(Guest *g, const GuestReq *what)
{
    GuestReq *r = g_memdup2(what, sizeof(*what));
    GuestQueue *q = &g->queue[r->queue];
    Desc desc = {};

    g_assert_true(guest_has_room(g, r->queue));
    if (r->type != VBC_T_CANCEL) {
        r->tag = g->next_tag++;
        q->requests++;
        g->stats.requests++;
    } else {
        q->cancels++;
    }
    r->page = page_get(g);
    r->id = q->free_id[--q->num_free];
    g_assert_null(q->owner[r->id]);
    q->owner[r->id] = r;
    if (g->model) {
        if (is_write(r->type)) {
            model_write(g->model, r->sector, r->num, r->stamp);
        }
        r->start = model_tick(g->model);
    }

    desc.len = cpu_to_le32(write_table(g, r) * sizeof(desc));
    desc.addr = cpu_to_le64(page_addr(g, r->page) + PAGE_TABLE);
    if (g->opts.packed) {
        packed_add(g, q, r, desc);
    } else {
        split_add(g, q, r, desc);
    }
    q->batch++;
    return r;
}

void guest_kick(Guest *g, unsigned int queue)
{
    GuestQueue *q = &g->queue[queue];

    if (!q->batch) {
        return;
    }
    q->batch = 0;

    /* Descriptors before what makes them available */
    smp_wmb();
    if (g->opts.packed) {
        uint16_t *flags = at(g, q->desc + q->batch_idx * sizeof(Desc) +
                             offsetof(Desc, fourth));

        qatomic_set(flags, cpu_to_le16(q->batch_flags));
    } else {
        uint16_t *idx = at(g, q->avail + 2);

        qatomic_set(idx, cpu_to_le16(q->avail_idx));
    }
    qpci_io_writew(g->pci->pdev, g->pci->bar, q->notify, queue);
}

/* Rings and pages as they are after a reset */

void guest_init_queue(Guest *g, unsigned int index)
{
    GuestQueue *q = &g->queue[index];
    uint16_t *avail;

    q->desc = q->area + q->half * GUEST_RING_SIZE;
    q->avail = q->desc + GUEST_RING_SIZE / 4;
    q->used = q->desc + GUEST_RING_SIZE / 2;
    memset(at(g, q->desc), 0, GUEST_RING_SIZE);
    q->avail_idx = q->used_idx = 0;
    q->avail_wrap = q->used_wrap = true;
    q->batch = 0;
    q->num_free = GUEST_QUEUE_SIZE;
    for (unsigned int i = 0; i < GUEST_QUEUE_SIZE; i++) {
        q->free_id[i] = GUEST_QUEUE_SIZE - 1 - i;
    }

    /* No interrupts: we look */
    avail = at(g, q->avail);
    avail[g->opts.packed] = cpu_to_le16(1);
    QEMU_BUILD_BUG_ON(VRING_AVAIL_F_NO_INTERRUPT != 1 ||
                      VRING_PACKED_EVENT_FLAG_DISABLE != 1);
}

void guest_init_pages(Guest *g, QGuestAllocator *alloc)
{
    g->pages = guest_alloc(alloc, NUM_PAGES * PAGE_SIZE_ALL);
    for (unsigned int i = 0; i < NUM_PAGES; i++) {
        page_put(g, i);
    }
}

void guest_check_pages(Guest *g)
{
    g_assert_cmpuint(g_queue_get_length(&g->free_pages), ==, NUM_PAGES);
    for (unsigned int i = 0; i < NUM_PAGES; i++) {
        page_get(g);
    }
}

/* Used elements */

static bool split_get(Guest *g, GuestQueue *q, uint16_t *id)
{
    uint16_t *idx = at(g, q->used + 2);
    uint32_t *elem = at(g, q->used + 4 + q->used_idx % GUEST_QUEUE_SIZE * 8);

    if (le16_to_cpu(qatomic_read(idx)) == q->used_idx) {
        return false;
    }
    /* The index before what it makes valid */
    smp_rmb();
    *id = le32_to_cpu(*elem);
    q->used_idx++;
    return true;
}

static bool packed_get(Guest *g, GuestQueue *q, uint16_t *id)
{
    Desc *desc = at(g, q->desc + q->used_idx * sizeof(Desc));
    uint16_t flags = le16_to_cpu(qatomic_read(&desc->fourth));
    bool avail = flags & 1 << VRING_PACKED_DESC_F_AVAIL;
    bool used = flags & 1 << VRING_PACKED_DESC_F_USED;

    if (avail != used || used != q->used_wrap) {
        return false;
    }
    /* The flags before what they make valid */
    smp_rmb();
    *id = le16_to_cpu(desc->third);
    if (++q->used_idx == GUEST_QUEUE_SIZE) {
        q->used_idx = 0;
        q->used_wrap = !q->used_wrap;
    }
    return true;
}

/* @r has ended; @done: with success */
static void finish(Guest *g, GuestReq *r, bool done, bool canceled)
{
    if (g->model && is_write(r->type)) {
        model_written(g->model, r->sector, r->num, r->stamp, done);
        if (canceled && r->type == VIRTIO_BLK_T_OUT) {
            store_note_canceled(g->store, r->stamp);
        }
    } else if (g->model && r->type == VIRTIO_BLK_T_IN) {
        uint8_t *data = at(g, page_addr(g, r->page) + PAGE_DATA);

        model_read(g->model, r->sector, r->num, done ? data : NULL, r->start,
                   r->locked);
        if (done) {
            check_canary(g, r->page, r->num);
        }
    }
}

GuestReq *guest_find(Guest *g, unsigned int queue, uint64_t tag)
{
    for (unsigned int i = 0; i < GUEST_QUEUE_SIZE; i++) {
        GuestReq *r = g->queue[queue].owner[i];

        if (r && r->type != VBC_T_CANCEL && r->tag == tag) {
            return r;
        }
    }
    return NULL;
}

static void used_cancel(Guest *g, GuestQueue *q, GuestReq *r, uint8_t status)
{
    uint8_t wanted = r->with_data ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;

    q->cancels--;
    g->stats.cancels++;
    if (status != wanted) {
        race_fail("CANCEL of tag %" PRIu64 " has status %u, not %u", r->tag,
                  status, wanted);
    }
    if (!r->with_data && r->after_target &&
        guest_find(g, r->queue, r->tag)) {
        race_fail("CANCEL of tag %" PRIu64 " is used before its target",
                  r->tag);
    }
}

static void used_request(Guest *g, GuestQueue *q, GuestReq *r, uint8_t status)
{
    q->requests--;
    switch (status) {
    case VIRTIO_BLK_S_OK:
        break;
    case VIRTIO_BLK_S_IOERR:
        g->stats.failed++;
        break;
    case VBC_S_CANCELED:
        if (!r->asked) {
            race_fail("request with tag %" PRIu64 " of type %u is cancelled, "
                      "and nobody asked for it", r->tag, r->type);
        }
        g->stats.canceled++;
        break;
    default:
        race_fail("request of type %u has status %u", r->type, status);
    }
    finish(g, r, status == VIRTIO_BLK_S_OK, status == VBC_S_CANCELED);
}

static void used(Guest *g, GuestQueue *q, uint16_t id)
{
    GuestReq *r = id < GUEST_QUEUE_SIZE ? q->owner[id] : NULL;
    uint8_t *status;

    if (!r) {
        race_fail("descriptor %u is used twice, or was never available", id);
    }
    q->owner[id] = NULL;
    q->free_id[q->num_free++] = id;
    status = at(g, page_addr(g, r->page) + PAGE_STATUS);
    if (r->type == VBC_T_CANCEL) {
        used_cancel(g, q, r, qatomic_read(status));
    } else {
        used_request(g, q, r, qatomic_read(status));
    }
    page_put(g, r->page);
    g_free(r);
}

void guest_reap(Guest *g)
{
    for (unsigned int i = 0; i < g->opts.queues; i++) {
        GuestQueue *q = &g->queue[i];
        uint16_t id;

        while (g->opts.packed ? packed_get(g, q, &id) : split_get(g, q, &id)) {
            used(g, q, id);
        }
    }
}

void guest_drop_all(Guest *g)
{
    for (unsigned int i = 0; i < g->opts.queues; i++) {
        GuestQueue *q = &g->queue[i];

        for (unsigned int id = 0; id < GUEST_QUEUE_SIZE; id++) {
            GuestReq *r = q->owner[id];

            q->owner[id] = NULL;
            if (r && r->type != VBC_T_CANCEL) {
                finish(g, r, false, true);
            }
            if (r) {
                page_put(g, r->page);
                g_free(r);
            }
        }
        q->requests = q->cancels = 0;
    }
}

unsigned int guest_cancels(Guest *g)
{
    unsigned int n = 0;

    for (unsigned int i = 0; i < g->opts.queues; i++) {
        n += g->queue[i].cancels;
    }
    return n;
}

unsigned int guest_requests(Guest *g)
{
    unsigned int n = 0;

    for (unsigned int i = 0; i < g->opts.queues; i++) {
        n += g->queue[i].requests;
    }
    return n;
}
