/* SPDX-License-Identifier: MIT */
/*
 * One batch from ring to ring: take, check, resolve the grants, run or hand over to a thread,
 * answer. And what those threads run.
 */
#include <errno.h>

#include "blk_internal.h"

static struct request *request_of(struct plane_job *job)
{
    return (struct request *)(void *)((uint8_t *)job - offsetof(struct request, job));
}

/* An I/O thread. */
void *engine_serve(void *context)
{
    struct blk_dev *dev = context;
    struct plane_job *job;

    while ((job = plane_pool_next(&dev->pool)) != NULL) {
        struct request *request = request_of(job);

        request->error = disk_run(&dev->disk, request);
        plane_pool_complete(&dev->pool, job);
    }
    return NULL;
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
        if (plane_pool_submit(&dev->pool, &request->job)) {
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
    return dev->bounce.free && !(dev->journal.serial && running(dev));
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

        if (*valid >= dev->bounce.free)
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
static uint32_t collect(struct blk_dev *dev)
{
    struct plane_job *job = plane_pool_completions(&dev->pool);
    uint32_t count = 0;

    while (job) {
        struct plane_job *next = job->next;

        dev->pooled--;
        ended(dev, request_of(job));
        job = next;
        count++;
    }
    return count;
}

/*
 * Do what there is to do: what threads finished, and one batch of at most `available` new requests
 * or of those a predecessor left. 0: nothing.
 */
uint32_t engine_step(struct blk_dev *dev, uint32_t available)
{
    struct request *batch[BATCH_MAX];
    uint32_t work = collect(dev), valid = 0;
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
