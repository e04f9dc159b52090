/* SPDX-License-Identifier: MIT */
/*
 * The parts of the blkif backend and what they share. Each uses only those before it, and the
 * files of worker/plane:
 *
 *   blk_disk.c     a file or block device; running one request on a disk
 *   blk_merge.c    neighbouring requests as one call to the disk
 *   blk_request.c  the only reader of what a guest wrote into a request
 *   blk_journal.c  what is in flight, in a file that outlives us
 *   blk_grants.c   addresses for the data: in pages kept mapped, or in bounce buffers
 *   blk_ring.c     taking requests, publishing responses; nothing else touches the ring
 *   blk_recover.c  taking a dead worker's journal up
 *   blk_engine.c   one batch from ring to ring
 *   blk_device.c   the life of a device: open, attach, run, detach, close
 *
 * Invariants:
 * - A request lives in requests[] from the moment it is taken until its response is published.
 * - With a journal, requests[n] belongs to entry n and responses are published as they come.
 *   Without, the request with ring index i is requests[i % slots] and responses are published in
 *   ring order, so all that is unanswered is still in the ring, from rsp_prod on.
 * - Hypervisor calls are made by the ring thread only.
 */
#ifndef XENBACKD_BLK_INTERNAL_H
#define XENBACKD_BLK_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "shared/native/barrier.h"
#include "worker/devices/block/native/blkif.h"
#include "worker/plane/bounce.h"
#include "worker/plane/clock.h"
#include "worker/plane/crash.h"
#include "worker/plane/grants.h"
#include "worker/plane/loop.h"
#include "worker/plane/pool.h"
#include "worker/plane/ring.h"
#include "blk_api.h"
#include "blk_journal.h"

/* Requests taken at a time: enough to spread the cost of a copy call, few enough to answer soon. */
#define BATCH_MAX 32u
/* Requests that can be under way with copied data; more wait in the ring. 44 KiB each. */
#define BOUNCE_MAX 64u
#define BOUNCE_BYTES (BLKIF_MAX_SEGMENTS * HV_PAGE_SIZE)
#define BATCH_SEGMENTS (BATCH_MAX * BLKIF_MAX_SEGMENTS)

enum request_state { REQUEST_FREE = 0, REQUEST_RUNNING, REQUEST_DONE };

struct segment {
    uint8_t *data; /* first byte of the segment here; NULL until the grants are resolved */
    uint32_t ref;
    uint16_t offset; /* bytes into the page */
    uint16_t length; /* bytes */
    bool bounced;
};

struct request {
    uint64_t id;
    uint64_t offset; /* bytes into the disk */
    uint64_t length; /* bytes */
    struct request *next; /* of those that ended */
    struct plane_job job; /* while a thread has it */
    int error;      /* errno of the disk, 0 on success; -1: ended before its length */
    int16_t status; /* BLKIF_RSP_* */
    uint8_t state;
    uint8_t operation;
    uint8_t segments;
    uint8_t vectors;
    int16_t bounce; /* index of its bounce buffer, or -1 */
    struct segment segment[BLKIF_MAX_SEGMENTS];
    struct iovec vector[BLKIF_MAX_SEGMENTS];
};

struct fd_disk {
    int fd;
    bool is_block;
    bool reads_never_block;
};

struct blk_dev {
    struct blk_config config;
    struct blk_disk disk;
    struct fd_disk fd_disk;
    struct blk_counters count; /* 0 where the plane counts: see blk_counters */
    const struct blkif_layout *layout;
    struct plane_ring ring;
    struct plane_loop loop;
    struct plane_pool pool;
    struct plane_grants grants;
    struct plane_bounce bounce;
    struct journal journal;
    struct request *requests;
    struct request *ended_head, *ended_tail; /* reads that wait for their copy to the guest */
    uint32_t pooled;                         /* requests in the hands of threads */
    bool attached;
    bool nowait_reads, nowait_writes;
    struct request poison; /* the last one */
    /* Copies of one batch, and whose they are. */
    struct hv_copy copy[BATCH_SEGMENTS];
    struct request *copy_owner[BATCH_SEGMENTS];
};

static inline bool moves_data(const struct request *request)
{
    return request->operation == BLKIF_OP_READ || request->operation == BLKIF_OP_WRITE;
}

/* Requests in the hands of the disk, the threads or this batch. */
static inline uint32_t running(const struct blk_dev *dev)
{
    return dev->ring.req_cons - dev->ring.rsp_prod - journal_held(&dev->journal);
}

static inline struct request *request_at(struct blk_dev *dev, uint32_t index)
{
    return &dev->requests[index & (dev->ring.slots - 1)];
}

/* blk_disk.c */
int fd_disk_open(struct fd_disk *disk, int fd, struct blk_disk *out);
int disk_run(const struct blk_disk *disk, struct request *request);

/* blk_merge.c */
uint32_t merge_length(const struct blk_dev *dev, struct request *const *batch, uint32_t count);
uint32_t merge_run(struct blk_dev *dev, struct request *const *batch, uint32_t count);

/* blk_request.c */
int16_t request_parse(struct blk_dev *dev, const uint8_t *untrusted, struct request *request);

/* blk_grants.c */
int grants_attach(struct blk_dev *dev, bool persistent);
void grants_prepare(struct blk_dev *dev, struct request **batch, uint32_t count);
void grants_finish_reads(struct blk_dev *dev);
void grants_release(struct blk_dev *dev, struct request *request);
bool grants_sealable(const struct blk_dev *dev);
int grants_detach(struct blk_dev *dev);

/* blk_ring.c */
int32_t ring_available(struct blk_dev *dev);
struct request *ring_take(struct blk_dev *dev);
void ring_publish_index(struct blk_dev *dev);
void ring_publish(struct blk_dev *dev);
void ring_notify_if_asked(struct blk_dev *dev);

/* blk_engine.c */
void *engine_serve(void *context);
uint32_t engine_step(struct blk_dev *dev, uint32_t available);
bool engine_may_take(const struct blk_dev *dev);

#endif
