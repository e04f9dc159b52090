/* SPDX-License-Identifier: MIT */
/*
 * The host of the double-fetch test: grants and a disk that do next to nothing and look closely at
 * what they are asked for. What a backend may never do, with any content of the ring, is a
 * violation: going outside the disk, a page or its own buffers, using a reference that nobody
 * wrote, writing to a read-only disk.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "blk_flip_internal.h"

void flip_violation(struct flip *flip, const char *what, uint64_t value)
{
    if (__atomic_fetch_add(&flip->violations, 1, __ATOMIC_RELAXED) == 0)
        snprintf(flip->count.first, sizeof(flip->count.first), "%s: %#llx", what,
                 (unsigned long long)value);
}

/* Pages that are followed and preceded by one that cannot be touched. NULL without memory. */
void *flip_guarded(uint64_t bytes)
{
    uint8_t *area = mmap(NULL, bytes + 2 * HV_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                         -1, 0);

    return area == MAP_FAILED ? NULL : area + HV_PAGE_SIZE;
}

static bool granted(uint32_t ref)
{
    return ref >= FLIP_FIRST_REF && ref < FLIP_FIRST_REF + FLIP_PAGES;
}

static int16_t permission(struct flip *flip, uint32_t ref, bool writable)
{
    if (!granted(ref)) {
        if (ref != 0 && ref != 9999 && ref != UINT32_MAX)
            flip_violation(flip, "grant: nobody wrote this reference", ref);
        return HV_GNT_BAD_GNTREF;
    }
    return writable && ref >= FLIP_FIRST_REF + FLIP_PAGES / 2 ? HV_GNT_PERMISSION_DENIED
                                                              : HV_GNT_OKAY;
}

static int evtchn_fd(void *context)
{
    return ((struct flip *)context)->event;
}

static int notify(void *context, uint32_t port)
{
    (void)context;
    (void)port;
    return 0;
}

static int pending(void *context)
{
    struct flip *flip = context;
    uint64_t events;

    if (!__atomic_exchange_n(&flip->rung, 0, __ATOMIC_ACQ_REL))
        return -EAGAIN;
    return read(flip->event, &events, sizeof(events)) < 0 ? -EAGAIN : FLIP_PORT;
}

/* The buffers are one piece of memory, whose place only its use tells. */
static void check_bounce(struct flip *flip, uint8_t *start, uint64_t bytes)
{
    uint8_t *page = (uint8_t *)((uintptr_t)start & ~(uintptr_t)(HV_PAGE_SIZE - 1));

    if (!flip->lowest || page < flip->lowest)
        flip->lowest = page;
    if (start + bytes > flip->highest)
        flip->highest = start + bytes;
    if ((uint64_t)(flip->highest - flip->lowest) > BOUNCE_BYTES)
        flip_violation(flip, "copy: outside of the buffers", (uintptr_t)start);
}

static int copy(void *context, uint16_t domid, struct hv_copy *elements, uint32_t count)
{
    struct flip *flip = context;

    (void)domid;
    flip->count.copies += count;
    for (uint32_t i = 0; i < count; i++) {
        struct hv_copy *one = &elements[i];
        uint8_t *page;

        one->status = HV_GNT_BAD_COPY_ARG;
        if ((uint32_t)one->offset + one->length > HV_PAGE_SIZE || one->length == 0) {
            flip_violation(flip, "copy: beyond the page", one->offset);
            continue;
        }
        check_bounce(flip, one->local, one->length);
        one->status = permission(flip, one->ref, one->to_guest != 0);
        if (one->status != HV_GNT_OKAY)
            continue;
        page = flip->pages + (uint64_t)(one->ref - FLIP_FIRST_REF) * HV_PAGE_SIZE;
        if (one->to_guest)
            memcpy(page + one->offset, one->local, one->length);
        else
            memcpy(one->local, page + one->offset, one->length);
    }
    return 0;
}

static void *map(void *context, uint16_t domid, const uint32_t *refs, uint32_t count,
                 int writable, int16_t *statuses)
{
    struct flip *flip = context;
    struct flip_area *area = NULL;
    bool bad = false;

    (void)domid;
    flip->count.maps++;
    for (uint32_t i = 0; i < count; i++) {
        statuses[i] = permission(flip, refs[i], writable != 0);
        bad |= statuses[i] != HV_GNT_OKAY;
    }
    errno = bad ? EINVAL : ENOMEM;
    if (bad || !(area = calloc(1, sizeof(*area))))
        return NULL;
    area->start = flip_guarded((uint64_t)count * HV_PAGE_SIZE);
    for (uint32_t i = 0; area->start && i < count; i++)
        mmap(area->start + (uint64_t)i * HV_PAGE_SIZE, HV_PAGE_SIZE, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, flip->memory,
             (off_t)(refs[i] - FLIP_FIRST_REF) * HV_PAGE_SIZE);
    area->count = count;
    area->next = flip->areas;
    flip->areas = area;
    flip->count.mapped += count;
    return area->start;
}

static int unmap(void *context, void *address, uint32_t count)
{
    struct flip *flip = context;
    struct flip_area **link = &flip->areas, *area;

    while (*link && (*link)->start != address)
        link = &(*link)->next;
    area = *link;
    if (!area || area->count != count) {
        flip_violation(flip, "unmap: nothing of that kind is mapped", (uintptr_t)address);
        return -EINVAL;
    }
    *link = area->next;
    munmap(area->start - HV_PAGE_SIZE, ((uint64_t)count + 2) * HV_PAGE_SIZE);
    flip->count.mapped -= count;
    free(area);
    return 0;
}

static int unmask(void *context, uint32_t port)
{
    (void)context;
    (void)port;
    return 0;
}

static void check_range(struct flip *flip, uint64_t offset, uint64_t length)
{
    uint64_t size = flip->config.sectors * BLKIF_SECTOR;

    if (offset > size || length > size - offset)
        flip_violation(flip, "disk: outside of it", offset);
    if (length == 0 || offset % BLKIF_SECTOR || length % BLKIF_SECTOR)
        flip_violation(flip, "disk: no whole sectors", length);
}

/* In one mapping or in none; the first and the last byte are really there. */
static void check_memory(struct flip *flip, const struct iovec *vector, bool store)
{
    volatile uint8_t *start = vector->iov_base, *end = start + vector->iov_len;

    for (const struct flip_area *area = flip->areas; area; area = area->next) {
        const uint8_t *limit = area->start + (uint64_t)area->count * HV_PAGE_SIZE;

        if (start < limit && end > area->start && (start < area->start || end > limit))
            flip_violation(flip, "disk: across the end of a mapping", (uintptr_t)start);
    }
    if (store)
        start[0] = end[-1] = 0x5a;
    else
        (void)(start[0] + end[-1]);
}

static ptrdiff_t move(struct flip *flip, const struct iovec *vector, int count, uint64_t offset,
                      bool store)
{
    uint64_t length = 0;

    if (count < 1)
        flip_violation(flip, "disk: nothing to move", (uint64_t)count);
    for (int i = 0; i < count; i++) {
        check_memory(flip, &vector[i], store);
        length += vector[i].iov_len;
    }
    check_range(flip, offset, length);
    return (ptrdiff_t)length;
}

static ptrdiff_t disk_read(void *context, const struct iovec *vector, int count, uint64_t offset,
                           int nowait)
{
    struct flip *flip = context;

    (void)nowait;
    __atomic_fetch_add(&flip->reads, 1, __ATOMIC_RELAXED);
    return move(flip, vector, count, offset, true);
}

static ptrdiff_t disk_write(void *context, const struct iovec *vector, int count, uint64_t offset,
                            int nowait)
{
    struct flip *flip = context;

    (void)nowait;
    __atomic_fetch_add(&flip->writes, 1, __ATOMIC_RELAXED);
    if (flip->config.read_only)
        flip_violation(flip, "disk: written to, and is read-only", offset);
    return move(flip, vector, count, offset, false);
}

static int disk_flush(void *context)
{
    __atomic_fetch_add(&((struct flip *)context)->flushes, 1, __ATOMIC_RELAXED);
    return 0;
}

static int disk_discard(void *context, uint64_t offset, uint64_t length)
{
    struct flip *flip = context;

    __atomic_fetch_add(&flip->discards, 1, __ATOMIC_RELAXED);
    if (flip->config.read_only)
        flip_violation(flip, "disk: discarded from, and is read-only", offset);
    check_range(flip, offset, length);
    return 0;
}

int flip_host_open(struct flip *flip)
{
    flip->ops = (struct hv_ops){flip, flip, evtchn_fd, notify, pending, unmask, copy, map, unmap};
    flip->disk = (struct blk_disk){flip, disk_read, disk_write, disk_flush, disk_discard};
    flip->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    flip->memory = memfd_create("guest", MFD_CLOEXEC);
    if (flip->event < 0 || flip->memory < 0 ||
        ftruncate(flip->memory, FLIP_PAGES * HV_PAGE_SIZE) < 0)
        return -errno;
    flip->pages = mmap(NULL, FLIP_PAGES * HV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                       flip->memory, 0);
    return flip->pages == MAP_FAILED ? -errno : 0;
}

void flip_host_close(struct flip *flip)
{
    if (flip->pages && flip->pages != MAP_FAILED)
        munmap(flip->pages, FLIP_PAGES * HV_PAGE_SIZE);
    close(flip->memory);
    close(flip->event);
}
