/*
 * A virtio driver for the fuzz targets of devices with cancel=
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_pci.h"
#include "standard-headers/linux/virtio_ring.h"
#include "cancel_fuzz_virtio.h"

#define RINGS           0x100000    /* guest addresses */
#define RING_SIZE       0x4000
#define SLOTS           0x200000
#define SLOT_SIZE       0x4000
#define HEADER          0x000       /* within a slot */
#define RESPONSE        0x100
#define TABLE           0x200
#define DATA            0x1000
#define NOTIFY          0x3000      /* within the BAR */

QEMU_BUILD_BUG_ON(DATA + FV_MAX_DATA > SLOT_SIZE);

static uint64_t slot_addr(Fv *v, FvSlot *s)
{
    return SLOTS + (s - v->slot) * SLOT_SIZE;
}

uint64_t fv_header(Fv *v, FvSlot *s)
{
    return slot_addr(v, s) + HEADER;
}

uint64_t fv_response(Fv *v, FvSlot *s)
{
    return slot_addr(v, s) + RESPONSE;
}

uint64_t fv_data(Fv *v, FvSlot *s)
{
    return slot_addr(v, s) + DATA;
}

uint64_t fv_ring(unsigned int queue)
{
    return RINGS + queue * RING_SIZE;
}

static uint64_t desc_addr(unsigned int queue)
{
    return fv_ring(queue);
}

static uint64_t avail_addr(unsigned int queue)
{
    return fv_ring(queue) + 0x1000;
}

static uint64_t used_addr(unsigned int queue)
{
    return fv_ring(queue) + 0x2000;
}

/* Registers */

void fv_write(Fv *v, uint64_t offset, uint64_t value, unsigned int len)
{
    uint64_t addr = v->pci.bar + offset;

    switch (len) {
    case 1:
        qtest_writeb(v->qts, addr, value);
        break;
    case 2:
        qtest_writew(v->qts, addr, value);
        break;
    case 4:
        qtest_writel(v->qts, addr, value);
        break;
    default:
        qtest_writeq(v->qts, addr, value);
    }
}

static void write_address(Fv *v, uint64_t offset, uint64_t addr)
{
    fv_write(v, offset, addr, 4);
    fv_write(v, offset + 4, addr >> 32, 4);
}

static uint8_t device_status(Fv *v)
{
    return qtest_readb(v->qts, v->pci.bar + VIRTIO_PCI_COMMON_STATUS);
}

static void write_status(Fv *v, uint8_t status)
{
    fv_write(v, VIRTIO_PCI_COMMON_STATUS, status, 1);
}

static uint64_t device_features(Fv *v)
{
    uint64_t features;

    fv_write(v, VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
    features = qtest_readl(v->qts, v->pci.bar + VIRTIO_PCI_COMMON_DF);
    fv_write(v, VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
    return features << 32 |
           qtest_readl(v->qts, v->pci.bar + VIRTIO_PCI_COMMON_DF);
}

static void enable_queue(Fv *v, unsigned int index)
{
    FvQueue *q = &v->queue[index];

    memset(fuzz_ram(fv_ring(index)), 0, RING_SIZE);
    memset(q, 0, sizeof(*q));
    q->num_free = q->free_descs = FV_QUEUE_SIZE;
    q->avail_wrap = q->used_wrap = true;
    for (unsigned int i = 0; i < FV_QUEUE_SIZE; i++) {
        q->free_id[i] = FV_QUEUE_SIZE - 1 - i;
        q->owner[i] = -1;
    }
    fv_write(v, VIRTIO_PCI_COMMON_Q_SELECT, index, 2);
    fv_write(v, VIRTIO_PCI_COMMON_Q_SIZE, FV_QUEUE_SIZE, 2);
    write_address(v, VIRTIO_PCI_COMMON_Q_DESCLO, desc_addr(index));
    write_address(v, VIRTIO_PCI_COMMON_Q_AVAILLO, avail_addr(index));
    write_address(v, VIRTIO_PCI_COMMON_Q_USEDLO, used_addr(index));
    fv_write(v, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    q->enabled = true;
}

bool fv_start(Fv *v, uint64_t features)
{
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    write_status(v, status);
    features &= device_features(v);
    fv_write(v, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
    fv_write(v, VIRTIO_PCI_COMMON_GF, features, 4);
    fv_write(v, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
    fv_write(v, VIRTIO_PCI_COMMON_GF, features >> 32, 4);
    status |= VIRTIO_CONFIG_S_FEATURES_OK;
    write_status(v, status);
    if (!(device_status(v) & VIRTIO_CONFIG_S_FEATURES_OK)) {
        return false;
    }
    v->features = features;
    for (unsigned int i = 0; i < v->num_queues; i++) {
        enable_queue(v, i);
    }
    write_status(v, status | VIRTIO_CONFIG_S_DRIVER_OK);
    v->live = true;
    return true;
}

/* Slots */

static void poison(Fv *v, FvSlot *s)
{
    memset(fuzz_ram(slot_addr(v, s)), FUZZ_POISON, SLOT_SIZE);
    s->poisoned = true;
}

static void check_poison(Fv *v, FvSlot *s)
{
    const uint8_t *mem = fuzz_ram(slot_addr(v, s));

    if (s->poisoned && !v->hostile) {
        FUZZ_CHECK(mem[0] == FUZZ_POISON);
        FUZZ_CHECK(!memcmp(mem, mem + 1, SLOT_SIZE - 1));
    }
}

void fv_check(Fv *v)
{
    for (unsigned int i = 0; i < FV_SLOTS; i++) {
        check_poison(v, &v->slot[i]);
        v->slot[i] = (FvSlot) {};
    }
}

FvSlot *fv_new(Fv *v)
{
    FvSlot *s, *oldest = NULL;

    /* As late as possible, for what the device has given up to be seen */
    for (unsigned int i = 0; i < FV_SLOTS; i++) {
        s = &v->slot[i];
        if (!s->busy && (!oldest || s->used_order < oldest->used_order)) {
            oldest = s;
        }
    }
    if (oldest) {
        check_poison(v, oldest);
        *oldest = (FvSlot) { .target = -1 };
        memset(fuzz_ram(slot_addr(v, oldest)), 0, DATA);
    }
    return oldest;
}

FvSlot *fv_pick(Fv *v, unsigned int n, bool (*is)(FvSlot *s))
{
    FvSlot *found[FV_SLOTS];
    unsigned int num = 0;

    for (unsigned int i = 0; i < FV_SLOTS; i++) {
        if (v->slot[i].busy && is(&v->slot[i])) {
            found[num++] = &v->slot[i];
        }
    }
    return num ? found[n % num] : NULL;
}

static void give_up(Fv *v, FvSlot *s)
{
    s->busy = false;
    s->given_up = true;
    s->used_order = ++v->clock;
    poison(v, s);
}

static void give_up_queue(Fv *v, unsigned int queue)
{
    for (unsigned int i = 0; i < FV_SLOTS; i++) {
        if (v->slot[i].busy && v->slot[i].queue == queue) {
            give_up(v, &v->slot[i]);
        }
    }
    v->queue[queue].enabled = false;
}

void fv_forget(Fv *v)
{
    for (unsigned int i = 0; i < FV_QUEUES; i++) {
        give_up_queue(v, i);
    }
    v->live = false;
}

void fv_reset(Fv *v)
{
    write_status(v, 0);
    FUZZ_CHECK(v->hostile || device_status(v) == 0);
    fv_reap(v);
    fv_forget(v);
}

void fv_set_hostile(Fv *v)
{
    v->hostile = true;
    fuzz_disk_check(false);
}

void fv_reset_queue(Fv *v, unsigned int queue)
{
    if (!fv_has(v, VIRTIO_F_RING_RESET) || !v->live) {
        return;
    }
    fv_write(v, VIRTIO_PCI_COMMON_Q_SELECT, queue, 2);
    fv_write(v, VIRTIO_PCI_COMMON_Q_RESET, 1, 2);
    fv_reap(v);
    give_up_queue(v, queue);
    enable_queue(v, queue);
}

bool fv_idle(Fv *v)
{
    fv_reap(v);
    if (v->hostile || !v->live) {
        return true;
    }
    for (unsigned int i = 0; i < FV_SLOTS; i++) {
        if (v->slot[i].busy) {
            return false;
        }
    }
    return true;
}

void fv_check_settled(Fv *v, FvSlot *s)
{
    for (unsigned int i = 0; i < FV_SLOTS; i++) {
        FvSlot *old = &v->slot[i];

        if (old->given_up && old->serial && old->used_order < s->order &&
            old->disk == s->disk &&
            old->sector < s->sector + s->len / FUZZ_SECTOR &&
            s->sector < old->sector + old->len / FUZZ_SECTOR) {
            FUZZ_CHECK(!fuzz_disk_is_writing(old->serial));
        }
    }
}

/* Rings */

static void write_desc(uint64_t addr, const FvSeg *seg, uint16_t third,
                       uint16_t fourth)
{
    uint8_t *desc = fuzz_ram(addr);

    stq_le_p(desc, seg->addr);
    stl_le_p(desc + 8, seg->len);
    stw_le_p(desc + 12, third);
    stw_le_p(desc + 14, fourth);
}

/* Replace @segs by one that names a table of them. */
static unsigned int make_indirect(Fv *v, FvSlot *s, FvSeg *segs,
                                  unsigned int num)
{
    uint64_t table = slot_addr(v, s) + TABLE;

    for (unsigned int i = 0; i < num; i++) {
        uint16_t flags = segs[i].write ? VRING_DESC_F_WRITE : 0;

        if (fv_has(v, VIRTIO_F_RING_PACKED)) {
            write_desc(table + i * 16, &segs[i], 0, flags);
        } else {
            flags |= i + 1 < num ? VRING_DESC_F_NEXT : 0;
            write_desc(table + i * 16, &segs[i], flags, i + 1);
        }
    }
    segs[0] = (FvSeg) { .addr = table, .len = num * 16 };
    return 1;
}

static void split_add(FvQueue *q, FvSlot *s, const FvSeg *segs, uint16_t more)
{
    uint8_t *avail = fuzz_ram(avail_addr(s->queue));
    uint16_t id;

    s->id = q->free_id[q->num_free - 1];
    for (unsigned int i = 0; i < s->num_descs; i++) {
        bool last = i + 1 == s->num_descs;

        id = q->free_id[--q->num_free];
        q->next[id] = last ? 0 : q->free_id[q->num_free - 1];
        write_desc(desc_addr(s->queue) + id * 16, &segs[i],
                   more | (segs[i].write ? VRING_DESC_F_WRITE : 0) |
                   (last ? 0 : VRING_DESC_F_NEXT), q->next[id]);
    }
    stw_le_p(avail + 4 + q->avail_idx % FV_QUEUE_SIZE * 2, s->id);
    stw_le_p(avail + 2, ++q->avail_idx);
}

static void packed_add(FvQueue *q, FvSlot *s, const FvSeg *segs, uint16_t more)
{
    q->free_descs -= s->num_descs;
    s->id = q->free_id[--q->num_free];
    for (unsigned int i = 0; i < s->num_descs; i++) {
        uint16_t flags = more | (segs[i].write ? VRING_DESC_F_WRITE : 0);

        flags |= i + 1 < s->num_descs ? VRING_DESC_F_NEXT : 0;
        flags |= 1 << (q->avail_wrap ? VRING_PACKED_DESC_F_AVAIL
                                     : VRING_PACKED_DESC_F_USED);
        write_desc(desc_addr(s->queue) + q->avail_idx * 16, &segs[i], s->id,
                   flags);
        if (++q->avail_idx == FV_QUEUE_SIZE) {
            q->avail_idx = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
}

bool fv_add(Fv *v, FvSlot *s, FvSeg *segs, unsigned int num, bool indirect)
{
    FvQueue *q = &v->queue[s->queue];
    bool packed = fv_has(v, VIRTIO_F_RING_PACKED);
    unsigned int room = packed ? MIN(q->free_descs, q->num_free ? num : 0)
                               : q->num_free;
    uint16_t more = 0;

    indirect = indirect && fv_has(v, VIRTIO_RING_F_INDIRECT_DESC);
    if (!v->live || !q->enabled || room < (indirect ? 1 : num)) {
        return false;
    }
    if (indirect) {
        num = make_indirect(v, s, segs, num);
        more = VRING_DESC_F_INDIRECT;
    }
    s->num_descs = num;
    if (packed) {
        packed_add(q, s, segs, more);
    } else {
        split_add(q, s, segs, more);
    }
    q->owner[s->id] = s - v->slot;
    s->busy = true;
    s->order = ++v->clock;
    return true;
}

void fv_kick(Fv *v, unsigned int queue)
{
    fv_write(v, NOTIFY + queue * 4, queue, 2);
}

/* Returns: false if the device has used nothing more. */
static bool split_get(unsigned int queue, FvQueue *q, uint32_t *id,
                      uint32_t *len)
{
    const uint8_t *used = fuzz_ram(used_addr(queue));
    const uint8_t *elem = used + 4 + q->used_idx % FV_QUEUE_SIZE * 8;

    if (lduw_le_p(used + 2) == q->used_idx) {
        return false;
    }
    /* Pairs with the device's, before it says that this is used */
    smp_rmb();
    *id = ldl_le_p(elem);
    *len = ldl_le_p(elem + 4);
    q->used_idx++;
    return true;
}

static bool packed_get(unsigned int queue, FvQueue *q, uint32_t *id,
                       uint32_t *len)
{
    const uint8_t *desc = fuzz_ram(desc_addr(queue) + q->used_idx * 16);
    uint16_t flags = lduw_le_p(desc + 14);
    bool avail = flags & 1 << VRING_PACKED_DESC_F_AVAIL;
    bool used = flags & 1 << VRING_PACKED_DESC_F_USED;

    if (avail != used || used != q->used_wrap) {
        return false;
    }
    /* Pairs with the device's, before it says that this is used */
    smp_rmb();
    *id = lduw_le_p(desc + 12);
    *len = ldl_le_p(desc + 8);
    return true;
}

static void free_descs(Fv *v, FvQueue *q, FvSlot *s)
{
    uint16_t id = s->id;

    if (fv_has(v, VIRTIO_F_RING_PACKED)) {
        q->free_id[q->num_free++] = id;
        q->free_descs += s->num_descs;
        q->used_idx += s->num_descs;
        if (q->used_idx >= FV_QUEUE_SIZE) {
            q->used_idx -= FV_QUEUE_SIZE;
            q->used_wrap = !q->used_wrap;
        }
        return;
    }
    for (unsigned int i = 0; i < s->num_descs; i++) {
        q->free_id[q->num_free++] = id;
        id = q->next[id];
    }
}

static void reap_queue(Fv *v, unsigned int queue)
{
    FvQueue *q = &v->queue[queue];
    uint32_t id, len;

    while (fv_has(v, VIRTIO_F_RING_PACKED) ? packed_get(queue, q, &id, &len)
                                           : split_get(queue, q, &id, &len)) {
        FvSlot *s;

        FUZZ_CHECK(id < FV_QUEUE_SIZE);
        /* Else it is used twice, or was never there */
        FUZZ_CHECK(q->owner[id] >= 0);
        s = &v->slot[q->owner[id]];
        q->owner[id] = -1;
        free_descs(v, q, s);
        s->busy = false;
        s->used_order = ++v->clock;
        s->used_len = len;
        v->used(v, s);
        poison(v, s);
    }
}

void fv_reap(Fv *v)
{
    for (unsigned int i = 0; i < v->num_queues && !v->hostile; i++) {
        if (v->queue[i].enabled) {
            reap_queue(v, i);
        }
    }
}
