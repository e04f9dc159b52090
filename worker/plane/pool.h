/* SPDX-License-Identifier: MIT */
/*
 * Threads for calls in which the ring thread would have to wait: started when there is work and
 * none is idle, never more than asked for, kept until the pool is closed.
 *
 * A job is a link in a structure of the device type's. Each thread runs the type's `serve`, which
 * takes jobs and gives them back until there are no more:
 *
 *     while ((job = plane_pool_next(pool)) != NULL) {
 *         ...
 *         plane_pool_complete(pool, job);
 *     }
 *
 * So a job costs no call by a pointer. All other functions are for the ring thread.
 */
#ifndef XENBACKD_PLANE_POOL_H
#define XENBACKD_PLANE_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plane_job {
    struct plane_job *next;
};

struct plane_pool {
    void *(*serve)(void *context);
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t more;
    /* Under the lock: */
    struct plane_job *head, *tail;
    uint32_t queued, idle, threads, limit;
    bool stop;
    /* Of the ring thread: */
    pthread_t *thread;
    struct plane_job *done; /* stack, atomic */
    uint32_t sleeping;      /* atomic: the ring thread waits on the eventfd */
    int event;
};

/* 0 or -errno. No thread is started yet. */
int plane_pool_open(struct plane_pool *pool, uint32_t limit, void *(*serve)(void *), void *context);

/* Hand the job to a thread; false if there is none and none can be started. */
bool plane_pool_submit(struct plane_pool *pool, struct plane_job *job);

/* For threads: the next job, or NULL when the pool is closed. */
struct plane_job *plane_pool_next(struct plane_pool *pool);

/* For threads: the job is done. */
void plane_pool_complete(struct plane_pool *pool, struct plane_job *job);

/* All jobs that are done, oldest first. */
struct plane_job *plane_pool_completions(struct plane_pool *pool);

static inline bool plane_pool_has_completions(const struct plane_pool *pool)
{
    return __atomic_load_n(&pool->done, __ATOMIC_RELAXED) != NULL;
}

/*
 * The ring thread is about to wait for `event`, or has waited. Between saying so and its last look
 * at the completions it needs a full barrier.
 */
static inline void plane_pool_sleeps(struct plane_pool *pool, bool sleeping)
{
    __atomic_store_n(&pool->sleeping, sleeping, __ATOMIC_RELAXED);
}

void plane_pool_clear_event(struct plane_pool *pool);

/* Wait until a job is done, or the time is over. */
void plane_pool_wait(struct plane_pool *pool, int timeout_ms);

/* Waiting jobs are run to their end, then the threads end. */
void plane_pool_close(struct plane_pool *pool);

#endif
