/* SPDX-License-Identifier: MIT */
/*
 * A guest that keeps to the rules of events to the letter: it sends one when req_event asks for it,
 * and at no other time. Its pauses sweep over the time a backend needs to go to sleep, so that
 * sooner or later a request comes between the backend's last look at req_prod and its sleep.
 */
#include <errno.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "shared/native/barrier.h"
#include "blk_flip_internal.h"

#define PAUSES 512 /* of different length, in turns */

static volatile uint32_t *index_at(struct flip *flip, uint32_t offset)
{
    return (volatile uint32_t *)(void *)(flip->ring + offset);
}

static uint64_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec;
}

/* Until no more than `left` requests have no answer; false if none comes. */
static bool wait_for_answers(struct flip *flip, uint32_t left)
{
    uint64_t end = seconds() + FLIP_LOST_SECONDS;

    for (uint32_t i = 0; flip->prod - load_acquire32(index_at(flip, RING_RSP_PROD)) > left; i++) {
        cpu_relax();
        if (i % 1024)
            continue;
        if (i)
            sched_yield(); /* there may be one processor for both of us */
        if (seconds() > end || __atomic_load_n(&flip->stop, __ATOMIC_RELAXED))
            return false;
    }
    return true;
}

static void push(struct flip *flip)
{
    uint8_t *slot = flip->ring + RING_HEADER + flip->prod % flip->config.slots * flip->config.slot;
    uint64_t one = 1;

    memset(slot, 0, flip->config.slot);
    slot[0] = BLKIF_OP_FLUSH_DISKCACHE;
    flip->prod++;
    store_release32(index_at(flip, RING_REQ_PROD), flip->prod);
    full_barrier();
    if (load_acquire32(index_at(flip, RING_REQ_EVENT)) != flip->prod)
        return; /* one at a time: only the last can be the one that was asked for */
    if (write(flip->event, &one, sizeof(one)) < 0)
        flip_violation(flip, "event: not sent", (uint64_t)errno);
    /* After the descriptor: the backend asks for a port only when that is readable. */
    __atomic_store_n(&flip->rung, 1, __ATOMIC_RELEASE);
}

static void *ring_main(void *argument)
{
    struct flip *flip = argument;
    uint64_t one = 1;

    for (uint64_t i = 0; i < flip->pushes; i++) {
        if (!wait_for_answers(flip, 0)) {
            flip_violation(flip, "event: lost, a request has no answer", i);
            break;
        }
        for (uint64_t pause = i % PAUSES; pause; pause--)
            __asm__ volatile("" ::: "memory");
        push(flip);
    }
    if (!wait_for_answers(flip, 0))
        flip_violation(flip, "event: lost, the last request has no answer", flip->prod);
    while (write(flip->done, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
    return NULL;
}

int flip_ring(struct flip *flip, uint64_t pushes, int done)
{
    int error;

    flip->pushes = pushes;
    flip->done = done;
    flip->stop = 0;
    error = pthread_create(&flip->thread, NULL, ring_main, flip);
    flip->running = error == 0;
    return -error;
}
