/* SPDX-License-Identifier: MIT */
/*
 * A RAM disk behind a ring, in a thread of this process: shows what the frontend alone costs,
 * and makes faults on order to prove that the generator finds them. It trusts its frontend and is
 * no model of a backend; it only checks that a page is granted to it in the right way.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "shared/native/barrier.h"
#include "front.h"

struct loopback {
    struct loopback_params params;
    struct blkif_layout layout;
    struct hv_ops ops;
    pthread_t thread;
    int running;
    int stop;
    int to_front;
    int to_back;
    uint32_t slots, req_cons, rsp_prod;
    uint64_t requests, reads, writes, responses;
    uint8_t *disk;
};

static int bell_fd(void *evtchn)
{
    return ((struct loopback *)evtchn)->to_front;
}

static int ring_bell(int fd)
{
    uint64_t one = 1;
    return write(fd, &one, sizeof one) == sizeof one ? 0 : -errno;
}

static int bell_notify(void *evtchn, uint32_t port)
{
    (void)port;
    return ring_bell(((struct loopback *)evtchn)->to_back);
}

static int bell_pending(void *evtchn)
{
    uint64_t count;
    return read(((struct loopback *)evtchn)->to_front, &count, sizeof count) > 0 ? 1 : -EAGAIN;
}

static int bell_unmask(void *evtchn, uint32_t port)
{
    (void)evtchn;
    (void)port;
    return 0;
}

static volatile uint32_t *index_at(const struct loopback *loop, uint32_t offset)
{
    return (volatile uint32_t *)(void *)(loop->params.ring + offset);
}

static int nth(uint64_t count, uint32_t n)
{
    return n && count % n == 0;
}

static uint8_t *granted(const struct loopback *loop, uint32_t ref, int write)
{
    uint16_t flags;
    uint32_t frame;
    if (ref >= loop->params.grant_count)
        return NULL;
    const uint8_t *entry = loop->params.grant_entries + (size_t)ref * 8;
    memcpy(&flags, entry, 2);
    memcpy(&frame, entry + 4, 4);
    if (!(flags & 1) || (!write && flags & 4) || frame >= loop->params.memory_pages)
        return NULL;
    return loop->params.memory + (size_t)frame * HV_PAGE_SIZE;
}

/* Move one segment; the faults are decided per request by the caller. */
static void move(struct loopback *loop, uint8_t *page, uint64_t sector, uint32_t bytes, int write,
                 int fault)
{
    uint8_t *disk = loop->disk + sector * BLKIF_SECTOR;
    const struct loopback_params *params = &loop->params;
    if (write && fault && nth(loop->writes, params->lose_write))
        return;
    if (write && fault && nth(loop->writes, params->tear_write))
        bytes /= 2;
    if (!write && fault && nth(loop->reads, params->misplace_read))
        disk = loop->disk + (sector + bytes / BLKIF_SECTOR) % params->sectors * BLKIF_SECTOR;
    memcpy(write ? disk : page, write ? page : disk, bytes);
}

static int serve_data(struct loopback *loop, const uint8_t *slot, int write)
{
    const uint8_t *segment = slot + loop->layout.segments;
    uint64_t sector;
    memcpy(&sector, slot + loop->layout.sector, 8);
    *(write ? &loop->writes : &loop->reads) += 1;
    for (uint32_t i = 0; i < slot[1]; i++, segment += 8) {
        uint32_t ref;
        uint32_t sectors = (uint32_t)segment[5] - segment[4] + 1;
        memcpy(&ref, segment, 4);
        uint8_t *page = granted(loop, ref, write);
        if (loop->requests == loop->params.keep)
            __atomic_fetch_or((uint16_t *)(void *)(loop->params.grant_entries + (size_t)ref * 8), 8,
                              __ATOMIC_SEQ_CST);
        if (!page || sector + sectors > loop->params.sectors)
            return BLKIF_RSP_ERROR;
        move(loop, page + segment[4] * BLKIF_SECTOR, sector, sectors * BLKIF_SECTOR, write, i == 0);
        sector += sectors;
    }
    return BLKIF_RSP_OKAY;
}

static int serve(struct loopback *loop, const uint8_t *slot)
{
    uint64_t sector, count;
    if (nth(loop->requests, loop->params.fail))
        return BLKIF_RSP_ERROR;
    switch (slot[0]) {
    case BLKIF_OP_READ:
    case BLKIF_OP_WRITE:
        return serve_data(loop, slot, slot[0] == BLKIF_OP_WRITE);
    case BLKIF_OP_FLUSH_DISKCACHE:
        return BLKIF_RSP_OKAY;
    case BLKIF_OP_DISCARD:
        memcpy(&sector, slot + loop->layout.sector, 8);
        memcpy(&count, slot + loop->layout.segments, 8);
        if (sector + count > loop->params.sectors)
            return BLKIF_RSP_ERROR;
        memset(loop->disk + sector * BLKIF_SECTOR, 0, count * BLKIF_SECTOR);
        return BLKIF_RSP_OKAY;
    default:
        return BLKIF_RSP_EOPNOTSUPP;
    }
}

static void respond(struct loopback *loop, uint64_t id, uint8_t operation, int status)
{
    uint8_t *slot = loop->params.ring + RING_HEADER +
                    (size_t)(loop->rsp_prod++ & (loop->slots - 1)) * loop->layout.slot;
    int16_t value = (int16_t)status;
    memset(slot, 0, loop->layout.response);
    memcpy(slot, &id, 8);
    slot[8] = operation;
    memcpy(slot + 10, &value, 2);
    loop->responses++;
}

static void publish(struct loopback *loop, uint32_t old)
{
    uint32_t new = loop->rsp_prod;
    if (new == old)
        return;
    store_release32(index_at(loop, RING_RSP_PROD), new);
    full_barrier();
    if ((uint32_t)(new - load_acquire32(index_at(loop, RING_RSP_EVENT))) < (uint32_t)(new - old))
        ring_bell(loop->to_front);
}

static int serve_all(struct loopback *loop)
{
    uint32_t produced = load_acquire32(index_at(loop, RING_REQ_PROD));
    uint32_t old = loop->rsp_prod;
    int work = produced != loop->req_cons;
    while (loop->req_cons != produced) {
        uint8_t slot[112];
        uint64_t id;
        memcpy(slot,
               loop->params.ring + RING_HEADER +
                   (size_t)(loop->req_cons++ & (loop->slots - 1)) * loop->layout.slot,
               loop->layout.slot);
        memcpy(&id, slot + loop->layout.id, 8);
        loop->requests++;
        if (loop->params.swallow && loop->requests > loop->params.swallow)
            continue;
        respond(loop, id, slot[0], serve(loop, slot));
        if (loop->responses == loop->params.repeat)
            respond(loop, id, slot[0], BLKIF_RSP_OKAY);
    }
    publish(loop, old);
    return work;
}

static void *loop_main(void *argument)
{
    struct loopback *loop = argument;
    uint64_t idle_since = front_now();
    while (!__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE)) {
        if (serve_all(loop)) {
            idle_since = front_now();
            continue;
        }
        if (front_now() - idle_since < loop->params.poll_ns) {
            cpu_relax();
            continue;
        }
        store_release32(index_at(loop, RING_REQ_EVENT), loop->req_cons + 1);
        full_barrier();
        if (serve_all(loop))
            continue;
        struct pollfd wait = {.fd = loop->to_back, .events = POLLIN};
        uint64_t count;
        if (poll(&wait, 1, -1) > 0 && read(loop->to_back, &count, sizeof count) < 0)
            break;
        idle_since = front_now();
    }
    return NULL;
}

struct loopback *loopback_start(const struct loopback_params *params)
{
    struct loopback *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->params = *params;
    loop->layout = params->bits == 64 ? BLKIF_64 : BLKIF_32;
    loop->slots = blkif_ring_slots(&loop->layout, params->order);
    loop->req_cons = loop->rsp_prod = load_acquire32(index_at(loop, RING_RSP_PROD));
    loop->to_front = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->to_back = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->disk = calloc(params->sectors, BLKIF_SECTOR);
    loop->ops = (struct hv_ops){.evtchn = loop,
                                .evtchn_fd = bell_fd,
                                .notify = bell_notify,
                                .pending = bell_pending,
                                .unmask = bell_unmask};
    if (loop->to_front < 0 || loop->to_back < 0 || !loop->disk ||
        pthread_create(&loop->thread, NULL, loop_main, loop)) {
        loopback_stop(loop);
        return NULL;
    }
    loop->running = 1;
    return loop;
}

void loopback_stop(struct loopback *loop)
{
    if (!loop)
        return;
    __atomic_store_n(&loop->stop, 1, __ATOMIC_RELEASE);
    if (loop->running) {
        ring_bell(loop->to_back);
        pthread_join(loop->thread, NULL);
    }
    if (loop->to_front >= 0)
        close(loop->to_front);
    if (loop->to_back >= 0)
        close(loop->to_back);
    free(loop->disk);
    free(loop);
}

uint8_t *loopback_disk(struct loopback *loop)
{
    return loop->disk;
}

const struct hv_ops *loopback_ops(struct loopback *loop)
{
    return &loop->ops;
}
