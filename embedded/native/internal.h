/* SPDX-License-Identifier: MIT */
/* What a handle of the embedded hypervisor consists of, and what its parts ask of each other. */
#ifndef XENBACKD_EMBEDDED_INTERNAL_H
#define XENBACKD_EMBEDDED_INTERNAL_H

#include <pthread.h>
#include <stddef.h>

#include "embedded.h"

#define PORTS_PER_CHUNK 1024u

/* Both bells of one channel: we read our own and write the peer's. */
struct bells {
    int own;
    int peer;
    int used;
};

/* A domain's whole memory in this process, for copies; kept until it is known dead. */
struct attachment {
    struct attachment *next;
    uint8_t *base;
    uint64_t serial;
    uint32_t pages;
    uint32_t entries;
    int memory;
    uint16_t domid;
};

/* One mapped area. */
struct area {
    struct area *next;
    void *address;
    uint32_t count;
    uint32_t id;
};

struct embedded {
    int connection;
    int epoll;
    int broken; /* 0 or the -errno that every later call returns */
    int used;   /* ever had a port or a mapping */
    uint16_t domid;
    pthread_mutex_t call_lock;  /* one request under way at a time */
    pthread_mutex_t ports_lock; /* notify() against bind and unbind */
    struct bells *chunks[EMBEDDED_PORTS_MAX / PORTS_PER_CHUNK];
    struct attachment *attachments;
    struct area *areas;
};

/* connection.c */
int embedded_connect(const char *path);
int embedded_transact(struct embedded *handle, const struct embedded_request *request,
                      const void *payload, size_t payload_size, struct embedded_reply *reply,
                      void *answer, size_t answer_size, int *descriptors, int expected);

/* channels.c */
void embedded_drop_ports(struct embedded *handle);

/* grants.c */
void embedded_drop_grants(struct embedded *handle);

#endif
