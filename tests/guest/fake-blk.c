// SPDX-License-Identifier: GPL-2.0-only
/*
 * A virtio-blk device without a host: the device's half of the virtqueues runs
 * in a kernel thread of the same guest, on a disk of vmalloc()ed memory. It does
 * what a real device does only when everything goes wrong, on command. For
 * testing drivers; of the virtio core it uses what any transport does.
 *
 * Parameters that change at run time say what goes wrong (true for all
 * virtqueues, and from the next request on):
 *
 *   hold         reads, writes and flushes stay with the device
 *   cancel       what is done about a CANCEL:
 *                  obey    its target is used with S_CANCELED
 *                  refuse  S_NOT_CANCELED
 *                  race    its target completes as if nothing had been asked
 *                  ignore  it is never used
 *                  lie     S_OK, and the target is kept
 *                  unsupp  S_UNSUPP
 *                  odd     a status that does not exist
 *   slow         milliseconds that flushes, discards and write zeroes take
 *   mute         used buffers are not announced
 *   deaf         as many notifications get lost
 *   status       added to the device status that the driver reads: 64 is
 *                NEEDS_RESET, 255 a device that is gone for good, whatever is
 *                written here later; a reset takes 64 away. While it is 255 the
 *                configuration reads as 0xff as well
 *   config       writing to it announces a change of the configuration
 *   suspend      writing to it suspends the driver and resumes it
 *   bad_used     the next buffer is used under a wrong name
 *   broken       writing to it breaks all virtqueues, as a bus does that misses
 *                the device
 *   sectors      the capacity
 *   poison       the sector whose requests make the device need a reset
 *   no_vqs       as often there is no virtqueue to be had
 *   offer        how many virtqueues it says that it has
 *   bus_reset    writing to it resets the device as a bus does
 *   reset_ms     milliseconds that a reset takes
 *   bad_reports  as many reports of zones fail
 *   submit       writing "WHAT DISK" to it does to a disk what no program can:
 *                  append    a zone append, which never succeeds here
 *                  report    a report of zones
 *                  failfast  two reads that are one request, both failfast
 *                  mixed     the same, but one is not
 *                  geometry  asks for it
 *                  freeze    its queue, until "thaw -"
 *                reading gives what became of it, "errno sector"; "-" before
 *
 * What it has seen, for reading: cancels, resets, held, busy (requests with the
 * device), largest (discard or write zeroes, in sectors), wce, queues, early
 * (notifications while the driver is not ready, and questions while the device is
 * being reset), poisoned (requests).
 */
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/hdreg.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <uapi/linux/virtio_blk.h>
#include <uapi/linux/virtio_ids.h>

#define MAX_QUEUES	8
#define MAX_SEGS	126
#define NAME		"fake"
#define MAX_CLEAR	4194303		/* sectors, as QEMU has it */
#define ZONE_SECTORS	8192
#define NO_SECTOR	0xbadbadbadULL	/* of an append that fails */

/* As on the wire; spelled out, so that the module builds with any header */
#define F_CANCEL	50
#define T_CANCEL	28
#define S_CANCELED	7
#define S_NOT_CANCELED	8

struct header {
	__le32 type;
	__le32 reserved;
	__le64 sector;
	__le64 tag;
};

struct buffer {
	void *data;
	u32 len;
};

/* A request that the device has taken out of the available ring */
struct fake_req {
	struct list_head node;		/* in fake_vq.held */
	u16 head;
	bool slow;			/* takes until it is due, hold or not */
	unsigned long due;		/* in jiffies */
	struct header hdr;
	u8 *status;
	void *trailer;			/* the buffer that the status ends */
	unsigned int num_bufs;
	struct buffer bufs[MAX_SEGS];
};

struct fake_vq {
	struct virtqueue *vq;		/* NULL while there is none */
	const struct vring *vring;
	u16 last_avail;
	struct list_head held;
};

static struct {
	struct virtio_device vdev;
	struct device *parent;
	struct virtio_blk_config config;
	struct workqueue_struct *wq;	/* one worker is the device */
	struct work_struct work;
	struct delayed_work later;	/* kicks it when something slow is due */

	/* What follows is under the lock */
	struct mutex lock;
	u8 status;
	bool resetting;			/* nobody else is to touch the device */
	void *disk;
	struct fake_vq vqs[MAX_QUEUES];
} fake;

static unsigned int features_off;
module_param(features_off, uint, 0444);	/* 1: CANCEL, 2: INDIRECT_DESC */
static bool in_order;
module_param(in_order, bool, 0444);
static unsigned int queues = 1;
module_param(queues, uint, 0444);
static unsigned int size = 128;
module_param(size, uint, 0444);
static unsigned long disk_sectors = 32768;
module_param(disk_sectors, ulong, 0444);

static bool mute;
module_param(mute, bool, 0644);
static ulong poison = ULONG_MAX;
module_param(poison, ulong, 0644);
static bool zoned;
module_param(zoned, bool, 0444);
static uint slow, deaf, bad_used, no_vqs, bad_reports, reset_ms;
module_param(reset_ms, uint, 0644);
module_param(no_vqs, uint, 0644);
module_param(bad_reports, uint, 0644);
module_param(slow, uint, 0644);
module_param(deaf, uint, 0644);
module_param(bad_used, uint, 0644);
static uint cancels, resets, held, busy, largest, early, poisoned;
module_param(early, uint, 0444);
module_param(poisoned, uint, 0444);
module_param(cancels, uint, 0444);
module_param(resets, uint, 0444);
module_param(held, uint, 0444);
module_param(busy, uint, 0444);
module_param(largest, uint, 0444);

static const char * const cancel_names[] = {
	"obey", "refuse", "race", "ignore", "lie", "unsupp", "odd"
};
static enum { OBEY, REFUSE, RACE, IGNORE, LIE, UNSUPP, ODD } cancel;

static int cancel_set(const char *val, const struct kernel_param *kp)
{
	int i = sysfs_match_string(cancel_names, val);

	if (i < 0)
		return i;
	cancel = i;
	return 0;
}

static int cancel_get(char *buf, const struct kernel_param *kp)
{
	return sprintf(buf, "%s\n", cancel_names[cancel]);
}

static const struct kernel_param_ops cancel_ops = {
	.set = cancel_set, .get = cancel_get
};
module_param_cb(cancel, &cancel_ops, NULL, 0644);

static void kick(void)
{
	if (fake.wq)
		queue_work(fake.wq, &fake.work);
}

static bool hold;

static int hold_set(const char *val, const struct kernel_param *kp)
{
	int err = param_set_bool(val, kp);

	kick();
	return err;
}

static const struct kernel_param_ops hold_ops = {
	.set = hold_set, .get = param_get_bool
};
module_param_cb(hold, &hold_ops, &hold, 0644);

#define STATUS_GONE	0xff

static u8 wrong_status;

/* What was taken from the driver is not touched any more. */
static void forget(void)
{
	struct fake_req *req, *next;
	unsigned int i;

	lockdep_assert_held(&fake.lock);
	for (i = 0; i < MAX_QUEUES; i++) {
		if (!fake.vqs[i].vq)
			continue;
		list_for_each_entry_safe(req, next, &fake.vqs[i].held, node) {
			list_del(&req->node);
			kfree(req);
		}
	}
	held = 0;
	busy = 0;
	fake.status = 0;
}

static int status_set(const char *val, const struct kernel_param *kp)
{
	int err;

	mutex_lock(&fake.lock);
	err = param_set_byte(val, kp);
	if (wrong_status == STATUS_GONE)
		forget();
	mutex_unlock(&fake.lock);
	kick();
	return err;
}

static const struct kernel_param_ops status_ops = {
	.set = status_set, .get = param_get_byte
};
module_param_cb(status, &status_ops, &wrong_status, 0644);

static int config_set(const char *val, const struct kernel_param *kp)
{
	virtio_config_changed(&fake.vdev);
	return 0;
}

static const struct kernel_param_ops config_ops = { .set = config_set };
module_param_cb(config, &config_ops, NULL, 0200);

static int suspend_set(const char *val, const struct kernel_param *kp)
{
	return virtio_device_freeze(&fake.vdev) ?:
	       virtio_device_restore(&fake.vdev);
}

static const struct kernel_param_ops suspend_ops = { .set = suspend_set };
module_param_cb(suspend, &suspend_ops, NULL, 0200);

static int broken_set(const char *val, const struct kernel_param *kp)
{
	virtio_break_device(&fake.vdev);
	return 0;
}

static const struct kernel_param_ops broken_ops = { .set = broken_set };
module_param_cb(broken, &broken_ops, NULL, 0200);

static int sectors_set(const char *val, const struct kernel_param *kp)
{
	unsigned long sectors;
	int err = kstrtoul(val, 0, &sectors);

	if (err)
		return err;
	if (sectors > disk_sectors)
		return -EINVAL;
	fake.config.capacity = cpu_to_virtio64(&fake.vdev, sectors);
	return 0;
}

static const struct kernel_param_ops sectors_ops = { .set = sectors_set };
module_param_cb(sectors, &sectors_ops, NULL, 0200);

static int offer_set(const char *val, const struct kernel_param *kp)
{
	u16 num;
	int err = kstrtou16(val, 0, &num);

	if (!err)
		fake.config.num_queues = cpu_to_virtio16(&fake.vdev, num);
	return err;
}

static const struct kernel_param_ops offer_ops = { .set = offer_set };
module_param_cb(offer, &offer_ops, NULL, 0200);

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
static int bus_reset_set(const char *val, const struct kernel_param *kp)
{
	return virtio_device_reset_prepare(&fake.vdev) ?:
	       virtio_device_reset_done(&fake.vdev);
}

static const struct kernel_param_ops bus_reset_ops = { .set = bus_reset_set };
module_param_cb(bus_reset, &bus_reset_ops, NULL, 0200);
#endif

/* What "submit" has under way */
static struct {
	struct file *file;
	void *data;
	atomic_t bios;
	blk_status_t status;		/* of the last that failed */
	sector_t sector;		/* where the last one says that it was */
} submitted;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
static void submitted_end(struct bio *bio)
{
	if (bio->bi_status)
		submitted.status = bio->bi_status;
	submitted.sector = bio->bi_iter.bi_sector;
	bio_put(bio);
	if (!atomic_dec_and_test(&submitted.bios))
		return;
	fput(submitted.file);
	kfree(submitted.data);
}

static void submit(struct block_device *bdev, blk_opf_t opf, sector_t sector)
{
	struct bio *bio = bio_alloc(bdev, 1, opf, GFP_KERNEL);

	bio->bi_iter.bi_sector = sector;
	bio->bi_end_io = submitted_end;
	__bio_add_page(bio, virt_to_page(submitted.data), PAGE_SIZE,
		       offset_in_page(submitted.data));
	submit_bio(bio);
}

static int ignore_zone(struct blk_zone *zone, unsigned int idx, void *data)
{
	return 0;
}

/* Whether what was to be done is of this kind; *err says what became of it. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
static struct request_queue *frozen;

static bool done_otherwise(const char *what, struct gendisk *disk, int *err)
{
	struct hd_geometry geometry;

	if (!strcmp(what, "geometry")) {
		*err = disk->fops->getgeo(disk, &geometry);
	} else if (!strcmp(what, "freeze")) {
		frozen = disk->queue;
		blk_freeze_queue_start_non_owner(frozen);
		blk_mq_freeze_queue_wait(frozen);
	} else {
		return false;
	}
	return true;
}

static void thaw(void)
{
	blk_mq_unfreeze_queue_non_owner(frozen);
}
#else
static bool done_otherwise(const char *what, struct gendisk *disk, int *err)
{
	return false;
}

static void thaw(void)
{
}
#endif

static int submit_set(const char *val, const struct kernel_param *kp)
{
	struct block_device *bdev;
	char what[12], path[32];
	struct blk_plug plug;
	int err;

	if (sscanf(val, "%11s %31s", what, path) != 2)
		return -EINVAL;
	if (!strcmp(what, "thaw")) {
		thaw();
		return 0;
	}
	if (atomic_read(&submitted.bios))
		return -EBUSY;
	submitted.status = BLK_STS_OK;
	submitted.file = bdev_file_open_by_path(path, BLK_OPEN_READ |
						BLK_OPEN_WRITE, NULL, NULL);
	if (IS_ERR(submitted.file))
		return PTR_ERR(submitted.file);
	bdev = file_bdev(submitted.file);

	err = 0;
	if (done_otherwise(what, bdev->bd_disk, &err)) {
		fput(submitted.file);
		return err;
	}
	if (!strcmp(what, "report")) {
		err = blkdev_report_zones(bdev, 0, 1, ignore_zone, NULL);
		fput(submitted.file);
		return min(err, 0);
	}

	submitted.data = kzalloc(PAGE_SIZE, GFP_KERNEL | __GFP_NOFAIL);
	atomic_set(&submitted.bios, !strcmp(what, "append") ? 1 : 2);
	blk_start_plug(&plug);
	if (!strcmp(what, "append")) {
		submit(bdev, REQ_OP_ZONE_APPEND, 0);
	} else {
		submit(bdev, REQ_OP_READ | REQ_FAILFAST_DEV, 0);
		submit(bdev, REQ_OP_READ | (strcmp(what, "mixed") ?
					    REQ_FAILFAST_DEV : 0),
		       PAGE_SIZE / 512);
	}
	blk_finish_plug(&plug);
	return 0;
}
#else
static int submit_set(const char *val, const struct kernel_param *kp)
{
	return -EOPNOTSUPP;
}
#endif

static int submit_get(char *buf, const struct kernel_param *kp)
{
	if (atomic_read(&submitted.bios))
		return sprintf(buf, "-\n");
	return sprintf(buf, "%d %llu\n",
		       -blk_status_to_errno(submitted.status),
		       (unsigned long long)submitted.sector);
}

static const struct kernel_param_ops submit_ops = {
	.set = submit_set, .get = submit_get
};
module_param_cb(submit, &submit_ops, NULL, 0644);

static int wce_get(char *buf, const struct kernel_param *kp)
{
	return sprintf(buf, "%u\n", fake.config.wce);
}

static const struct kernel_param_ops wce_ops = { .get = wce_get };
module_param_cb(wce, &wce_ops, NULL, 0444);

/* --- The device's half of a virtqueue -------------------------------------- */

static void *map(__virtio64 addr)
{
	return phys_to_virt(virtio64_to_cpu(&fake.vdev, addr));
}

/* Take the next request; NULL if there is none. */
static struct fake_req *fetch(struct fake_vq *vq)
{
	const struct vring *ring = vq->vring;
	const struct vring_desc *table = ring->desc, *desc;
	unsigned int hdr_len = 0, i;
	struct fake_req *req;

	if (vq->last_avail == virtio16_to_cpu(&fake.vdev, READ_ONCE(ring->avail->idx)))
		return NULL;
	/* The ring is read after the index that says how far it is filled. */
	virt_rmb();

	req = kzalloc(sizeof(*req), GFP_KERNEL | __GFP_NOFAIL);
	i = vq->last_avail++ % ring->num;
	req->head = virtio16_to_cpu(&fake.vdev, ring->avail->ring[i]);

	desc = &table[req->head];
	if (virtio16_to_cpu(&fake.vdev, desc->flags) & VRING_DESC_F_INDIRECT) {
		table = map(desc->addr);
		desc = table;
	}
	for (;;) {
		u16 flags = virtio16_to_cpu(&fake.vdev, desc->flags);
		u32 len = virtio32_to_cpu(&fake.vdev, desc->len);

		if (!hdr_len) {
			hdr_len = len;
			memcpy(&req->hdr, map(desc->addr),
			       min_t(size_t, len, sizeof(req->hdr)));
		} else if (!(flags & VRING_DESC_F_NEXT)) {
			req->trailer = map(desc->addr);
			req->status = req->trailer + len - 1;
		} else if (!WARN_ON(req->num_bufs == MAX_SEGS)) {
			req->bufs[req->num_bufs].data = map(desc->addr);
			req->bufs[req->num_bufs++].len = len;
		}
		if (!(flags & VRING_DESC_F_NEXT))
			break;
		desc = &table[virtio16_to_cpu(&fake.vdev, desc->next)];
	}
	WARN_ON(hdr_len != (features_off & 1 ||
			    !virtio_has_feature(&fake.vdev, F_CANCEL) ? 16 : 24));
	busy++;
	return req;
}

/* Put the request into the used ring, and forget it. */
static void use(struct fake_vq *vq, struct fake_req *req, u8 status)
{
	const struct vring *ring = vq->vring;
	u16 idx = virtio16_to_cpu(&fake.vdev, ring->used->idx);
	u32 id = req->head;

	if (bad_used) {
		bad_used--;
		id = ring->num;
	}
	*req->status = status;
	ring->used->ring[idx % ring->num].id = cpu_to_virtio32(&fake.vdev, id);
	/* Does not cover the status of a read: the driver is not to go by it. */
	ring->used->ring[idx % ring->num].len = cpu_to_virtio32(&fake.vdev, 1);
	/* The index says that all before it has been written. */
	virt_wmb();
	WRITE_ONCE(ring->used->idx, cpu_to_virtio16(&fake.vdev, idx + 1));
	busy--;
	kfree(req);
}

static void announce(struct fake_vq *vq)
{
	if (!mute)
		vring_interrupt(0, vq->vq);
}

/* Discard or write zeroes, which both leave zeroes. */
static u8 clear(struct fake_req *req)
{
	struct virtio_blk_discard_write_zeroes *range = req->bufs[0].data;
	unsigned int i, n = req->bufs[0].len / sizeof(*range);

	for (i = 0; i < n; i++) {
		u64 sector = le64_to_cpu(range[i].sector);
		u32 num = le32_to_cpu(range[i].num_sectors);

		if (sector + num > disk_sectors)
			return VIRTIO_BLK_S_IOERR;
		largest = max(largest, num);
		memset(fake.disk + sector * 512, 0, (size_t)num * 512);
	}
	return VIRTIO_BLK_S_OK;
}

#ifdef VIRTIO_BLK_F_ZONED
static bool is_zoned(void)
{
	return zoned;
}

/* All zones are empty, whatever was written. */
static u8 report_zones(struct fake_req *req)
{
	unsigned int first = le64_to_cpu(req->hdr.sector) / ZONE_SECTORS;
	unsigned int num = disk_sectors / ZONE_SECTORS - first, i;
	struct virtio_blk_zone_report *report;
	size_t len = struct_size(report, zones, num), done;

	if (bad_reports) {
		bad_reports--;
		return VIRTIO_BLK_S_IOERR;
	}
	report = kzalloc(len, GFP_KERNEL | __GFP_NOFAIL);
	report->nr_zones = cpu_to_virtio64(&fake.vdev, num);
	for (i = 0; i < num; i++) {
		u64 start = (u64)(first + i) * ZONE_SECTORS;

		report->zones[i].z_cap = cpu_to_virtio64(&fake.vdev,
							 ZONE_SECTORS);
		report->zones[i].z_start = cpu_to_virtio64(&fake.vdev, start);
		report->zones[i].z_wp = cpu_to_virtio64(&fake.vdev, start);
		report->zones[i].z_type = VIRTIO_BLK_ZT_SWR;
		report->zones[i].z_state = VIRTIO_BLK_ZS_EMPTY;
	}
	for (i = 0, done = 0; i < req->num_bufs && done < len; i++) {
		size_t n = min_t(size_t, len - done, req->bufs[i].len);

		memcpy(req->bufs[i].data, (void *)report + done, n);
		done += n;
	}
	kfree(report);
	return VIRTIO_BLK_S_OK;
}

static void set_zones(struct virtio_blk_config *config)
{
	config->zoned.zone_sectors = cpu_to_virtio32(&fake.vdev, ZONE_SECTORS);
	config->zoned.max_append_sectors = cpu_to_virtio32(&fake.vdev, 8);
	config->zoned.write_granularity = cpu_to_virtio32(&fake.vdev, 512);
	config->zoned.model = VIRTIO_BLK_Z_HM;
}
#else
#define VIRTIO_BLK_F_ZONED		17
#define VIRTIO_BLK_T_ZONE_APPEND	15
#define VIRTIO_BLK_T_ZONE_REPORT	16

static bool is_zoned(void)
{
	return false;
}

static u8 report_zones(struct fake_req *req)
{
	return VIRTIO_BLK_S_UNSUPP;
}

static void set_zones(struct virtio_blk_config *config)
{
}
#endif

static bool takes_long(u32 type)
{
	return type == VIRTIO_BLK_T_FLUSH || type == VIRTIO_BLK_T_DISCARD ||
	       type == VIRTIO_BLK_T_WRITE_ZEROES;
}

static u8 execute(struct fake_req *req)
{
	u32 type = le32_to_cpu(req->hdr.type);
	u64 sector = le64_to_cpu(req->hdr.sector);
	unsigned int i;

	if (type == VIRTIO_BLK_T_FLUSH)
		return VIRTIO_BLK_S_OK;
	if (type == VIRTIO_BLK_T_GET_ID) {
		strscpy_pad(req->bufs[0].data, NAME, req->bufs[0].len);
		return VIRTIO_BLK_S_OK;
	}
	if (type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES)
		return clear(req);
	if (type == VIRTIO_BLK_T_ZONE_REPORT)
		return report_zones(req);
	if (type == VIRTIO_BLK_T_ZONE_APPEND) {
		/* Whatever the driver takes for the place is wrong. */
		*(__le64 *)req->trailer = cpu_to_le64(NO_SECTOR);
		return VIRTIO_BLK_S_IOERR;
	}
	if (type > VIRTIO_BLK_T_OUT)
		return VIRTIO_BLK_S_UNSUPP;

	for (i = 0; i < req->num_bufs; i++) {
		u32 len = req->bufs[i].len;

		if (sector + len / 512 > disk_sectors)
			return VIRTIO_BLK_S_IOERR;
		if (type == VIRTIO_BLK_T_IN)
			memcpy(req->bufs[i].data, fake.disk + sector * 512, len);
		else
			memcpy(fake.disk + sector * 512, req->bufs[i].data, len);
		sector += len / 512;
	}
	return VIRTIO_BLK_S_OK;
}

static void do_cancel(struct fake_vq *vq, struct fake_req *req)
{
	struct fake_req *r, *target = NULL;

	cancels++;
	list_for_each_entry(r, &vq->held, node) {
		if (r->hdr.tag == req->hdr.tag)
			target = r;
	}
	if (cancel == IGNORE) {
		list_add_tail(&req->node, &vq->held);
		return;
	}
	if (target && (cancel == OBEY || cancel == RACE)) {
		u8 status = cancel == OBEY ? S_CANCELED : execute(target);

		list_del(&target->node);
		held--;
		use(vq, target, status);
	}
	use(vq, req, cancel == REFUSE ? S_NOT_CANCELED :
		     cancel == UNSUPP ? VIRTIO_BLK_S_UNSUPP :
		     cancel == ODD ? 77 : VIRTIO_BLK_S_OK);
}

static void serve(struct fake_vq *vq)
{
	struct fake_req *req, *next;
	bool used = false;

	while (!wrong_status && (req = fetch(vq))) {
		u32 type = le32_to_cpu(req->hdr.type);

		if (type <= VIRTIO_BLK_T_OUT &&
		    le64_to_cpu(req->hdr.sector) == poison) {
			poisoned++;
			list_add_tail(&req->node, &vq->held);
			held++;
			wrong_status = VIRTIO_CONFIG_S_NEEDS_RESET;
			virtio_config_changed(&fake.vdev);
			break;
		} else if (type == T_CANCEL) {
			do_cancel(vq, req);
		} else if (slow && takes_long(type)) {
			req->slow = true;
			req->due = jiffies + msecs_to_jiffies(slow);
			list_add_tail(&req->node, &vq->held);
			held++;
			schedule_delayed_work(&fake.later,
					      msecs_to_jiffies(slow) + 1);
			continue;
		} else if (hold && type <= VIRTIO_BLK_T_FLUSH) {
			list_add_tail(&req->node, &vq->held);
			held++;
			continue;
		} else {
			use(vq, req, execute(req));
		}
		used = true;
	}
	list_for_each_entry_safe(req, next, &vq->held, node) {
		if (wrong_status)
			break;
		if (req->slow && time_before(jiffies, req->due)) {
			schedule_delayed_work(&fake.later,
					      req->due - jiffies + 1);
			continue;
		}
		if (hold && !req->slow)
			continue;
		list_del(&req->node);
		if (le32_to_cpu(req->hdr.type) == T_CANCEL) {
			use(vq, req, VIRTIO_BLK_S_OK);
		} else {
			held--;
			use(vq, req, execute(req));
		}
		used = true;
	}
	if (used)
		announce(vq);
}

/* Owns the rings' device side while it runs; the lock keeps a reset away. */
static void work_fn(struct work_struct *work)
{
	unsigned int i;

	mutex_lock(&fake.lock);
	for (i = 0; i < MAX_QUEUES; i++) {
		if (fake.status & VIRTIO_CONFIG_S_DRIVER_OK && !wrong_status &&
		    fake.vqs[i].vq)
			serve(&fake.vqs[i]);
	}
	mutex_unlock(&fake.lock);
}

static void later_fn(struct work_struct *work)
{
	kick();
}

/* --- The transport ----------------------------------------------------------- */

static void fake_get(struct virtio_device *vdev, unsigned int offset, void *buf,
		     unsigned int len)
{
	if (READ_ONCE(fake.resetting))
		early++;
	if (wrong_status == STATUS_GONE)
		memset(buf, 0xff, len);
	else
		memcpy(buf, (void *)&fake.config + offset, len);
}

static void fake_set(struct virtio_device *vdev, unsigned int offset,
		     const void *buf, unsigned int len)
{
	if (wrong_status != STATUS_GONE)
		memcpy((void *)&fake.config + offset, buf, len);
}

static u8 fake_get_status(struct virtio_device *vdev)
{
	if (READ_ONCE(fake.resetting))
		early++;
	/* There are buses that take their time, and others run meanwhile. */
	if (wrong_status)
		msleep(20);
	return fake.status | wrong_status;
}

static void fake_set_status(struct virtio_device *vdev, u8 status)
{
	mutex_lock(&fake.lock);
	fake.status = status & ~wrong_status;
	mutex_unlock(&fake.lock);

	if (status & VIRTIO_CONFIG_S_DRIVER_OK)
		kick();
}

static void fake_reset(struct virtio_device *vdev)
{
	mutex_lock(&fake.lock);
	resets++;
	forget();
	if (wrong_status == VIRTIO_CONFIG_S_NEEDS_RESET)
		wrong_status = 0;
	fake.config.wce = 1;
	mutex_unlock(&fake.lock);
	if (reset_ms) {
		WRITE_ONCE(fake.resetting, true);
		msleep(reset_ms);
		WRITE_ONCE(fake.resetting, false);
	}
}

static bool fake_notify(struct virtqueue *vq)
{
	if (!(READ_ONCE(fake.status) & VIRTIO_CONFIG_S_DRIVER_OK))
		early++;
	if (deaf)
		deaf--;
	else
		kick();
	return true;
}

static void fake_del_vqs(struct virtio_device *vdev)
{
	unsigned int i;

	mutex_lock(&fake.lock);
	for (i = 0; i < MAX_QUEUES; i++) {
		if (fake.vqs[i].vq)
			vring_del_virtqueue(fake.vqs[i].vq);
		fake.vqs[i].vq = NULL;
	}
	mutex_unlock(&fake.lock);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static int fake_find_vqs(struct virtio_device *vdev, unsigned int nvqs,
			 struct virtqueue *vqs[], vq_callback_t *callbacks[],
			 const char * const names[], const bool *ctx,
			 struct irq_affinity *desc)
#define VQ_CALLBACK(i)	callbacks[i]
#define VQ_NAME(i)	names[i]
#else
static int fake_find_vqs(struct virtio_device *vdev, unsigned int nvqs,
			 struct virtqueue *vqs[],
			 struct virtqueue_info vqs_info[],
			 struct irq_affinity *desc)
#define VQ_CALLBACK(i)	vqs_info[i].callback
#define VQ_NAME(i)	vqs_info[i].name
#endif
{
	unsigned int i;

	if (no_vqs) {
		no_vqs--;
		return -ENOENT;
	}
	for (i = 0; i < nvqs; i++) {
		struct virtqueue *vq;

		vq = vring_create_virtqueue(i, size, PAGE_SIZE, vdev, true, false,
					    false, fake_notify, VQ_CALLBACK(i),
					    VQ_NAME(i));
		if (!vq) {
			fake_del_vqs(vdev);
			return -ENOMEM;
		}
		mutex_lock(&fake.lock);
		INIT_LIST_HEAD(&fake.vqs[i].held);
		fake.vqs[i].last_avail = 0;
		fake.vqs[i].vring = virtqueue_get_vring(vq);
		fake.vqs[i].vq = vq;
		mutex_unlock(&fake.lock);
		vqs[i] = vq;
	}
	return 0;
}

/* Interrupts come from the worker. */
static void fake_synchronize_cbs(struct virtio_device *vdev)
{
	flush_work(&fake.work);
}

static u64 fake_get_features(struct virtio_device *vdev)
{
	return BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_BLK_F_SEG_MAX) |
	       BIT_ULL(VIRTIO_BLK_F_FLUSH) | BIT_ULL(VIRTIO_BLK_F_MQ) |
	       BIT_ULL(VIRTIO_BLK_F_CONFIG_WCE) |
	       BIT_ULL(VIRTIO_BLK_F_DISCARD) |
	       BIT_ULL(VIRTIO_BLK_F_WRITE_ZEROES) |
	       BIT_ULL(VIRTIO_BLK_F_GEOMETRY) |
	       (in_order ? BIT_ULL(VIRTIO_F_IN_ORDER) : 0) |
	       (is_zoned() ? BIT_ULL(VIRTIO_BLK_F_ZONED) : 0) |
	       (features_off & 1 ? 0 : BIT_ULL(F_CANCEL)) |
	       (features_off & 2 ? 0 : BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC));
}

static int fake_finalize_features(struct virtio_device *vdev)
{
	vring_transport_features(vdev);
	return 0;
}

static const struct virtio_config_ops fake_ops = {
	.get = fake_get,
	.set = fake_set,
	.get_status = fake_get_status,
	.set_status = fake_set_status,
	.reset = fake_reset,
	.find_vqs = fake_find_vqs,
	.del_vqs = fake_del_vqs,
	.synchronize_cbs = fake_synchronize_cbs,
	.get_features = fake_get_features,
	.finalize_features = fake_finalize_features,
};

static void fake_release(struct device *dev)
{
}

static int __init fake_init(void)
{
	int err = -ENOMEM;

	mutex_init(&fake.lock);
	INIT_WORK(&fake.work, work_fn);
	INIT_DELAYED_WORK(&fake.later, later_fn);
	fake.config.capacity = cpu_to_virtio64(&fake.vdev, disk_sectors);
	fake.config.seg_max = cpu_to_virtio32(&fake.vdev, MAX_SEGS);
	fake.config.num_queues =
		cpu_to_virtio16(&fake.vdev, clamp(queues, 1, MAX_QUEUES));
	fake.config.wce = 1;
	fake.config.max_discard_sectors =
		cpu_to_virtio32(&fake.vdev, MAX_CLEAR);
	fake.config.max_discard_seg = cpu_to_virtio32(&fake.vdev, 1);
	fake.config.discard_sector_alignment = cpu_to_virtio32(&fake.vdev, 1);
	fake.config.max_write_zeroes_sectors =
		cpu_to_virtio32(&fake.vdev, MAX_CLEAR);
	fake.config.max_write_zeroes_seg = cpu_to_virtio32(&fake.vdev, 1);

	set_zones(&fake.config);

	fake.disk = vzalloc(disk_sectors * 512);
	if (!fake.disk)
		return err;
	fake.wq = alloc_workqueue("fake-blk", WQ_MEM_RECLAIM | WQ_UNBOUND, 1);
	if (!fake.wq)
		goto out_free;
	fake.parent = root_device_register("fake-blk");
	if (IS_ERR(fake.parent)) {
		err = PTR_ERR(fake.parent);
		goto out_destroy;
	}
	fake.vdev.id.device = VIRTIO_ID_BLOCK;
	fake.vdev.id.vendor = 0xffff;
	fake.vdev.config = &fake_ops;
	fake.vdev.dev.parent = fake.parent;
	fake.vdev.dev.release = fake_release;
	err = register_virtio_device(&fake.vdev);
	if (err)
		goto out_put;
	return 0;

out_put:
	put_device(&fake.vdev.dev);
	root_device_unregister(fake.parent);
out_destroy:
	destroy_workqueue(fake.wq);
out_free:
	vfree(fake.disk);
	return err;
}

static void __exit fake_exit(void)
{
	unregister_virtio_device(&fake.vdev);
	root_device_unregister(fake.parent);
	cancel_delayed_work_sync(&fake.later);
	destroy_workqueue(fake.wq);
	vfree(fake.disk);
}

module_init(fake_init);
module_exit(fake_exit);
MODULE_DESCRIPTION("A virtio-blk device that goes wrong on command, for tests");
MODULE_LICENSE("GPL");
