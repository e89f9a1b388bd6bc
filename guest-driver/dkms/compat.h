/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the driver of Linux 6.12 needs to be built for 6.8 and for 7.3: for kernels
 * of distributions that have no source package, or no series, of their own. It
 * is included before the driver, and knows what the driver does.
 *
 * A macro that is named like a function of the driver and has arguments changes
 * that function's definition; where the name stands alone, in a table, it is as
 * it was.
 */
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/hdreg.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
#include <linux/blk-mq-virtio.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 9, 0)

/* Virtqueues are described by two arrays. */
struct virtqueue_info {
	const char *name;
	vq_callback_t *callback;
};

static inline int virtblk_find_vqs(struct virtio_device *vdev, unsigned int nvqs,
				   struct virtqueue *vqs[],
				   struct virtqueue_info vqs_info[],
				   struct irq_affinity *desc)
{
	vq_callback_t **callbacks;
	const char **names;
	int err = -ENOMEM;
	unsigned int i;

	callbacks = kcalloc(nvqs, sizeof(*callbacks), GFP_KERNEL);
	names = kcalloc(nvqs, sizeof(*names), GFP_KERNEL);
	if (callbacks && names) {
		for (i = 0; i < nvqs; i++) {
			callbacks[i] = vqs_info[i].callback;
			names[i] = vqs_info[i].name;
		}
		err = virtio_find_vqs(vdev, nvqs, vqs, callbacks, names, desc);
	}
	kfree(names);
	kfree(callbacks);
	return err;
}
#define virtio_find_vqs virtblk_find_vqs

/* A list of requests is a pointer. */
struct rq_list {
	struct request *head, *tail;
};

#undef rq_list_pop
static inline struct request *rq_list_pop(struct rq_list *list)
{
	struct request *req = list->head;

	if (req) {
		list->head = req->rq_next;
		req->rq_next = NULL;
	}
	return req;
}

#undef rq_list_add_tail
static inline void rq_list_add_tail(struct rq_list *list, struct request *req)
{
	req->rq_next = NULL;
	if (list->head)
		list->tail->rq_next = req;
	else
		list->head = req;
	list->tail = req;
}

static void virtblk_queue_list(struct rq_list *rqlist);

static void virtio_queue_rqs(struct request **rqlist)
{
	struct rq_list list = { *rqlist };

	virtblk_queue_list(&list);
	*rqlist = list.head;
}
#define virtio_queue_rqs(rqlist) virtblk_queue_list(rqlist)

/* Limits of a queue are set one by one, and what is in "features" elsewhere. */
struct virtblk_limits {
	unsigned int features;
	unsigned int logical_block_size, physical_block_size, alignment_offset;
	unsigned int io_min, io_opt;
	unsigned int max_hw_sectors, max_segment_size;
	unsigned int max_hw_discard_sectors, max_user_discard_sectors;
	unsigned int discard_granularity;
	unsigned int max_secure_erase_sectors, max_write_zeroes_sectors;
	unsigned int chunk_sectors, max_zone_append_sectors;
	unsigned int max_open_zones, max_active_zones;
	unsigned short max_segments, max_discard_segments;
};

#define BLK_FEAT_ROTATIONAL	0
#define BLK_FEAT_WRITE_CACHE	1
#define BLK_FEAT_ZONED		2

static inline void virtblk_set_limits(struct gendisk *disk,
				      const struct virtblk_limits *lim)
{
	struct request_queue *q = disk->queue;

	blk_queue_write_cache(q, lim->features & BLK_FEAT_WRITE_CACHE, false);
	blk_queue_max_segments(q, lim->max_segments);
	blk_queue_max_hw_sectors(q, lim->max_hw_sectors);
	blk_queue_max_segment_size(q, lim->max_segment_size);
	blk_queue_logical_block_size(q, lim->logical_block_size);
	if (lim->physical_block_size)
		blk_queue_physical_block_size(q, lim->physical_block_size);
	if (lim->alignment_offset)
		blk_queue_alignment_offset(q, lim->alignment_offset);
	if (lim->io_min)
		blk_queue_io_min(q, lim->io_min);
	if (lim->io_opt)
		blk_queue_io_opt(q, lim->io_opt);
	blk_queue_max_discard_sectors(q, lim->max_hw_discard_sectors);
	blk_queue_max_secure_erase_sectors(q, lim->max_secure_erase_sectors);
	blk_queue_max_write_zeroes_sectors(q, lim->max_write_zeroes_sectors);
	if (lim->max_discard_segments)
		blk_queue_max_discard_segments(q, lim->max_discard_segments);
	if (lim->discard_granularity)
		q->limits.discard_granularity = lim->discard_granularity;
#ifdef CONFIG_BLK_DEV_ZONED
	if (lim->features & BLK_FEAT_ZONED) {
		disk_set_zoned(disk);
		blk_queue_flag_set(QUEUE_FLAG_ZONE_RESETALL, q);
		disk_set_max_open_zones(disk, lim->max_open_zones);
		disk_set_max_active_zones(disk, lim->max_active_zones);
		blk_queue_chunk_sectors(q, lim->chunk_sectors);
		blk_queue_max_zone_append_sectors(q,
						  lim->max_zone_append_sectors);
	}
#endif
}

#undef blk_mq_alloc_disk
#define blk_mq_alloc_disk(set, lim, queuedata)				\
({									\
	static struct lock_class_key __key;				\
	struct gendisk *__disk = ERR_PTR(-EINVAL);			\
									\
	if (!blk_validate_block_size((lim)->logical_block_size))	\
		__disk = __blk_mq_alloc_disk(set, queuedata, &__key);	\
	if (!IS_ERR(__disk))						\
		virtblk_set_limits(__disk, lim);			\
	__disk;								\
})

/* What the driver changes later: the cache mode, and the largest discard */
static inline struct virtblk_limits
queue_limits_start_update(struct request_queue *q)
{
	return (struct virtblk_limits) {
		.features = test_bit(QUEUE_FLAG_WC, &q->queue_flags) ?
			    BLK_FEAT_WRITE_CACHE : 0,
		.max_user_discard_sectors = q->limits.max_discard_sectors,
	};
}

static inline int queue_limits_commit_update(struct request_queue *q,
					     const struct virtblk_limits *lim)
{
	blk_queue_write_cache(q, lim->features & BLK_FEAT_WRITE_CACHE, false);
	q->limits.max_discard_sectors = min(lim->max_user_discard_sectors,
					    q->limits.max_hw_discard_sectors);
	return 0;
}
#define queue_limits_commit_update_frozen queue_limits_commit_update
#define queue_limits virtblk_limits

#define blk_revalidate_disk_zones(disk) blk_revalidate_disk_zones(disk, NULL)

/* The owner is not set by this function. */
#define register_virtio_driver(drv)					\
({									\
	(drv)->driver.owner = THIS_MODULE;				\
	register_virtio_driver(drv);					\
})

#elif LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)

#define BLK_MQ_F_SHOULD_MERGE	0
#define max_zone_append_sectors	max_hw_zone_append_sectors
#define blk_mq_freeze_queue	blk_mq_freeze_queue_nomemsave
#define blk_mq_unfreeze_queue	blk_mq_unfreeze_queue_nomemrestore
#define blk_rq_map_sg(q, req, sgl) blk_rq_map_sg(req, sgl)
#define blk_rq_map_kern(q, req, data, len, gfp)				\
	blk_rq_map_kern(req, data, len, gfp)
#define blk_mq_virtio_map_queues(map, vdev, first)			\
	blk_mq_map_hw_queues(map, &(vdev)->dev, first)

#undef alloc_workqueue
#define alloc_workqueue(name, flags, max)				\
	alloc_hooks(alloc_workqueue_noprof(name, (flags) | WQ_PERCPU, max))

/* The geometry is that of a disk, ... */
static int virtblk_bdev_getgeo(struct block_device *bd, struct hd_geometry *geo);

static int virtblk_getgeo(struct gendisk *disk, struct hd_geometry *geo)
{
	return virtblk_bdev_getgeo(disk->part0, geo);
}
#define virtblk_getgeo(bd, geo)	virtblk_bdev_getgeo(bd, geo)

/* ... and zones are reported to an object. */
#define report_zones_cb		struct blk_report_zones_args *
#define virtblk_report_zones(disk, sector, num, cb, data)		\
	virtblk_report_zones(disk, sector, num, cb)
#define virtblk_parse_zone(vblk, entry, i, cb, data)			\
	virtblk_parse_zone(vblk, entry, i, cb)
#define cb(zone, i, data)	disk_report_zone(vblk->disk, zone, i, cb)

#elif LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0) ||			\
	LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#error "nobody has tried this kernel"
#endif
