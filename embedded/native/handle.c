/* SPDX-License-Identifier: MIT */
/* Handles: connect, ask, answer, close. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "shared/native/hv_ops_over.h"

#define DESCRIPTORS_MAX 2
#define REPLY_TIMEOUT_S 30

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    /* A hypervisor that hangs must not hang its clients forever. */
    struct timeval timeout = {.tv_sec = REPLY_TIMEOUT_S};
    int fd, error;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) ||
        connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

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
    handle->connection = connect_to(path);
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

static int take_descriptors(struct msghdr *message, int *descriptors)
{
    struct cmsghdr *header;
    int count = 0;

    for (header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(descriptors, CMSG_DATA(header), (size_t)count * sizeof(int));
    }
    return count;
}

static ssize_t receive(struct embedded *handle, struct embedded_reply *reply, void *answer,
                       size_t answer_size, int *descriptors, int *count)
{
    union {
        char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec parts[2] = {{reply, sizeof(*reply)}, {answer, answer_size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = answer ? 2 : 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t got;

    do
        got = recvmsg(handle->connection, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    *count = 0;
    if (got < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -EPIPE;
    if (got == 0)
        return -EPIPE;
    *count = take_descriptors(&message, descriptors);
    if ((size_t)got < sizeof(*reply) || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return -EPROTO;
    return got - (ssize_t)sizeof(*reply);
}

static int exchange(struct embedded *handle, struct msghdr *request, struct embedded_reply *reply,
                    void *answer, size_t answer_size, int *descriptors, int expected)
{
    int taken[DESCRIPTORS_MAX], count = 0;
    ssize_t got;

    do
        got = sendmsg(handle->connection, request, MSG_NOSIGNAL);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -EPIPE;
    got = receive(handle, reply, answer, answer_size, taken, &count);
    if (got >= 0 && count == (reply->error ? 0 : expected)) {
        if (count)
            memcpy(descriptors, taken, (size_t)count * sizeof(int));
        return (int)got;
    }
    while (count > 0)
        close(taken[--count]);
    return got < 0 ? (int)got : -EPROTO;
}

/*
 * Send a request and wait for its reply: bytes of answer that came, or -errno of the transport,
 * after which the handle is broken. What the hypervisor says is in reply->error; the descriptors
 * come if and only if that is 0.
 */
int embedded_transact(struct embedded *handle, const struct embedded_request *request,
                      const void *payload, size_t payload_size, struct embedded_reply *reply,
                      void *answer, size_t answer_size, int *descriptors, int expected)
{
    struct iovec parts[2] = {{(void *)(uintptr_t)request, sizeof(*request)},
                             {(void *)(uintptr_t)payload, payload_size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = payload_size ? 2 : 1};
    int result;

    pthread_mutex_lock(&handle->call_lock);
    result = handle->broken;
    if (!result) {
        result = exchange(handle, &message, reply, answer, answer_size, descriptors, expected);
        if (result < 0)
            handle->broken = result;
    }
    pthread_mutex_unlock(&handle->call_lock);
    return result;
}

/* A request without payload or descriptors; its value or -errno. */
int embedded_call(struct embedded *handle, uint16_t op, uint16_t domid, uint32_t argument)
{
    struct embedded_request request = {.op = op, .domid = domid, .argument = argument};
    struct embedded_reply reply;
    int result = embedded_transact(handle, &request, NULL, 0, &reply, NULL, 0, NULL, 0);

    if (result < 0)
        return result;
    return reply.error ? reply.error : (int)reply.value;
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
