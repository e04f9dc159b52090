/* SPDX-License-Identifier: MIT */
/*
 * The life of a device: opened, attached to a frontend's ring, served by the plane's loop,
 * detached, closed; and what it tells about itself.
 */
#include <errno.h>
#include <stdlib.h>

#include "blk_internal.h"

_Static_assert((int)BLK_WAKE == (int)PLANE_WAKE && (int)BLK_TIMEOUT == (int)PLANE_TIMEOUT &&
                   (int)BLK_FAULT == (int)PLANE_FAULT,
               "Python gets the plane's reasons");
_Static_assert((int)BLK_FAULT_OVERFLOW == (int)PLANE_FAULT_OVERFLOW &&
                   (int)BLK_FAULT_EVENTS == (int)PLANE_FAULT_EVENTS &&
                   (int)BLK_FAULT_RESPONSES >= (int)PLANE_FAULT_OWN,
               "Python gets the plane's faults, and ours");

/* --- what the loop asks for ---------------------------------------------------------------- */

static uint32_t step(void *context)
{
    struct blk_dev *dev = context;
    int32_t available = ring_available(dev);

    return engine_step(dev, available > 0 ? (uint32_t)available : 0);
}

/* A batch can only be taken if there is a buffer for it, and no suspect under way. */
static bool ready(void *context)
{
    struct blk_dev *dev = context;

    return engine_may_take(dev) && (journal_held(&dev->journal) || ring_available(dev) != 0);
}

static bool arm(void *context)
{
    struct blk_dev *dev = context;

    return plane_ring_arm(&dev->ring) || !engine_may_take(dev);
}

static const struct plane_work WORK = {.step = step, .ready = ready, .arm = arm};

/* --- life ---------------------------------------------------------------------------------- */

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
        error = plane_pool_open(&dev->pool, config->io_threads, engine_serve, dev);
    if (error) {
        free(dev);
        errno = -error;
        return NULL;
    }
    dev->nowait_reads = dev->nowait_writes = true;
    dev->grants.hv = dev->loop.events.hv = config->hv;
    dev->grants.domid = config->domid;
    dev->loop.pool = &dev->pool;
    dev->loop.work = &WORK;
    dev->loop.context = dev;
    plane_loop_open(&dev->loop, config->poll_us);
    return dev;
}

/*
 * Take the ring up: where the journal says, or, in a new ring and in one that goes in ring order,
 * at its published response index, which is the first request without an answer.
 */
static int attach_ring(struct blk_dev *dev, const struct blk_ring_config *config)
{
    int error;

    dev->layout = config->connection.layout32 ? &BLKIF_32 : &BLKIF_64;
    dev->loop.events.port = config->port;
    plane_ring_open(&dev->ring, config->ring,
                    blkif_ring_slots(dev->layout, config->connection.order));
    if (config->journal_fd >= 0) {
        error = journal_attach(dev, config);
        if (error)
            return error;
    }
    dev->ring.notified = dev->ring.rsp_prod;
    return ring_available(dev) < 0 ? -EPROTO : 0;
}

static int attach(struct blk_dev *dev, const struct blk_ring_config *config)
{
    int error = attach_ring(dev, config);

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
    dev->loop.fault = BLK_FAULT_NONE;
    dev->loop.fault_error = 0;
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
        plane_events_notify(&dev->loop.events);
    return 0;
}

int blk_run(struct blk_dev *dev, const int *wake_fds, uint32_t count, int timeout_ms)
{
    bool idle = false;
    int reason;

    if (!dev->attached)
        return BLK_TIMEOUT;
    reason = plane_loop_run(&dev->loop, wake_fds, count, timeout_ms, &idle);
    if (idle)
        plane_bounce_trim(&dev->bounce);
    return reason;
}

void blk_seal(struct blk_dev *dev)
{
    dev->grants.sealed = true;
}

/* Answer everything that was taken, by us or by a predecessor. */
static int drain(struct blk_dev *dev, int timeout_ms)
{
    uint64_t deadline = plane_now() + (uint64_t)timeout_ms * 1000000;

    for (;;) {
        uint64_t now = plane_now();

        if (engine_step(dev, 0))
            continue;
        if (!dev->pooled)
            return 0;
        if (now >= deadline)
            return -ETIMEDOUT;
        plane_pool_wait(&dev->pool, (int)((deadline - now) / 1000000) + 1);
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
    plane_pool_close(&dev->pool);
    free(dev->requests);
    free(dev);
}

/* --- what it tells ------------------------------------------------------------------------- */

void blk_counters(const struct blk_dev *dev, struct blk_counters *out)
{
    const struct plane_loop *loop = &dev->loop;

    *out = dev->count;
    out->notifies = loop->events.notifies;
    out->notify_errors = loop->events.notify_errors;
    out->wakeups = loop->events.wakeups;
    out->stray_events = loop->events.strays;
    out->poll_hits = loop->poll_hits;
    out->poll_misses = loop->poll_misses;
    out->grant_maps = dev->grants.maps;
    out->grant_copies = dev->grants.copies;
    out->in_flight = dev->attached ? dev->ring.req_cons - dev->ring.rsp_prod : 0;
    out->persistent_grants = dev->grants.mapped;
    out->io_threads = dev->pool.threads;
}

void blk_status(const struct blk_dev *dev, struct blk_status *out)
{
    *out = (struct blk_status){
        .fault = dev->loop.fault,
        .error = dev->loop.fault_error,
        .untrusted_req_prod = dev->ring.untrusted_req_prod,
        .rsp_prod = dev->ring.rsp_prod,
        .req_cons = dev->ring.req_cons,
        .slots = dev->ring.slots,
        .stray_port = dev->loop.events.stray_port,
        .stray_events = (uint32_t)dev->loop.events.strays,
        .poll_us = (uint32_t)(dev->loop.poll_ns / 1000),
        .journal_broken = dev->journal.broken,
        .poisoned = (uint32_t)dev->count.poisoned,
        .poison_operation = dev->poison.operation,
        .poison_offset = dev->poison.offset,
        .poison_length = dev->poison.length,
        .sealable = grants_sealable(dev),
    };
}
