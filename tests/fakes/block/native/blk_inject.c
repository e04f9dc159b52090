/* SPDX-License-Identifier: MIT */
/*
 * A block backend that can be stopped at any store that matters, and whose I/O threads are a list
 * in the hands of the test. Linked in place of worker/plane/pool.c.
 *
 * To stop is to jump out of the backend. No lock is held and no frame of Python is in between,
 * since there are no points in what the backend calls.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "blk_internal.h"
#include "blk_inject.h"

static jmp_buf out;
static bool inside;
static uint64_t limit, passed;
static struct plane_job *next;

void blk_inject_arm(uint64_t points)
{
    limit = points;
    passed = 0;
}

uint64_t blk_inject_passed(void)
{
    return passed;
}

void blk_inject_point(void)
{
    passed++;
    if (inside && limit && passed > limit)
        longjmp(out, 1);
}

int blk_inject_attach(struct blk_dev *dev, const struct blk_ring_config *config)
{
    int result;

    inside = true;
    if (!setjmp(out))
        result = blk_attach(dev, config);
    else
        result = BLK_KILLED;
    inside = false;
    return result;
}

int blk_inject_run(struct blk_dev *dev, int timeout_ms)
{
    int result;

    inside = true;
    if (!setjmp(out))
        result = blk_run(dev, NULL, 0, timeout_ms);
    else
        result = BLK_KILLED;
    inside = false;
    return result;
}

uint32_t blk_inject_queued(const struct blk_dev *dev)
{
    return dev->pool.queued;
}

void blk_inject_finish(struct blk_dev *dev, uint32_t number)
{
    struct plane_pool *pool = &dev->pool;
    struct plane_job **link = &pool->head, *job;

    for (; number; number--)
        link = &(*link)->next;
    job = *link;
    *link = job->next;
    pool->queued--;
    /* As a thread would: one job, then no more. */
    job->next = NULL;
    next = job;
    pool->serve(pool->context);
}

void blk_inject_abandon(struct blk_dev *dev)
{
    journal_detach(dev);
    if (dev->bounce.memory)
        grants_detach(dev);
    blk_close(dev);
}

int plane_pool_open(struct plane_pool *pool, uint32_t threads, void *(*serve)(void *),
                    void *context)
{
    memset(pool, 0, sizeof(*pool));
    pool->limit = threads;
    pool->serve = serve;
    pool->context = context;
    pool->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return pool->event < 0 ? -errno : 0;
}

bool plane_pool_submit(struct plane_pool *pool, struct plane_job *job)
{
    struct plane_job **link = &pool->head;

    while (*link)
        link = &(*link)->next;
    *link = job;
    job->next = NULL;
    pool->queued++;
    return true;
}

struct plane_job *plane_pool_next(struct plane_pool *pool)
{
    struct plane_job *job = next;

    (void)pool;
    next = NULL;
    return job;
}

void plane_pool_complete(struct plane_pool *pool, struct plane_job *job)
{
    job->next = pool->done;
    pool->done = job;
}

struct plane_job *plane_pool_completions(struct plane_pool *pool)
{
    struct plane_job *done = pool->done;

    pool->done = NULL;
    return done;
}

void plane_pool_clear_event(struct plane_pool *pool)
{
    (void)pool;
}

void plane_pool_wait(struct plane_pool *pool, int timeout_ms)
{
    (void)pool;
    (void)timeout_ms;
}

void plane_pool_close(struct plane_pool *pool)
{
    close(pool->event);
}
