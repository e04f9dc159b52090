/* SPDX-License-Identifier: MIT */
/* The hypervisor as the backend calls it: real mappings of the guest's memory, and their failures. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "world.h"

static uint8_t *memory;
static int memory_fd = -1;

uint8_t *guest_page(uint32_t number)
{
    return memory + (size_t)number * HV_PAGE_SIZE;
}

/* What a sector of a page holds at first: no other page has it there. */
static uint8_t filling(uint32_t page, uint32_t sector)
{
    return (uint8_t)(page * 4 + sector + 1);
}

void guest_reset(void)
{
    size_t bytes = (size_t)WORLD_PAGES * HV_PAGE_SIZE;

    if (!memory) {
        memory_fd = memfd_create("guest", MFD_CLOEXEC);
        CHECK(memory_fd >= 0 && ftruncate(memory_fd, (off_t)bytes) == 0, "no guest memory");
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
        CHECK(memory != MAP_FAILED, "no guest memory");
    }
    for (uint32_t i = 0; i < WORLD_PAGES * BLKIF_SECTORS_PER_PAGE; i++)
        memset(memory + i * BLKIF_SECTOR, filling(i / 8, i % 8), BLKIF_SECTOR);
}

void guest_check_protected(const struct world *world)
{
    for (uint32_t i = 0; i < WORLD_PAGES * BLKIF_SECTORS_PER_PAGE; i++) {
        const uint8_t *at = memory + i * BLKIF_SECTOR;

        if (world->ever_writable >> (i / 8) & 1)
            continue;
        CHECK(at[0] == filling(i / 8, i % 8) && memcmp(at, at + 1, BLKIF_SECTOR - 1) == 0,
              "page %u was written and never granted for it", i / 8);
    }
}

/* Every call out of the backend: look at what it has done, then let the guest do something. */
void called(struct world *world)
{
    check_ring(world);
    if (world->ignore || !world->reflex.calls || --world->reflex.calls)
        return;
    world_deed(world, world->reflex.deed, true);
    check_ring(world);
}

uint8_t verdict(struct world *world)
{
    return world->verdict[world->calls++ % WORLD_VERDICTS];
}

static int channel_fd(void *context)
{
    return ((const struct world *)context)->event;
}

static int channel_notify(void *context, uint32_t port)
{
    called(context);
    return port == WORLD_PORT ? 0 : -EINVAL;
}

static void events_clear(const struct world *world)
{
    uint64_t count;

    if (read(world->event, &count, sizeof(count)) < 0)
        CHECK(errno == EAGAIN, "eventfd: errno %d", errno);
}

static int channel_pending(void *context)
{
    struct world *world = context;

    if (world->pending_count)
        return (int)world->pending[--world->pending_count];
    events_clear(world);
    return -EAGAIN;
}

static int channel_unmask(void *context, uint32_t port)
{
    called(context);
    CHECK(port == WORLD_PORT, "port %u is not ours to unmask", port);
    return 0;
}

static int16_t grant_status(const struct world *world, uint32_t ref, bool write, bool map)
{
    if (ref >= WORLD_REFS || world->grant[ref].kind == GRANT_NONE)
        return HV_GNT_BAD_GNTREF;
    if (write && world->grant[ref].kind == GRANT_READ_ONLY)
        return HV_GNT_PERMISSION_DENIED;
    return map && world->grant[ref].kind == GRANT_COPY_ONLY ? HV_GNT_GENERAL_ERROR : HV_GNT_OKAY;
}

static int grant_copy(void *context, uint16_t domid, struct hv_copy *elements, uint32_t count)
{
    struct world *world = context;
    bool broken = verdict(world) == 0xff;

    (void)domid;
    called(world);
    for (uint32_t i = 0; i < count && !broken; i++) {
        struct hv_copy *one = &elements[i];
        uint8_t *page;

        CHECK(one->length && one->offset + one->length <= HV_PAGE_SIZE, "copy of %u at %u",
              one->length, one->offset);
        one->status = grant_status(world, one->ref, one->to_guest, false);
        if (one->status != HV_GNT_OKAY)
            continue;
        page = guest_page(world->grant[one->ref].page) + one->offset;
        if (one->to_guest)
            memcpy(page, one->local, one->length);
        else
            memcpy(one->local, page, one->length);
    }
    return broken ? -EFAULT : 0;
}

static void *grant_map(void *context, uint16_t domid, const uint32_t *refs, uint32_t count,
                       int writable, int16_t *statuses)
{
    struct world *world = context;
    size_t bytes = ((size_t)count + 2) * HV_PAGE_SIZE;
    bool good = verdict(world) != 0xff && world->mappings < WORLD_MAPPINGS;
    uint8_t *area;

    (void)domid;
    called(world);
    for (uint32_t i = 0; i < count; i++) {
        statuses[i] = grant_status(world, refs[i], writable, true);
        good = good && statuses[i] == HV_GNT_OKAY;
    }
    errno = EINVAL;
    if (!good)
        return NULL;
    /* A page nobody may touch before and behind. */
    area = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED, "no address space");
    for (uint32_t i = 0; i < count; i++)
        mmap(area + (i + 1) * HV_PAGE_SIZE, HV_PAGE_SIZE, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, memory_fd,
             (off_t)world->grant[refs[i]].page * (off_t)HV_PAGE_SIZE);
    world->mapping[world->mappings++] = (struct mapping){area + HV_PAGE_SIZE, count};
    return area + HV_PAGE_SIZE;
}

static int grant_unmap(void *context, void *address, uint32_t count)
{
    struct world *world = context;

    called(world);
    for (uint32_t i = 0; i < world->mappings; i++) {
        struct mapping *mapping = &world->mapping[i];

        if (mapping->address != address)
            continue;
        CHECK(mapping->count == count, "%u pages mapped, %u given back", mapping->count, count);
        munmap((uint8_t *)address - HV_PAGE_SIZE, ((size_t)count + 2) * HV_PAGE_SIZE);
        *mapping = world->mapping[--world->mappings];
        return 0;
    }
    CHECK(false, "unmapped what is not mapped");
    return -EINVAL;
}

void hypervisor_fill(struct world *world)
{
    world->hv = (struct hv_ops){
        .evtchn = world,
        .gnttab = world,
        .evtchn_fd = channel_fd,
        .notify = channel_notify,
        .pending = channel_pending,
        .unmask = channel_unmask,
        .copy = grant_copy,
        .map = grant_map,
        .unmap = grant_unmap,
    };
    world->config.hv = &world->hv;
}
