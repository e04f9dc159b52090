/* SPDX-License-Identifier: MIT */
/*
 * A block backend that can be stopped at any store that matters, and whose I/O threads are a list
 * in the hands of the test. In the place of blk_pool.c.
 *
 * To stop is to jump out of the backend. No lock is held and no frame of Python lies between, for
 * there are no points in what the backend calls.
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
    struct pool *pool = &dev->pool;
    struct request **link = &pool->head, *request;

    while (number--)
        link = &(*link)->next;
    request = *link;
    *link = request->next;
    pool->queued--;
    request->error = disk_run(&dev->disk, request);
    request->next = pool->done;
    pool->done = request;
}

void blk_inject_abandon(struct blk_dev *dev)
{
    journal_detach(dev);
    if (dev->grants.bounce)
        grants_detach(dev);
    blk_close(dev);
}

int pool_open(struct pool *pool, uint32_t threads)
{
    memset(pool, 0, sizeof(*pool));
    pool->limit = threads;
    pool->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return pool->event < 0 ? -errno : 0;
}

bool pool_submit(struct blk_dev *dev, struct request *request)
{
    struct request **link = &dev->pool.head;

    while (*link)
        link = &(*link)->next;
    *link = request;
    request->next = NULL;
    dev->pool.queued++;
    return true;
}

struct request *pool_completions(struct pool *pool)
{
    struct request *done = pool->done;

    pool->done = NULL;
    return done;
}

bool pool_has_completions(const struct pool *pool)
{
    return pool->done != NULL;
}

void pool_clear_event(struct pool *pool)
{
    (void)pool;
}

void pool_close(struct pool *pool)
{
    close(pool->event);
}
