/* SPDX-License-Identifier: MIT */
/*
 * The block data plane's threads under the thread sanitizer: a guest's frontend with a verified
 * load, the backend's ring thread, its I/O threads, and a disk that is slow now and then; both
 * ends are the real ones. The ring thread drops the ring and takes it up again all the time.
 *
 * threads SECONDS. Exit status 0: every block was read back as it was written and no race was
 * seen; the sanitizer ends the process with a status of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "blk_api.h"
#include "blkif.h"
#include "front_api.h"

#define PAGES 64u
#define RING_PAGES 4u
#define DISK_BYTES (1u << 20)
#define STRIPE 4096u
#define PORT 7u
#define GRANTED 1u /* GTF_permit_access */
#define SERVE_MS 10

struct bench {
    uint8_t *memory; /* the guest's; frame n is page n, the ring comes first */
    int memory_fd;
    uint8_t grants[PAGES * 8];
    int to_back, to_front, stop;
    uint8_t disk[DISK_BYTES];
    pthread_mutex_t stripe[DISK_BYTES / STRIPE];
    uint32_t calls;
    struct hv_ops back, front;
    struct blk_disk disk_ops;
    struct blk_config config;
    struct blk_ring_config ring;
    uint32_t connections;
    uint64_t answered;
};

static void fail(const char *what, int error)
{
    fprintf(stderr, "threads: %s: %s\n", what, strerror(error));
    exit(1);
}

static int ring_bell(int fd)
{
    uint64_t one = 1;

    return write(fd, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

static int take_bell(int fd)
{
    uint64_t count;

    return read(fd, &count, sizeof(count)) > 0 ? (int)PORT : -EAGAIN;
}

static int back_fd(void *context)
{
    return ((struct bench *)context)->to_back;
}

static int back_notify(void *context, uint32_t port)
{
    (void)port;
    return ring_bell(((struct bench *)context)->to_front);
}

static int back_pending(void *context)
{
    return take_bell(((struct bench *)context)->to_back);
}

static int unmask(void *context, uint32_t port)
{
    (void)context;
    (void)port;
    return 0;
}

static int front_fd(void *context)
{
    return ((struct bench *)context)->to_front;
}

static int front_notify(void *context, uint32_t port)
{
    (void)port;
    return ring_bell(((struct bench *)context)->to_back);
}

static int front_pending(void *context)
{
    return take_bell(((struct bench *)context)->to_front);
}

/* The frame of a reference, or 0 if it is not granted; the guest writes entries while we read. */
static uint32_t frame_of(struct bench *bench, uint32_t ref)
{
    const uint8_t *entry = bench->grants + (size_t)ref * 8;
    uint16_t flags;

    if (ref >= PAGES)
        return 0;
    flags = __atomic_load_n((const uint16_t *)(const void *)entry, __ATOMIC_ACQUIRE);
    return flags & GRANTED
               ? __atomic_load_n((const uint32_t *)(const void *)(entry + 4), __ATOMIC_RELAXED)
               : 0;
}

static int copy(void *context, uint16_t domid, struct hv_copy *elements, uint32_t count)
{
    struct bench *bench = context;

    (void)domid;
    for (uint32_t i = 0; i < count; i++) {
        struct hv_copy *one = &elements[i];
        uint32_t frame = frame_of(bench, one->ref);
        uint8_t *data = bench->memory + (size_t)frame * HV_PAGE_SIZE + one->offset;

        one->status = frame ? HV_GNT_OKAY : HV_GNT_BAD_GNTREF;
        if (frame)
            memcpy(one->to_guest ? data : one->local, one->to_guest ? one->local : data,
                   one->length);
    }
    return 0;
}

static void *map(void *context, uint16_t domid, const uint32_t *refs, uint32_t count, int writable,
                 int16_t *statuses)
{
    struct bench *bench = context;
    uint8_t *area;

    (void)domid;
    (void)writable;
    for (uint32_t i = 0; i < count; i++)
        statuses[i] = frame_of(bench, refs[i]) ? HV_GNT_OKAY : HV_GNT_BAD_GNTREF;
    area = mmap(NULL, (size_t)count * HV_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return NULL;
    for (uint32_t i = 0; i < count; i++)
        mmap(area + (size_t)i * HV_PAGE_SIZE, HV_PAGE_SIZE, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, bench->memory_fd,
             (off_t)frame_of(bench, refs[i]) * (off_t)HV_PAGE_SIZE);
    return area;
}

static int unmap(void *context, void *address, uint32_t count)
{
    (void)context;
    return munmap(address, (size_t)count * HV_PAGE_SIZE);
}

/* Stripe by stripe, each under its lock: the disk's own order between overlapping requests. */
static ptrdiff_t move(struct bench *bench, const struct iovec *vector, int count, uint64_t offset,
                      bool write)
{
    ptrdiff_t moved = 0;

    for (int i = 0; i < count; i++) {
        for (size_t done = 0; done < vector[i].iov_len;) {
            size_t left = vector[i].iov_len - done, room = STRIPE - offset % STRIPE;
            size_t part = left < room ? left : room;
            uint8_t *data = (uint8_t *)vector[i].iov_base + done;
            pthread_mutex_t *lock = &bench->stripe[offset / STRIPE];

            pthread_mutex_lock(lock);
            memcpy(write ? bench->disk + offset : data, write ? data : bench->disk + offset, part);
            pthread_mutex_unlock(lock);
            done += part;
            offset += part;
            moved += (ptrdiff_t)part;
        }
    }
    return moved;
}

/* Every other call would have to wait, and then does. */
static bool would_block(struct bench *bench)
{
    return __atomic_fetch_add(&bench->calls, 1, __ATOMIC_RELAXED) & 1;
}

static ptrdiff_t disk_read(void *context, const struct iovec *vector, int count, uint64_t offset,
                           int nowait)
{
    return nowait && would_block(context) ? -EAGAIN
                                          : move(context, vector, count, offset, false);
}

static ptrdiff_t disk_write(void *context, const struct iovec *vector, int count, uint64_t offset,
                            int nowait)
{
    return nowait && would_block(context) ? -EAGAIN : move(context, vector, count, offset, true);
}

static int disk_flush(void *context)
{
    (void)context;
    return 0;
}

static int disk_discard(void *context, uint64_t offset, uint64_t length)
{
    (void)context;
    (void)offset;
    (void)length;
    return -EOPNOTSUPP;
}

static struct bench *make_bench(bool persistent, bool journaled)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    if (!bench)
        fail("memory", ENOMEM);
    bench->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    if (bench->memory_fd < 0 || ftruncate(bench->memory_fd, PAGES * HV_PAGE_SIZE))
        fail("guest memory", errno);
    bench->memory = mmap(NULL, PAGES * HV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                         bench->memory_fd, 0);
    bench->to_back = eventfd(0, EFD_NONBLOCK);
    bench->to_front = eventfd(0, EFD_NONBLOCK);
    bench->stop = eventfd(0, EFD_NONBLOCK);
    for (uint32_t i = 0; i < DISK_BYTES / STRIPE; i++)
        pthread_mutex_init(&bench->stripe[i], NULL);
    bench->back = (struct hv_ops){bench, bench, back_fd, back_notify, back_pending,
                                  unmask, copy, map, unmap};
    bench->front = (struct hv_ops){.evtchn = bench,
                                   .evtchn_fd = front_fd,
                                   .notify = front_notify,
                                   .pending = front_pending,
                                   .unmask = unmask};
    bench->disk_ops = (struct blk_disk){bench, disk_read, disk_write, disk_flush, disk_discard};
    bench->config = (struct blk_config){.hv = &bench->back,
                                        .disk = &bench->disk_ops,
                                        .fd = -1,
                                        .sectors = DISK_BYTES / 512,
                                        .sector_size = 512,
                                        .flush = 1,
                                        .engine = BLK_ENGINE_AUTO,
                                        .io_threads = 3,
                                        .poll_us = 20,
                                        .max_persistent = PAGES};
    bench->ring = (struct blk_ring_config){.ring = bench->memory,
                                           .connection = {.order = 2, .remote_port = 5},
                                           .port = PORT,
                                           .persistent = persistent,
                                           .journal_fd = journaled ? memfd_create("journal", 0) : -1,
                                           .journal = journaled};
    return bench;
}

static void *ring_thread(void *argument)
{
    struct bench *bench = argument;
    struct blk_dev *dev = blk_open(&bench->config);
    struct blk_counters counters;
    int reason = BLK_TIMEOUT, error;

    if (!dev)
        fail("blk_open", errno);
    while (reason != BLK_WAKE) {
        error = blk_attach(dev, &bench->ring);
        if (error)
            fail("blk_attach", -error);
        bench->ring.resume = 1;
        bench->connections++;
        reason = blk_run(dev, &bench->stop, 1, SERVE_MS);
        if (reason == BLK_FAULT)
            fail("blk_run", EPROTO);
        error = blk_detach(dev, 20000);
        if (error)
            fail("blk_detach", -error);
    }
    blk_counters(dev, &counters);
    bench->answered = counters.rd_req + counters.wr_req;
    blk_close(dev);
    return NULL;
}

static struct front *make_front(struct bench *bench, bool persistent)
{
    struct front_params params = {.ring = bench->memory,
                                  .order = 2,
                                  .bits = 64,
                                  .grant_entries = bench->grants,
                                  .grant_count = PAGES,
                                  .port = PORT,
                                  .ops = &bench->front,
                                  .persistent = persistent,
                                  .first_index = 0xffffff00u};
    struct front *front = front_open(&params);
    uint8_t *address[PAGES];
    uint32_t number[PAGES];

    if (!front)
        fail("front_open", errno);
    for (uint32_t i = 0; i < PAGES - RING_PAGES; i++) {
        uint32_t flags = GRANTED;

        number[i] = RING_PAGES + i;
        address[i] = bench->memory + (size_t)number[i] * HV_PAGE_SIZE;
        memcpy(bench->grants + number[i] * 8 + 4, &number[i], 4);
        if (persistent)
            memcpy(bench->grants + number[i] * 8, &flags, 2);
    }
    if (front_add_pages(front, address, number, number, PAGES - RING_PAGES))
        fail("front_add_pages", EINVAL);
    return front;
}

static void load(struct bench *bench, struct front *front, double seconds, uint32_t block)
{
    static struct front_result result;
    struct front_config config = {.rw = FRONT_RANDRW,
                                  .read_percent = 50,
                                  .block_size = block,
                                  .depth = 24,
                                  .size = DISK_BYTES,
                                  .runtime_ns = (uint64_t)(seconds * 1e9),
                                  .stall_ns = 20000000000u,
                                  .seed = block,
                                  .table = front_table_new(DISK_BYTES, 512, block),
                                  .readback = 1,
                                  .record_fd = -1};
    int error = front_run(front, &config, &result);

    if (error || result.end != FRONT_END_DONE || result.mismatches || result.errors) {
        fprintf(stderr, "threads: load: %d, end %u, %llu errors, %llu mismatches\n", error,
                result.end, (unsigned long long)result.errors,
                (unsigned long long)result.mismatches);
        exit(1);
    }
    front_table_free(config.table);
    (void)bench;
}

static void run(double seconds, bool persistent, bool journaled)
{
    struct bench *bench = make_bench(persistent, journaled);
    struct front *front = make_front(bench, persistent);
    pthread_t thread;

    if (pthread_create(&thread, NULL, ring_thread, bench))
        fail("thread", errno);
    load(bench, front, seconds / 2, 4096);
    load(bench, front, seconds / 2, 16384);
    ring_bell(bench->stop);
    pthread_join(thread, NULL);
    printf("threads: %s, %s: %llu requests answered over %u connections\n",
           persistent ? "persistent grants" : "grant copies",
           journaled ? "journal" : "ring order", (unsigned long long)bench->answered,
           bench->connections);
    front_close(front);
    munmap(bench->memory, PAGES * HV_PAGE_SIZE);
    close(bench->memory_fd);
    close(bench->to_back);
    close(bench->to_front);
    close(bench->stop);
    if (bench->ring.journal_fd >= 0)
        close(bench->ring.journal_fd);
    free(bench);
}

int main(int count, char **words)
{
    double seconds = count > 1 ? atof(words[1]) : 8;

    for (int way = 0; way < 4; way++)
        run(seconds / 4, way & 1, way & 2);
    return 0;
}
