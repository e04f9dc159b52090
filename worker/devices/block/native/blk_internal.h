/* SPDX-License-Identifier: MIT */
/*
 * The parts of the blkif backend and what they share.
 *
 *   blk_journal.c  what is in flight, in a file that outlives us
 *   blk_recover.c  taking a dead worker's journal up
 *   blk_ring.c     indices, taking requests, publishing responses; nothing else touches the ring
 *   blk_request.c  the only reader of what a guest wrote into a request
 *   blk_grants.c   guest pages: kept mapped, or copied through bounce buffers
 *   blk_disk.c     a file or block device; running one request on a disk
 *   blk_merge.c    neighbouring requests as one call to the disk
 *   blk_pool.c     threads for what blocks
 *   blk_engine.c   one batch from ring to ring; opening, attaching, detaching
 *   blk_run.c      the loop: serve, poll, sleep
 *
 * Invariants:
 * - rsp_prod <= req_cons <= rsp_prod + slots (modulo 2^32); both are ours, and the copies the
 *   guest can write are never read back after the attach.
 * - A request lives in requests[] from the moment it is taken until its response is published.
 * - With a journal, requests[n] belongs to entry n and responses are published as they come.
 *   Without, the request with ring index i is requests[i % slots] and responses are published in
 *   ring order, so whatever is unanswered still stands in the ring from rsp_prod on.
 * - Hypervisor calls are made by the ring thread only.
 */
#ifndef XENBACKD_BLK_INTERNAL_H
#define XENBACKD_BLK_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "shared/native/barrier.h"
#include "worker/devices/block/native/blkif.h"
#include "blk_api.h"
#include "blk_journal.h"

/* Requests taken at a time: enough to spread the cost of a copy call, short enough to answer soon. */
#define BATCH_MAX 32u
/* Requests that can be under way with copied data; more wait in the ring. 44 KiB each. */
#define BOUNCE_MAX 64u
#define BOUNCE_BYTES (BLKIF_MAX_SEGMENTS * HV_PAGE_SIZE)
#define BATCH_SEGMENTS (BATCH_MAX * BLKIF_MAX_SEGMENTS)
#define BLK_WAKE_MAX 8u

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
    struct request *next;
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

struct ring {
    uint8_t *shared;
    const struct blkif_layout *layout;
    uint32_t slots;
    uint32_t req_cons;
    uint32_t rsp_prod;
    uint32_t notified; /* rsp_prod when it was last checked whether the guest wants an event */
    uint32_t port;
    uint32_t untrusted_req_prod; /* as last seen, for the report of a fault */
};

struct grant_entry {
    uint32_t ref;
    bool used;
    uint8_t *page; /* NULL: could not be mapped; goes by copy */
};

struct grant_area {
    void *address;
    uint32_t count;
};

struct grants {
    bool persistent;
    bool sealed; /* nothing is mapped or copied any more */
    uint32_t limit;
    uint32_t mask;    /* entries of the table - 1 */
    uint32_t entries; /* used ones */
    uint32_t mapped;
    struct grant_entry *table;
    struct grant_area *areas;
    uint32_t area_count;
    uint8_t *bounce;
    bool bounce_used;
    uint32_t bounce_free;
    int16_t bounce_stack[BOUNCE_MAX];
    /* Scratch of one batch. */
    struct hv_copy copy[BATCH_SEGMENTS];
    struct request *copy_owner[BATCH_SEGMENTS];
    uint32_t missing[BATCH_SEGMENTS];
    int16_t status[BATCH_SEGMENTS];
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct request *head, *tail; /* jobs; under the lock */
    uint32_t queued, idle, threads, limit;
    bool stop;
    pthread_t *thread;
    struct request *done; /* stack, atomic */
    uint32_t sleeping;    /* atomic: the ring thread waits on the eventfd */
    int event;
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
    struct blk_counters count;
    struct ring ring;
    struct grants grants;
    struct pool pool;
    struct journal journal;
    struct request *requests;
    struct request *ended_head, *ended_tail; /* reads that wait for their copy to the guest */
    uint32_t pooled;                         /* requests in the hands of threads */
    bool attached;
    bool nowait_reads, nowait_writes;
    int fault, fault_error;
    uint32_t stray_port;
    struct request poison; /* the last one */
    uint64_t poll_ns;
    uint64_t batches_at_timeout;
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

/* blk_ring.c */
int ring_attach(struct blk_dev *dev, const struct blk_ring_config *config);
int32_t ring_available(struct blk_dev *dev);
struct request *ring_take(struct blk_dev *dev);
bool ring_arm(struct blk_dev *dev);
void ring_publish_index(struct blk_dev *dev);
void ring_publish(struct blk_dev *dev);
void ring_notify_if_asked(struct blk_dev *dev);
void ring_notify(struct blk_dev *dev);

/* blk_request.c */
int16_t request_parse(struct blk_dev *dev, const uint8_t *untrusted, struct request *request);

/* blk_grants.c */
int grants_attach(struct blk_dev *dev, bool persistent);
void grants_prepare(struct blk_dev *dev, struct request **batch, uint32_t count);
void grants_finish_reads(struct blk_dev *dev);
void grants_release(struct blk_dev *dev, struct request *request);
void grants_trim(struct blk_dev *dev);
bool grants_sealable(const struct blk_dev *dev);
int grants_detach(struct blk_dev *dev);

/* blk_disk.c */
int fd_disk_open(struct fd_disk *disk, int fd, struct blk_disk *out);
int disk_run(const struct blk_disk *disk, struct request *request);

/* blk_merge.c */
uint32_t merge_length(const struct blk_dev *dev, struct request *const *batch, uint32_t count);
uint32_t merge_run(struct blk_dev *dev, struct request *const *batch, uint32_t count);

/* blk_pool.c */
int pool_open(struct pool *pool, uint32_t limit);
bool pool_submit(struct blk_dev *dev, struct request *request);
struct request *pool_completions(struct pool *pool);
bool pool_has_completions(const struct pool *pool);
void pool_clear_event(struct pool *pool);
void pool_close(struct pool *pool);

/* blk_engine.c */
uint32_t engine_step(struct blk_dev *dev);
uint32_t engine_collect(struct blk_dev *dev);
bool engine_may_take(const struct blk_dev *dev);
void request_done(struct blk_dev *dev, struct request *request);

/* blk_run.c */
uint64_t monotonic_ns(void);

#endif
