/*
 * The rings for the tests of virtio-blk's CANCEL request
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Split and packed virtqueues, with direct and with indirect descriptors.
 * Requests are added in batches that the device sees as a whole, and every used
 * element must belong to a request that is outstanding.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_ring.h"
#include "virtio-blk-cancel-lib.h"

static void write_desc(Vbc *v, uint64_t addr, const VbcSegment *s,
                       uint16_t third, uint16_t fourth)
{
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t third;         /* split: flags, packed: id */
        uint16_t fourth;        /* split: next, packed: flags */
    } desc = {
        .addr = cpu_to_le64(s->addr),
        .len = cpu_to_le32(s->len),
        .third = cpu_to_le16(third),
        .fourth = cpu_to_le16(fourth),
    };

    QEMU_BUILD_BUG_ON(sizeof(desc) != 16);
    qtest_memwrite(v->qts, addr, &desc, sizeof(desc));
}

/* Replace @segs by one that names a table of them. */
static void make_indirect(Vbc *v, VbcSegment *segs, unsigned int *num)
{
    uint64_t table = guest_alloc(&v->alloc, *num * 16);

    for (unsigned int i = 0; i < *num; i++) {
        uint16_t flags = segs[i].write ? VRING_DESC_F_WRITE : 0;

        if (v->opts.ring & VBC_PACKED) {
            write_desc(v, table + i * 16, &segs[i], 0, flags);
        } else {
            flags |= i + 1 < *num ? VRING_DESC_F_NEXT : 0;
            write_desc(v, table + i * 16, &segs[i], flags, i + 1);
        }
    }
    segs[0] = (VbcSegment) { .addr = table, .len = *num * 16 };
    *num = 1;
}

static uint16_t desc_flags(Vbc *v, const VbcSegment *s, bool last)
{
    return (s->write ? VRING_DESC_F_WRITE : 0) |
           (last ? 0 : VRING_DESC_F_NEXT) |
           (v->opts.ring & VBC_INDIRECT ? VRING_DESC_F_INDIRECT : 0);
}

static void split_add(Vbc *v, VbcQueue *q, VbcReq *r, const VbcSegment *segs)
{
    uint16_t id, head;

    g_assert_cmpuint(q->num_free_ids, >=, r->num_descs);
    head = q->free_id[q->num_free_ids - 1];
    for (unsigned int i = 0; i < r->num_descs; i++) {
        bool last = i + 1 == r->num_descs;

        id = q->free_id[--q->num_free_ids];
        q->next[id] = last ? 0 : q->free_id[q->num_free_ids - 1];
        write_desc(v, q->vq->desc + id * 16, &segs[i],
                   desc_flags(v, &segs[i], last), q->next[id]);
    }
    r->desc_id = head;
    qtest_writew(v->qts, q->vq->avail + 4 + q->avail_idx % q->vq->size * 2,
                 head);
    q->avail_idx++;
}

static void packed_add(Vbc *v, VbcQueue *q, VbcReq *r, const VbcSegment *segs)
{
    g_assert_cmpuint(q->free_slots, >=, r->num_descs);
    q->free_slots -= r->num_descs;
    r->desc_id = q->free_id[--q->num_free_ids];

    for (unsigned int i = 0; i < r->num_descs; i++) {
        uint16_t flags = desc_flags(v, &segs[i], i + 1 == r->num_descs);

        flags |= 1 << (q->avail_wrap ? VRING_PACKED_DESC_F_AVAIL
                                     : VRING_PACKED_DESC_F_USED);
        if (!q->batch) {
            /* The device stops here until vbc_publish() */
            q->batch = true;
            q->batch_idx = q->avail_idx;
            q->batch_flags = flags;
            flags ^= 1 << VRING_PACKED_DESC_F_AVAIL |
                     1 << VRING_PACKED_DESC_F_USED;
        }
        write_desc(v, q->vq->desc + q->avail_idx * 16, &segs[i], r->desc_id,
                   flags);
        if (++q->avail_idx == q->vq->size) {
            q->avail_idx = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
}

void vbc_ring_add(Vbc *v, VbcReq *r, VbcSegment *segs, unsigned int num)
{
    VbcQueue *q = &v->queue[r->queue];

    if (v->opts.ring & VBC_INDIRECT) {
        make_indirect(v, segs, &num);
    }
    r->num_descs = num;
    if (v->opts.ring & VBC_PACKED) {
        packed_add(v, q, r, segs);
    } else {
        split_add(v, q, r, segs);
    }
    g_assert_null(q->owner[r->desc_id]);
    q->owner[r->desc_id] = r;
}

/* Returns: false if the device has used nothing more. */
static bool split_get(Vbc *v, VbcQueue *q, uint16_t *id, uint32_t *len)
{
    uint64_t elem = q->vq->used + 4 + q->used_idx % q->vq->size * 8;

    if (qtest_readw(v->qts, q->vq->used + 2) == q->used_idx) {
        return false;
    }
    *id = qtest_readl(v->qts, elem);
    *len = qtest_readl(v->qts, elem + 4);
    q->used_idx++;
    return true;
}

static bool packed_get(Vbc *v, VbcQueue *q, uint16_t *id, uint32_t *len)
{
    uint64_t desc = q->vq->desc + q->used_idx * 16;
    uint16_t flags = qtest_readw(v->qts, desc + 14);
    bool avail = flags & 1 << VRING_PACKED_DESC_F_AVAIL;
    bool used = flags & 1 << VRING_PACKED_DESC_F_USED;

    if (avail != used || used != q->used_wrap) {
        return false;
    }
    *id = qtest_readw(v->qts, desc + 12);
    *len = qtest_readl(v->qts, desc + 8);
    return true;
}

static void free_descs(Vbc *v, VbcQueue *q, VbcReq *r)
{
    uint16_t id = r->desc_id;

    if (v->opts.ring & VBC_PACKED) {
        q->free_id[q->num_free_ids++] = id;
        q->free_slots += r->num_descs;
        q->used_idx += r->num_descs;
        if (q->used_idx >= q->vq->size) {
            q->used_idx -= q->vq->size;
            q->used_wrap = !q->used_wrap;
        }
        return;
    }
    for (unsigned int i = 0; i < r->num_descs; i++) {
        q->free_id[q->num_free_ids++] = id;
        id = q->next[id];
    }
}

static void reap_queue(Vbc *v, VbcQueue *q)
{
    uint16_t id;
    uint32_t len;

    while (v->opts.ring & VBC_PACKED ? packed_get(v, q, &id, &len)
                                     : split_get(v, q, &id, &len)) {
        VbcReq *r;

        g_assert_cmpuint(id, <, q->vq->size);
        r = q->owner[id];
        g_assert_nonnull(r);    /* else used twice, or never available */
        q->owner[id] = NULL;
        free_descs(v, q, r);

        r->order = ++v->used;
        r->used_len = len;
        r->status = qtest_readb(v->qts, r->status_addr);
    }
}

void vbc_reap(Vbc *v)
{
    for (unsigned int i = 0; i < v->num_queues; i++) {
        if (v->queue[i].vq) {
            reap_queue(v, &v->queue[i]);
        }
    }
}

void vbc_publish(Vbc *v, unsigned int queue)
{
    VbcQueue *q = &v->queue[queue];

    if (q->batch) {
        qtest_writew(v->qts, q->vq->desc + q->batch_idx * 16 + 14,
                     q->batch_flags);
        q->batch = false;
    }
    if (!(v->opts.ring & VBC_PACKED)) {
        qtest_writew(v->qts, q->vq->avail + 2, q->avail_idx);
    }
}

void vbc_kick(Vbc *v, unsigned int queue)
{
    vbc_publish(v, queue);
    v->dev->bus->virtqueue_kick(v->dev, v->queue[queue].vq);
}

void vbc_ring_setup(Vbc *v, unsigned int index)
{
    VbcQueue *q = &v->queue[index];
    QVirtQueue *vq;

    memset(q, 0, sizeof(*q));
    q->vq = vq = qvirtqueue_setup(v->dev, &v->alloc, index);
    g_assert_cmpuint(vq->size, <=, VBC_MAX_QUEUE_SIZE);
    q->avail_wrap = q->used_wrap = true;
    q->free_slots = q->num_free_ids = vq->size;
    for (unsigned int i = 0; i < vq->size; i++) {
        q->free_id[i] = vq->size - 1 - i;
    }
    if (v->opts.ring & VBC_PACKED) {
        /* libqos has linked the descriptors of a split ring */
        qtest_memset(v->qts, vq->desc, 0, vq->size * 16);
    }
}
