/* SPDX-License-Identifier: MIT */
/*
 * One batch from ring to ring: take, check, resolve the grants, run or hand over, answer.
 * And the life of a device around it.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "blk_internal.h"

/* Its outcome is known and where the guest wants it; the answer goes with the next publication. */
void request_done(struct blk_dev *dev, struct request *request)
{
    struct journal *journal = &dev->journal;

    request->state = REQUEST_DONE;
    if (!journal->header)
        return;
    request->next = NULL;
    if (journal->done_tail)
        journal->done_tail->next = request;
    else
        journal->done_head = request;
    journal->done_tail = request;
}

/* The disk is through with the request. */
static void ended(struct blk_dev *dev, struct request *request)
{
    if (request->error) {
        bool unsupported =
            request->operation == BLKIF_OP_DISCARD && request->error == EOPNOTSUPP;

        request->status = unsupported ? BLKIF_RSP_EOPNOTSUPP : BLKIF_RSP_ERROR;
        if (request->error > 0) {
            dev->count.io_errors++;
            dev->count.last_errno = (uint64_t)request->error;
        } else {
            dev->count.short_io++;
        }
    } else if (request->operation == BLKIF_OP_READ && request->bounce >= 0) {
        request->next = NULL;
        if (dev->ended_tail)
            dev->ended_tail->next = request;
        else
            dev->ended_head = request;
        dev->ended_tail = request;
        return;
    }
    request_done(dev, request);
}

/* Try what needs no waiting. True if the request ended. */
static bool run_inline(struct blk_dev *dev, struct request *request)
{
    const struct blk_disk *disk = &dev->disk;
    bool reads = request->operation == BLKIF_OP_READ;
    bool *nowait = reads ? &dev->nowait_reads : &dev->nowait_writes;
    ptrdiff_t moved;

    if (!moves_data(request) || dev->config.direct_io || (reads && !*nowait))
        return false;
    if (*nowait) {
        moved = (reads ? disk->read : disk->write)(disk->context, request->vector,
                                                   request->vectors, request->offset, 1);
        if (moved == (ptrdiff_t)request->length) {
            ended(dev, request);
            return true;
        }
        if (moved == -EOPNOTSUPP)
            *nowait = false;
        if (moved != -EOPNOTSUPP || reads)
            return false; /* a part, EAGAIN or an error: a thread does all of it and has the say */
    }
    /* Writes the file system cannot do without waiting still mostly end in the page cache. */
    request->error = disk_run(disk, request);
    ended(dev, request);
    return true;
}

static void start(struct blk_dev *dev, struct request *request)
{
    if (dev->config.engine == BLK_ENGINE_AUTO) {
        if (run_inline(dev, request))
            return;
        if (pool_submit(dev, request)) {
            dev->pooled++;
            dev->count.pooled++;
            return;
        }
    }
    request->error = disk_run(&dev->disk, request);
    ended(dev, request);
}

/* Start the first requests of a batch, merged as far as they go together. How many. */
static uint32_t start_some(struct blk_dev *dev, struct request *const *batch, uint32_t count)
{
    uint32_t length = merge_length(dev, batch, count);
    uint32_t done = length > 1 ? merge_run(dev, batch, length) : 0;

    for (uint32_t i = 0; i < done; i++)
        ended(dev, batch[i]);
    for (uint32_t i = done; i < length; i++)
        start(dev, batch[i]);
    return length;
}

/* Whether a request may be begun now, if there is one: a suspect runs alone. */
bool engine_may_take(const struct blk_dev *dev)
{
    return dev->grants.bounce_free && !(dev->journal.serial && running(dev));
}

/*
 * Take and check up to a batch, what a predecessor left before what is new; those that may run
 * are put into `batch`.
 */
static uint32_t take(struct blk_dev *dev, uint32_t available, struct request **batch,
                     uint32_t *valid)
{
    struct journal *journal = &dev->journal;
    uint32_t held = journal_held(journal), taken;

    *valid = 0;
    if (!engine_may_take(dev))
        return 0;
    journal->serial = journal->serial && held;
    if (held)
        available = journal->serial ? 1 : held;
    for (taken = 0; taken < available && *valid < BATCH_MAX && taken < dev->ring.slots; taken++) {
        struct request *request;

        if (*valid >= dev->grants.bounce_free)
            break; /* each may need a buffer; the rest waits in the ring */
        request = held ? journal_resume_next(dev) : ring_take(dev);
        if (request->status == BLKIF_RSP_OKAY) {
            request->state = REQUEST_RUNNING;
            batch[(*valid)++] = request;
        } else {
            request_done(dev, request);
        }
    }
    return taken;
}

/* Take in what the threads finished. The number of requests that ended. */
uint32_t engine_collect(struct blk_dev *dev)
{
    struct request *request = pool_completions(&dev->pool);
    uint32_t count = 0;

    while (request) {
        struct request *next = request->next;
        dev->pooled--;
        ended(dev, request);
        request = next;
        count++;
    }
    return count;
}

/* One batch of at most `available` new requests, or of those a predecessor left. */
static uint32_t step(struct blk_dev *dev, uint32_t available)
{
    struct request *batch[BATCH_MAX];
    uint32_t work = engine_collect(dev), valid = 0;
    uint32_t taken = take(dev, available, batch, &valid);

    work += taken;
    dev->count.batches += taken > 0;
    if (!work)
        return 0;
    grants_prepare(dev, batch, valid);
    for (uint32_t i = 0; i < valid;) {
        if (batch[i]->status != BLKIF_RSP_OKAY)
            request_done(dev, batch[i++]); /* a page of a write could not be had */
        else
            i += start_some(dev, batch + i, valid - i);
        ring_publish(dev);
    }
    grants_finish_reads(dev);
    ring_publish(dev);
    ring_notify_if_asked(dev);
    return work;
}

/* Do what there is to do, one batch at most. 0: nothing; look at dev->fault too. */
uint32_t engine_step(struct blk_dev *dev)
{
    int32_t available = ring_available(dev);

    return step(dev, available > 0 ? (uint32_t)available : 0);
}

struct blk_dev *blk_open(const struct blk_config *config)
{
    struct blk_dev *dev = calloc(1, sizeof(*dev));
    int error = 0;

    if (!dev)
        return NULL;
    dev->config = *config;
    if (config->disk)
        dev->disk = *config->disk;
    else
        error = fd_disk_open(&dev->fd_disk, config->fd, &dev->disk);
    if (!error)
        error = pool_open(&dev->pool, config->io_threads);
    if (error) {
        free(dev);
        errno = -error;
        return NULL;
    }
    dev->nowait_reads = dev->nowait_writes = true;
    dev->poll_ns = (uint64_t)config->poll_us * 1000;
    return dev;
}

static int attach(struct blk_dev *dev, const struct blk_ring_config *config)
{
    int error = ring_attach(dev, config);

    if (error)
        return error;
    dev->requests = calloc(dev->ring.slots, sizeof(*dev->requests));
    if (!dev->requests)
        return -ENOMEM;
    return grants_attach(dev, config->persistent != 0);
}

int blk_attach(struct blk_dev *dev, const struct blk_ring_config *config)
{
    int error;

    if (dev->attached)
        return -EBUSY;
    if (config->connection.order > BLKIF_MAX_RING_ORDER)
        return -EINVAL;
    dev->fault = BLK_FAULT_NONE;
    dev->fault_error = 0;
    error = attach(dev, config);
    if (error) {
        free(dev->requests);
        dev->requests = NULL;
        journal_detach(dev);
        return error;
    }
    dev->attached = true;
    if (dev->journal.found)
        journal_recover(dev);
    /* The predecessor may have died between publishing and notifying. */
    if (config->resume)
        ring_notify(dev);
    return 0;
}

/* Answer everything that was taken, by us or by a predecessor. */
static int drain(struct blk_dev *dev, int timeout_ms)
{
    uint64_t deadline = monotonic_ns() + (uint64_t)timeout_ms * 1000000;

    for (;;) {
        struct pollfd event = {.fd = dev->pool.event, .events = POLLIN};
        uint64_t now = monotonic_ns();

        if (step(dev, 0))
            continue;
        if (!dev->pooled)
            return 0;
        if (now >= deadline)
            return -ETIMEDOUT;
        __atomic_store_n(&dev->pool.sleeping, 1, __ATOMIC_RELAXED);
        full_barrier();
        if (!pool_has_completions(&dev->pool))
            poll(&event, 1, (int)((deadline - now) / 1000000) + 1);
        __atomic_store_n(&dev->pool.sleeping, 0, __ATOMIC_RELAXED);
        pool_clear_event(&dev->pool);
    }
}

int blk_detach(struct blk_dev *dev, int timeout_ms)
{
    int error;

    if (!dev->attached)
        return 0;
    error = drain(dev, timeout_ms);
    if (error) {
        journal_put_down(dev);
        return error;
    }
    ring_notify_if_asked(dev);
    error = grants_detach(dev);
    journal_detach(dev);
    free(dev->requests);
    dev->requests = NULL;
    dev->attached = false;
    return error;
}

void blk_close(struct blk_dev *dev)
{
    if (!dev)
        return;
    pool_close(&dev->pool);
    free(dev->requests);
    free(dev);
}

void blk_counters(const struct blk_dev *dev, struct blk_counters *out)
{
    *out = dev->count;
    out->in_flight = dev->attached ? dev->ring.req_cons - dev->ring.rsp_prod : 0;
    out->persistent_grants = dev->grants.mapped;
    out->io_threads = dev->pool.threads;
}

void blk_status(const struct blk_dev *dev, struct blk_status *out)
{
    *out = (struct blk_status){
        .fault = dev->fault,
        .error = dev->fault_error,
        .untrusted_req_prod = dev->ring.untrusted_req_prod,
        .rsp_prod = dev->ring.rsp_prod,
        .req_cons = dev->ring.req_cons,
        .slots = dev->ring.slots,
        .stray_port = dev->stray_port,
        .stray_events = (uint32_t)dev->count.stray_events,
        .poll_us = (uint32_t)(dev->poll_ns / 1000),
        .journal_broken = dev->journal.broken,
        .poisoned = (uint32_t)dev->count.poisoned,
        .poison_operation = dev->poison.operation,
        .poison_offset = dev->poison.offset,
        .poison_length = dev->poison.length,
        .sealable = grants_sealable(dev),
    };
}

void blk_tune_malloc(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 64 * 1024);
}
