/* SPDX-License-Identifier: MIT */
/*
 * The event loop, see loop.h.
 *
 * Watching for work (polling) saves the guest the notification and us the wake-up, tens of
 * microseconds each, but burns a CPU. So its budget adapts: it doubles whenever the next work came
 * soon, and halves down to nothing when it did not. While we watch, the ring's event index stays
 * behind, and the guest sends no events.
 *
 * No wake-up is lost: before a sleep the event index is set, then comes a full barrier, then the
 * ring is looked at once more (`arm`). The I/O threads' completions go the same way (`sleeping`).
 */
#include "worker/plane/loop.h"

#include <errno.h>
#include <poll.h>

#include "shared/native/barrier.h"
#include "worker/plane/clock.h"

/* How often the caller's descriptors are looked at while there is always work. */
#define LOOK_NS 2000000u
/* Smallest polling budget worth having; below it is 0. */
#define POLL_MIN_NS 4000u
/* Looks at the ring between two looks at the clock. */
#define SPINS 16

struct run {
    struct plane_loop *loop;
    const int *wake_fds;
    uint32_t wake_count;
    uint64_t deadline;
    uint64_t next_look;
    uint64_t idle_since; /* when nothing was found to do; 0: there was work */
};

static int event_fault(struct plane_loop *loop, int error)
{
    loop->fault = PLANE_FAULT_EVENTS;
    loop->fault_error = error;
    return PLANE_FAULT;
}

static bool has_completions(const struct plane_loop *loop)
{
    return loop->pool && plane_pool_has_completions(loop->pool);
}

static bool has_work(struct plane_loop *loop)
{
    return has_completions(loop) || loop->work->ready(loop->context);
}

/* Wait up to `timeout_ns` for events, completions or the caller's descriptors; -1: go on. */
static int wait_for_events(struct run *run, uint64_t timeout_ns)
{
    struct plane_loop *loop = run->loop;
    const struct hv_ops *hv = loop->events.hv;
    struct pollfd fds[2 + PLANE_WAKE_MAX] = {
        {.fd = hv->evtchn_fd(hv->evtchn), .events = POLLIN},
        {.fd = loop->pool ? loop->pool->event : -1, .events = POLLIN},
    };
    int ready, error;

    for (uint32_t i = 0; i < run->wake_count; i++)
        fds[2 + i] = (struct pollfd){.fd = run->wake_fds[i], .events = POLLIN};
    /* Rounded up: waking before the deadline would only mean to sleep again. */
    ready = poll(fds, 2 + run->wake_count, (int)((timeout_ns + 999999) / 1000000));
    if (ready < 0)
        return errno == EINTR ? PLANE_WAKE : event_fault(loop, errno);
    if (ready == 0)
        return -1;
    if (fds[1].revents)
        plane_pool_clear_event(loop->pool);
    if (fds[0].revents & POLLIN) {
        error = plane_events_take(&loop->events);
        if (error)
            return event_fault(loop, -error);
    } else if (fds[0].revents) {
        return event_fault(loop, EIO);
    }
    for (uint32_t i = 0; i < run->wake_count; i++) {
        if (fds[2 + i].revents)
            return PLANE_WAKE;
    }
    return -1;
}

static void poll_more(struct plane_loop *loop)
{
    uint64_t budget = loop->poll_ns ? loop->poll_ns * 2 : POLL_MIN_NS;

    loop->poll_ns = budget < loop->poll_limit_ns ? budget : loop->poll_limit_ns;
}

static void poll_less(struct plane_loop *loop)
{
    loop->poll_ns /= 2;
    if (loop->poll_ns < POLL_MIN_NS)
        loop->poll_ns = 0;
}

/* Watch for work within the present budget. False: the budget is used up. */
static bool poll_for_work(struct run *run)
{
    struct plane_loop *loop = run->loop;
    uint64_t now = plane_now(), end;

    if (!run->idle_since)
        run->idle_since = now;
    if (!loop->poll_ns)
        return false;
    end = run->idle_since + loop->poll_ns;
    if (end > run->deadline)
        end = run->deadline;
    while (now < end) {
        for (int i = 0; i < SPINS; i++) {
            if (has_work(loop))
                return true;
            cpu_relax();
        }
        now = plane_now();
        if (now >= run->next_look)
            return true; /* the caller looks at the descriptors and comes back */
    }
    loop->poll_misses++;
    return false;
}

/* Sleep until something happens: an enum plane_reason, or -1 to go on. */
static int sleep_for_work(struct run *run)
{
    struct plane_loop *loop = run->loop;
    uint64_t now = plane_now();
    uint64_t timeout = run->deadline > now ? run->deadline - now : 0;
    int reason;

    if (loop->pool)
        plane_pool_sleeps(loop->pool, true);
    /* `arm` has the full barrier, for `sleeping` too. */
    if (!loop->work->arm(loop->context))
        timeout = 0; /* work came meanwhile; the descriptors still get their look */
    if (has_completions(loop))
        timeout = 0;
    reason = wait_for_events(run, timeout);
    if (loop->pool)
        plane_pool_sleeps(loop->pool, false);
    if (reason >= 0)
        return reason;
    now = plane_now();
    /*
     * Twice, for the wake-up itself takes about as long as a budget worth having. Only for work: a
     * guest that sends events without any must not make us watch all the time (XSA-332).
     */
    if (has_work(loop) && now - run->idle_since < 2 * loop->poll_limit_ns)
        poll_more(loop);
    else
        poll_less(loop);
    return now >= run->deadline && !has_work(loop) ? PLANE_TIMEOUT : -1;
}

static int finish(struct plane_loop *loop, int reason, bool *idle)
{
    bool timeout = reason == PLANE_TIMEOUT && !loop->fault;

    if (idle)
        *idle = timeout && !loop->worked;
    if (timeout)
        loop->worked = false;
    return loop->fault ? PLANE_FAULT : reason;
}

int plane_loop_run(struct plane_loop *loop, const int *wake_fds, uint32_t count, int timeout_ms,
                   bool *idle)
{
    uint64_t now = plane_now();
    struct run run = {
        .loop = loop,
        .wake_fds = wake_fds,
        .wake_count = count < PLANE_WAKE_MAX ? count : PLANE_WAKE_MAX,
        .deadline = now + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000,
        .next_look = now + LOOK_NS,
    };
    int reason = -1;

    while (reason < 0 && !loop->fault) {
        if (loop->work->step(loop->context)) {
            loop->worked = true;
            if (run.idle_since) {
                loop->poll_hits++;
                poll_more(loop);
            }
            run.idle_since = 0;
        } else if (!loop->fault && !poll_for_work(&run)) {
            reason = sleep_for_work(&run);
            run.idle_since = 0;
            run.next_look = plane_now() + LOOK_NS;
            continue;
        }
        now = plane_now();
        if (now >= run.next_look && !loop->fault) {
            reason = wait_for_events(&run, 0);
            if (reason < 0 && now >= run.deadline)
                reason = PLANE_TIMEOUT;
            run.next_look = now + LOOK_NS;
        }
    }
    return finish(loop, reason, idle);
}
