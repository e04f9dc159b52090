/* SPDX-License-Identifier: MIT */
/*
 * The loop: serve while there is work, watch the empty ring for a while, sleep.
 *
 * Watching (polling) saves the guest the notification and us the wake-up, tens of microseconds
 * each, but burns a CPU. So its budget adapts: it doubles whenever the next work came soon, and
 * halves down to nothing when it did not. While we watch, req_event stays behind and the guest
 * sends no events.
 *
 * Lost wake-ups cannot be: before a sleep req_event is set, then comes a full barrier, then
 * req_prod is looked at once more (ring_arm); the same dance with the I/O threads (`sleeping`).
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "blk_internal.h"

/* How often the caller's descriptors are looked at while there is always work. */
#define LOOK_NS 2000000u
/* Smallest polling budget that is worth while; below it is 0. */
#define POLL_MIN_NS 4000u
/* Pending ports taken per wake-up; we have one, so more than that are strays. */
#define PORTS_MAX 8
/* Looks at the ring between two looks at the clock. */
#define SPINS 16

uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct run {
    struct blk_dev *dev;
    const int *wake_fds;
    uint32_t wake_count;
    uint64_t deadline;
    uint64_t next_look;
    uint64_t idle_since; /* when the ring was found empty; 0: there was work */
};

static bool event_fault(struct blk_dev *dev, int error)
{
    dev->fault = BLK_FAULT_EVENTS;
    dev->fault_error = error;
    return false;
}

/* Take the pending ports; ours is unmasked before the ring is looked at. */
static bool take_events(struct blk_dev *dev)
{
    const struct hv_ops *hv = dev->config.hv;

    for (int i = 0; i < PORTS_MAX; i++) {
        int port = hv->pending(hv->evtchn);

        if (port == -EAGAIN)
            return true;
        if (port < 0)
            return event_fault(dev, -port);
        if ((uint32_t)port != dev->ring.port) {
            /* Stays masked, so it cannot come again; the caller writes the error line. */
            dev->count.stray_events++;
            dev->stray_port = (uint32_t)port;
            continue;
        }
        dev->count.wakeups++;
        if (hv->unmask(hv->evtchn, dev->ring.port) < 0)
            return event_fault(dev, EIO);
    }
    return true;
}

/* Wait up to `timeout_ns` for events, completions or the caller's descriptors. */
static int wait_for_events(struct run *run, uint64_t timeout_ns)
{
    struct blk_dev *dev = run->dev;
    const struct hv_ops *hv = dev->config.hv;
    struct pollfd fds[2 + BLK_WAKE_MAX] = {
        {.fd = hv->evtchn_fd(hv->evtchn), .events = POLLIN},
        {.fd = dev->pool.event, .events = POLLIN},
    };
    int ready;

    for (uint32_t i = 0; i < run->wake_count; i++)
        fds[2 + i] = (struct pollfd){.fd = run->wake_fds[i], .events = POLLIN};
    /* Rounded up: waking before the deadline would only mean to sleep again. */
    ready = poll(fds, 2 + run->wake_count, (int)((timeout_ns + 999999) / 1000000));
    if (ready < 0)
        return errno == EINTR ? BLK_WAKE : (event_fault(dev, errno), BLK_FAULT);
    if (ready > 0) {
        if (fds[1].revents)
            pool_clear_event(&dev->pool);
        if (fds[0].revents & POLLIN) {
            if (!take_events(dev))
                return BLK_FAULT;
        } else if (fds[0].revents) {
            event_fault(dev, EIO);
            return BLK_FAULT;
        }
        for (uint32_t i = 0; i < run->wake_count; i++) {
            if (fds[2 + i].revents)
                return BLK_WAKE;
        }
    }
    return -1; /* nothing for the caller */
}

static void poll_more(struct blk_dev *dev)
{
    uint64_t limit = (uint64_t)dev->config.poll_us * 1000;
    uint64_t budget = dev->poll_ns ? dev->poll_ns * 2 : POLL_MIN_NS;

    dev->poll_ns = budget < limit ? budget : limit;
}

static void poll_less(struct blk_dev *dev)
{
    dev->poll_ns /= 2;
    if (dev->poll_ns < POLL_MIN_NS)
        dev->poll_ns = 0;
}

/* A batch can only be taken if there is a buffer for it, and no suspect under way. */
static bool has_work(struct blk_dev *dev)
{
    return pool_has_completions(&dev->pool) ||
           (engine_may_take(dev) && (journal_held(&dev->journal) || ring_available(dev) != 0));
}

/* Watch for work within the present budget. False: the budget is used up. */
static bool poll_for_work(struct run *run)
{
    struct blk_dev *dev = run->dev;
    uint64_t now = monotonic_ns(), end;

    if (!run->idle_since)
        run->idle_since = now;
    if (!dev->poll_ns)
        return false;
    end = run->idle_since + dev->poll_ns;
    if (end > run->deadline)
        end = run->deadline;
    while (now < end) {
        for (int i = 0; i < SPINS; i++) {
            if (has_work(dev))
                return true;
            cpu_relax();
        }
        now = monotonic_ns();
        if (now >= run->next_look)
            return true; /* the caller looks at the descriptors and comes back */
    }
    dev->count.poll_misses++;
    return false;
}

/* Sleep until something happens: an enum blk_reason, or -1 to go on. */
static int sleep_for_work(struct run *run)
{
    struct blk_dev *dev = run->dev;
    uint64_t now = monotonic_ns();
    uint64_t timeout = run->deadline > now ? run->deadline - now : 0;
    int reason;

    __atomic_store_n(&dev->pool.sleeping, 1, __ATOMIC_RELAXED);
    /* ring_arm has the full barrier, for `sleeping` too. */
    if (!ring_arm(dev) && engine_may_take(dev))
        timeout = 0; /* work came meanwhile; the descriptors still get their look */
    if (pool_has_completions(&dev->pool))
        timeout = 0;
    reason = wait_for_events(run, timeout);
    __atomic_store_n(&dev->pool.sleeping, 0, __ATOMIC_RELAXED);
    if (reason >= 0)
        return reason;
    now = monotonic_ns();
    /*
     * Twice, for the wake-up itself takes about as long as a budget worth having. Only for work:
     * a guest that rings without any shall not make us watch all the time (XSA-332).
     */
    if (has_work(dev) && now - run->idle_since < 2ull * dev->config.poll_us * 1000)
        poll_more(dev);
    else
        poll_less(dev);
    return now >= run->deadline && !has_work(dev) ? BLK_TIMEOUT : -1;
}

static int finish(struct blk_dev *dev, int reason)
{
    if (dev->fault)
        return BLK_FAULT;
    if (reason == BLK_TIMEOUT && dev->batches_at_timeout == dev->count.batches)
        grants_trim(dev);
    if (reason == BLK_TIMEOUT)
        dev->batches_at_timeout = dev->count.batches;
    return reason;
}

int blk_run(struct blk_dev *dev, const int *wake_fds, uint32_t count, int timeout_ms)
{
    uint64_t now = monotonic_ns();
    struct run run = {
        .dev = dev,
        .wake_fds = wake_fds,
        .wake_count = count < BLK_WAKE_MAX ? count : BLK_WAKE_MAX,
        .deadline = now + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000,
        .next_look = now + LOOK_NS,
    };
    int reason = -1;

    if (!dev->attached)
        return BLK_TIMEOUT;
    while (reason < 0 && !dev->fault) {
        if (engine_step(dev)) {
            if (run.idle_since) {
                dev->count.poll_hits++;
                poll_more(dev);
            }
            run.idle_since = 0;
        } else if (!dev->fault && !poll_for_work(&run)) {
            reason = sleep_for_work(&run);
            run.idle_since = 0;
            run.next_look = monotonic_ns() + LOOK_NS;
            continue;
        }
        now = monotonic_ns();
        if (now >= run.next_look && !dev->fault) {
            reason = wait_for_events(&run, 0);
            if (reason < 0 && now >= run.deadline)
                reason = BLK_TIMEOUT;
            run.next_look = now + LOOK_NS;
        }
    }
    return finish(dev, reason);
}
