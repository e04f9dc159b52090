/* SPDX-License-Identifier: MIT */
/*
 * The loop of a data plane: serve while there is work, watch for more for a while, sleep.
 *
 * What work is, the device type says by three functions; they are called per turn, never per
 * request.
 */
#ifndef XENBACKD_PLANE_LOOP_H
#define XENBACKD_PLANE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/plane/events.h"
#include "worker/plane/pool.h"

/* Descriptors of the caller's that are waited for too. */
#define PLANE_WAKE_MAX 8u

/* Why plane_loop_run returns. */
enum plane_reason {
    PLANE_WAKE = 0,    /* a descriptor of the caller's is readable, or a signal came */
    PLANE_TIMEOUT = 1, /* the time is over */
    PLANE_FAULT = 2,   /* nothing can be served any more: loop->fault says why */
};

enum plane_fault {
    PLANE_FAULT_NONE = 0,
    PLANE_FAULT_OVERFLOW = 1, /* guest: more claimed than the ring has slots */
    PLANE_FAULT_EVENTS = 2,   /* host: the event-channel handle broke */
    PLANE_FAULT_OWN = 3,      /* this and higher ones: the type's own */
};

struct plane_work {
    /* Do what there is to do, one batch at most. 0: nothing. May set the loop's fault. */
    uint32_t (*step)(void *context);
    /* Whether step would find something, the pool's completions aside. */
    bool (*ready)(void *context);
    /*
     * Before a sleep: ask for an event, then a full barrier, then look once more. False: there is
     * work, do not sleep.
     */
    bool (*arm)(void *context);
};

struct plane_loop {
    struct plane_events events;
    struct plane_pool *pool; /* NULL: no threads */
    const struct plane_work *work;
    void *context; /* of the three functions */
    int fault;       /* enum plane_fault, or the type's */
    int fault_error; /* errno of a fault of the host's */
    uint64_t poll_limit_ns, poll_ns; /* the largest budget, and the present one */
    uint64_t poll_hits, poll_misses;
    bool worked; /* since the last timeout */
};

/* Begin with the largest budget: a guest that connects mostly has work at once. */
static inline void plane_loop_open(struct plane_loop *loop, uint32_t poll_us)
{
    loop->poll_limit_ns = loop->poll_ns = (uint64_t)poll_us * 1000;
}

/*
 * Serve until something of enum plane_reason. `idle`, if given, is set: the time is over, and so
 * it was the last time, without work in between.
 */
int plane_loop_run(struct plane_loop *loop, const int *wake_fds, uint32_t count, int timeout_ms,
                   bool *idle);

#endif
