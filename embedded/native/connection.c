/* SPDX-License-Identifier: MIT */
/* The connection below a handle: one request, one reply, and the descriptors that come with it. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 2
#define REPLY_TIMEOUT_S 30

/* Connect to the socket of a domain; the descriptor or -errno. */
int embedded_connect(const char *path)
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
