/* SPDX-License-Identifier: MIT */
/*
 * Event channels. A channel has two bells (eventfd), one per end; notifying is one write to the
 * peer's bell and involves nobody else. The handle's descriptor is an epoll set of its own bells:
 *
 * - EPOLLONESHOT makes taking a port mask it, unmasking re-arms it;
 * - the bell is emptied after masking: an event that comes before is covered by the port being
 *   returned, one that comes later is still in the bell when the port is unmasked.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct bells *find(struct embedded *handle, uint32_t port)
{
    struct bells *chunk;

    if (port >= EMBEDDED_PORTS_MAX)
        return NULL;
    chunk = handle->chunks[port / PORTS_PER_CHUNK];
    if (!chunk || !chunk[port % PORTS_PER_CHUNK].used)
        return NULL;
    return &chunk[port % PORTS_PER_CHUNK];
}

static int ring(int bell)
{
    uint64_t one = 1;

    /* EAGAIN means 2^64 - 2 events are waiting: one more makes no difference. */
    if (write(bell, &one, sizeof(one)) < 0 && errno != EAGAIN)
        return -errno;
    return 0;
}

static int remember(struct embedded *handle, uint32_t port, const int *descriptors)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u32 = port};
    struct bells *chunk;

    handle->used = 1;
    if (port >= EMBEDDED_PORTS_MAX)
        return -EPROTO;
    chunk = handle->chunks[port / PORTS_PER_CHUNK];
    if (!chunk) {
        chunk = calloc(PORTS_PER_CHUNK, sizeof(*chunk));
        if (!chunk)
            return -ENOMEM;
    }
    if (epoll_ctl(handle->epoll, EPOLL_CTL_ADD, descriptors[0], &event)) {
        if (!handle->chunks[port / PORTS_PER_CHUNK])
            free(chunk);
        return -errno;
    }
    pthread_mutex_lock(&handle->ports_lock);
    chunk[port % PORTS_PER_CHUNK] = (struct bells){descriptors[0], descriptors[1], 1};
    handle->chunks[port / PORTS_PER_CHUNK] = chunk;
    pthread_mutex_unlock(&handle->ports_lock);
    return 0;
}

static int new_port(struct embedded *handle, uint16_t op, uint16_t domid, uint32_t argument)
{
    struct embedded_request request = {.op = op, .domid = domid, .argument = argument};
    struct embedded_reply reply;
    int descriptors[2];
    int result = embedded_transact(handle, &request, NULL, 0, &reply, NULL, 0, descriptors, 2);

    if (result < 0)
        return result;
    if (reply.error)
        return reply.error;
    result = remember(handle, reply.value, descriptors);
    if (result < 0) {
        close(descriptors[0]);
        close(descriptors[1]);
        embedded_call(handle, EMBEDDED_CLOSE_PORT, 0, reply.value);
        return result;
    }
    return (int)reply.value;
}

int embedded_fd(struct embedded *handle)
{
    return handle->epoll;
}

/* A new port that domain `domid` may bind to. */
int embedded_alloc_unbound(struct embedded *handle, uint16_t domid)
{
    return new_port(handle, EMBEDDED_ALLOC_UNBOUND, domid, 0);
}

/* A new port, bound to an unbound port of domain `domid`; it starts pending. */
int embedded_bind_interdomain(struct embedded *handle, uint16_t domid, uint32_t port)
{
    return new_port(handle, EMBEDDED_BIND_INTERDOMAIN, domid, port);
}

static void forget(struct embedded *handle, struct bells *bells)
{
    /* The hypervisor holds the same bell, so closing ours would leave it in the epoll set. */
    epoll_ctl(handle->epoll, EPOLL_CTL_DEL, bells->own, NULL);
    pthread_mutex_lock(&handle->ports_lock);
    close(bells->own);
    close(bells->peer);
    bells->used = 0;
    pthread_mutex_unlock(&handle->ports_lock);
}

int embedded_unbind(struct embedded *handle, uint32_t port)
{
    struct bells *bells = find(handle, port);

    if (!bells)
        return -ENOTCONN;
    forget(handle, bells);
    return embedded_call(handle, EMBEDDED_CLOSE_PORT, 0, port);
}

int embedded_notify(struct embedded *handle, uint32_t port)
{
    struct bells *bells;
    int result = -ENOTCONN;

    pthread_mutex_lock(&handle->ports_lock);
    bells = find(handle, port);
    if (bells)
        result = ring(bells->peer);
    pthread_mutex_unlock(&handle->ports_lock);
    return result;
}

/* Take a pending port, which is masked then; -EAGAIN if there is none. May be spurious. */
int embedded_pending(struct embedded *handle)
{
    struct epoll_event event;
    struct bells *bells;
    uint64_t rung;
    int count;

    do
        count = epoll_wait(handle->epoll, &event, 1, 0);
    while (count < 0 && errno == EINTR);
    if (count < 0)
        return -errno;
    if (count == 0)
        return -EAGAIN;
    bells = find(handle, event.data.u32);
    if (!bells) {
        handle->broken = -EPIPE;
        return -EPIPE;
    }
    if (read(bells->own, &rung, sizeof(rung)) < 0 && errno != EAGAIN)
        return -errno;
    return (int)event.data.u32;
}

int embedded_unmask(struct embedded *handle, uint32_t port)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u32 = port};
    struct bells *bells = find(handle, port);

    if (!bells)
        return -ENOTCONN;
    return epoll_ctl(handle->epoll, EPOLL_CTL_MOD, bells->own, &event) ? -errno : 0;
}

/* Make our own port pending without an event, as Xen does now and then. */
int embedded_cause_spurious(struct embedded *handle, uint32_t port)
{
    struct bells *bells = find(handle, port);

    return bells ? ring(bells->own) : -ENOTCONN;
}

/* Forget all ports without a word to the hypervisor: the connection is about to be closed. */
void embedded_drop_ports(struct embedded *handle)
{
    uint32_t chunk, index;

    for (chunk = 0; chunk < EMBEDDED_PORTS_MAX / PORTS_PER_CHUNK; chunk++) {
        for (index = 0; handle->chunks[chunk] && index < PORTS_PER_CHUNK; index++)
            if (handle->chunks[chunk][index].used)
                forget(handle, &handle->chunks[chunk][index]);
        free(handle->chunks[chunk]);
        handle->chunks[chunk] = NULL;
    }
}
