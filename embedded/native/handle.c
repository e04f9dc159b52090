/* SPDX-License-Identifier: MIT */
/* Handles: open, close, what is asked about domains, and the calls for a data plane. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "shared/native/hv_ops_over.h"

/* Open a handle of domain `domid` at its socket. */
int embedded_open(const char *path, uint16_t domid, struct embedded **out)
{
    /* Asks for no events: a hang-up is always reported, and ends the wait of a poller. */
    struct epoll_event event = {.events = 0, .data.u32 = UINT32_MAX};
    struct embedded *handle = calloc(1, sizeof(*handle));
    int error;

    if (!handle)
        return -ENOMEM;
    handle->domid = domid;
    pthread_mutex_init(&handle->call_lock, NULL);
    pthread_mutex_init(&handle->ports_lock, NULL);
    handle->epoll = -1;
    handle->connection = embedded_connect(path);
    error = handle->connection;
    if (error < 0)
        goto fail;
    handle->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (handle->epoll < 0 ||
        epoll_ctl(handle->epoll, EPOLL_CTL_ADD, handle->connection, &event)) {
        error = -errno;
        goto fail;
    }
    *out = handle;
    return 0;
fail:
    embedded_close(handle);
    return error;
}

/* Close the handle and free it. Mapped areas are gone afterwards. */
void embedded_close(struct embedded *handle)
{
    if (!handle)
        return;
    /* First the memory, then the connection: what is unpinned must not be mapped any more. */
    embedded_drop_grants(handle);
    embedded_drop_ports(handle);
    if (handle->connection >= 0) {
        /* As on Xen, pages and ports are free when closing returns, not a little later. */
        if (handle->used)
            embedded_call(handle, EMBEDDED_RELEASE, 0, 0);
        close(handle->connection);
    }
    if (handle->epoll >= 0)
        close(handle->epoll);
    pthread_mutex_destroy(&handle->ports_lock);
    pthread_mutex_destroy(&handle->call_lock);
    free(handle);
}

/* Create a domain; its id. The caller owns both descriptors. */
int embedded_create_domain(struct embedded *handle, uint16_t wanted, uint32_t pages,
                           const char *name, int *memory, int *lifeline)
{
    struct embedded_request request = {.op = EMBEDDED_CREATE_DOMAIN, .domid = wanted,
                                       .argument = pages, .count = (uint32_t)strlen(name)};
    struct embedded_reply reply;
    int descriptors[2];
    int result = embedded_transact(handle, &request, name, strlen(name), &reply, NULL, 0,
                                   descriptors, 2);

    if (result < 0)
        return result;
    if (reply.error)
        return reply.error;
    *memory = descriptors[0];
    *lifeline = descriptors[1];
    return (int)reply.value;
}

/* Ask for a text (LIST_DOMAINS, STATS); its length. */
int embedded_query(struct embedded *handle, uint16_t op, char *text, uint32_t size)
{
    struct embedded_request request = {.op = op};
    struct embedded_reply reply;
    int result = embedded_transact(handle, &request, NULL, 0, &reply, text, size, NULL, 0);

    if (result < 0)
        return result;
    return reply.error ? reply.error : result;
}

HV_OPS_OVER(embedded_fill_ops, embedded, embedded)
