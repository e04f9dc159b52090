/* SPDX-License-Identifier: MIT */
/*
 * I/O threads, see pool.h.
 *
 * A finished job goes onto a lock-free stack that the ring thread takes as a whole. The eventfd is
 * only written when the ring thread said that it sleeps. Both sides use a full barrier between
 * their own store and their look at the other's, so one of them always sees the other.
 */
#include "worker/plane/pool.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "shared/native/barrier.h"
#include "worker/plane/crash.h"

/* What threads call goes a few frames deep; the rest is reserve. */
#define STACK_BYTES (64u * 1024u)

int plane_pool_open(struct plane_pool *pool, uint32_t limit, void *(*serve)(void *), void *context)
{
    memset(pool, 0, sizeof(*pool));
    pool->serve = serve;
    pool->context = context;
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

void plane_pool_complete(struct plane_pool *pool, struct plane_job *job)
{
    struct plane_job *head = __atomic_load_n(&pool->done, __ATOMIC_RELAXED);

    do
        job->next = head;
    while (!__atomic_compare_exchange_n(&pool->done, &head, job, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED));
    full_barrier();
    if (__atomic_load_n(&pool->sleeping, __ATOMIC_RELAXED)) {
        uint64_t one = 1;
        /* Can only fail when the counter is at its end, and then it is readable anyway. */
        if (write(pool->event, &one, sizeof(one)) < 0)
            return;
    }
}

struct plane_job *plane_pool_next(struct plane_pool *pool)
{
    struct plane_job *job = NULL;

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

/* Under the lock. */
static void start_thread(struct plane_pool *pool)
{
    static const int crashes[] = PLANE_CRASH_SIGNALS;
    pthread_attr_t attributes;
    sigset_t all, before;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Signals are for the thread that runs Python, except those of a crash. */
    sigfillset(&all);
    for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
        sigdelset(&all, crashes[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&pool->thread[pool->threads], &attributes, pool->serve, pool->context) == 0)
        pool->threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

bool plane_pool_submit(struct plane_pool *pool, struct plane_job *job)
{
    bool taken;

    pthread_mutex_lock(&pool->lock);
    if (pool->queued >= pool->idle && pool->threads < pool->limit)
        start_thread(pool);
    taken = pool->threads > 0;
    if (taken) {
        job->next = NULL;
        if (pool->tail)
            pool->tail->next = job;
        else
            pool->head = job;
        pool->tail = job;
        pool->queued++;
        pthread_cond_signal(&pool->more);
    }
    pthread_mutex_unlock(&pool->lock);
    return taken;
}

struct plane_job *plane_pool_completions(struct plane_pool *pool)
{
    struct plane_job *stack, *queue = NULL;

    if (!plane_pool_has_completions(pool))
        return NULL;
    stack = __atomic_exchange_n(&pool->done, NULL, __ATOMIC_ACQUIRE);
    while (stack) {
        struct plane_job *next = stack->next;
        stack->next = queue;
        queue = stack;
        stack = next;
    }
    return queue;
}

void plane_pool_clear_event(struct plane_pool *pool)
{
    uint64_t count;

    /* Nothing to read is as good: the caller looks at the stack next. */
    if (read(pool->event, &count, sizeof(count)) < 0)
        return;
}

void plane_pool_wait(struct plane_pool *pool, int timeout_ms)
{
    struct pollfd event = {.fd = pool->event, .events = POLLIN};

    plane_pool_sleeps(pool, true);
    full_barrier();
    if (!plane_pool_has_completions(pool))
        poll(&event, 1, timeout_ms);
    plane_pool_sleeps(pool, false);
    plane_pool_clear_event(pool);
}

void plane_pool_close(struct plane_pool *pool)
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
