/* SPDX-License-Identifier: MIT */
/*
 * Threads for requests that would block the ring thread: started when there is work and none is
 * idle, never more than asked for, kept until blk_close. They run disk calls and nothing else.
 *
 * A finished request goes onto a lock-free stack that the ring thread takes as a whole. The
 * eventfd is only written when the ring thread said that it sleeps; both sides use a full barrier
 * between their own store and their look at the other's, so one of them always sees the other.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "blk_internal.h"

/* Disk calls go a few frames deep; the rest is reserve. */
#define STACK_BYTES (64u * 1024u)

int pool_open(struct pool *pool, uint32_t limit)
{
    memset(pool, 0, sizeof(*pool));
    pool->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pool->event < 0)
        return -errno;
    pool->limit = limit ? limit : 1;
    pool->thread = calloc(pool->limit, sizeof(*pool->thread));
    if (!pool->thread) {
        close(pool->event);
        return -ENOMEM;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->more, NULL);
    return 0;
}

static void complete(struct pool *pool, struct request *request)
{
    struct request *head = __atomic_load_n(&pool->done, __ATOMIC_RELAXED);

    do
        request->next = head;
    while (!__atomic_compare_exchange_n(&pool->done, &head, request, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED));
    full_barrier();
    if (__atomic_load_n(&pool->sleeping, __ATOMIC_RELAXED)) {
        uint64_t one = 1;
        /* Can only fail when the counter is at its end, and then it is readable anyway. */
        if (write(pool->event, &one, sizeof(one)) < 0)
            return;
    }
}

static struct request *next_job(struct pool *pool)
{
    struct request *job = NULL;

    pthread_mutex_lock(&pool->lock);
    pool->idle++;
    while (!pool->head && !pool->stop)
        pthread_cond_wait(&pool->more, &pool->lock);
    pool->idle--;
    if (pool->head) {
        job = pool->head;
        pool->head = job->next;
        if (!pool->head)
            pool->tail = NULL;
        pool->queued--;
    }
    pthread_mutex_unlock(&pool->lock);
    return job;
}

static void *thread_main(void *argument)
{
    struct blk_dev *dev = argument;
    struct request *job;

    while ((job = next_job(&dev->pool)) != NULL) {
        job->error = disk_run(&dev->disk, job);
        complete(&dev->pool, job);
    }
    return NULL;
}

/* Under the lock. */
static void start_thread(struct blk_dev *dev)
{
    struct pool *pool = &dev->pool;
    static const int crashes[] = CRASH_SIGNALS;
    pthread_attr_t attributes;
    sigset_t all, before;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Signals are for the thread that runs Python, but for those of a crash (blk_watch_crashes). */
    sigfillset(&all);
    for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
        sigdelset(&all, crashes[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&pool->thread[pool->threads], &attributes, thread_main, dev) == 0)
        pool->threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Hand the request to a thread; false if there is none and none can be started. */
bool pool_submit(struct blk_dev *dev, struct request *request)
{
    struct pool *pool = &dev->pool;
    bool taken;

    pthread_mutex_lock(&pool->lock);
    if (pool->queued >= pool->idle && pool->threads < pool->limit)
        start_thread(dev);
    taken = pool->threads > 0;
    if (taken) {
        request->next = NULL;
        if (pool->tail)
            pool->tail->next = request;
        else
            pool->head = request;
        pool->tail = request;
        pool->queued++;
        pthread_cond_signal(&pool->more);
    }
    pthread_mutex_unlock(&pool->lock);
    return taken;
}

/* All finished requests, oldest first, linked by `next`. */
struct request *pool_completions(struct pool *pool)
{
    struct request *stack, *queue = NULL;

    if (!pool_has_completions(pool))
        return NULL;
    stack = __atomic_exchange_n(&pool->done, NULL, __ATOMIC_ACQUIRE);
    while (stack) {
        struct request *next = stack->next;
        stack->next = queue;
        queue = stack;
        stack = next;
    }
    return queue;
}

bool pool_has_completions(const struct pool *pool)
{
    return __atomic_load_n(&pool->done, __ATOMIC_RELAXED) != NULL;
}

void pool_clear_event(struct pool *pool)
{
    uint64_t count;

    /* Nothing to read is as good: the caller looks at the stack next. */
    if (read(pool->event, &count, sizeof(count)) < 0)
        return;
}

void pool_close(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->more);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->threads; i++)
        pthread_join(pool->thread[i], NULL);
    free(pool->thread);
    close(pool->event);
    pthread_cond_destroy(&pool->more);
    pthread_mutex_destroy(&pool->lock);
}
