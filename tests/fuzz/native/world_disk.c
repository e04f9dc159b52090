/* SPDX-License-Identifier: MIT */
/* The disk as the backend calls it: in memory, and ending a call in every way a disk can. */
#include <errno.h>

#include "world.h"

static bool within(const uint8_t *data, size_t length, const uint8_t *area, size_t bytes)
{
    return data >= area && length <= bytes && data + length <= area + bytes;
}

static void check_vector(const struct world *world, const struct iovec *one)
{
    const uint8_t *data = one->iov_base;

    if (within(data, one->iov_len, world->dev->bounce.memory, (size_t)BOUNCE_MAX * BOUNCE_BYTES))
        return;
    for (uint32_t i = 0; i < world->mappings; i++) {
        if (within(data, one->iov_len, world->mapping[i].address,
                   (size_t)world->mapping[i].count * HV_PAGE_SIZE))
            return;
    }
    CHECK(false, "I/O of %zu bytes to memory that is neither mapped nor a buffer", one->iov_len);
}

/* How a call ends: -errno, or the bytes it may move at most. */
static ptrdiff_t outcome(struct world *world, size_t bytes, int nowait)
{
    uint8_t how = verdict(world);
    bool was_interrupted = world->interrupted;

    world->interrupted = false;
    if (how < 128)
        return (ptrdiff_t)bytes;
    if (how < 192)
        return (ptrdiff_t)(bytes * (how - 128u) / 64u);
    if (how < 208)
        return nowait ? -EAGAIN : -EIO;
    if (how < 224)
        return nowait ? -EOPNOTSUPP : -ENOSPC;
    if (how < 240 && !nowait && !was_interrupted) {
        world->interrupted = true;
        return -EINTR;
    }
    return how < 240 ? (ptrdiff_t)bytes : -EIO;
}

static ptrdiff_t disk_move(struct world *world, const struct iovec *vector, int count,
                           uint64_t offset, int nowait, bool write)
{
    uint64_t size = world->config.sectors * BLKIF_SECTOR;
    size_t bytes = 0, done = 0;
    ptrdiff_t limit;

    called(world);
    for (int i = 0; i < count; i++) {
        check_vector(world, &vector[i]);
        bytes += vector[i].iov_len;
    }
    CHECK(count > 0 && bytes > 0, "I/O of nothing");
    CHECK(offset <= size && bytes <= size - offset, "I/O of %zu bytes at %llu of %llu", bytes,
          (unsigned long long)offset, (unsigned long long)size);
    CHECK(!write || !world->config.read_only, "write to a read-only disk");
    limit = outcome(world, bytes, nowait);
    for (int i = 0; i < count && limit > (ptrdiff_t)done; i++) {
        size_t left = (size_t)limit - done;
        size_t part = vector[i].iov_len < left ? vector[i].iov_len : left;

        if (write)
            memcpy(world->disk + offset + done, vector[i].iov_base, part);
        else
            memcpy(vector[i].iov_base, world->disk + offset + done, part);
        done += part;
    }
    return limit;
}

static ptrdiff_t disk_read(void *context, const struct iovec *vector, int count, uint64_t offset,
                           int nowait)
{
    return disk_move(context, vector, count, offset, nowait, false);
}

static ptrdiff_t disk_write(void *context, const struct iovec *vector, int count, uint64_t offset,
                            int nowait)
{
    return disk_move(context, vector, count, offset, nowait, true);
}

static int disk_flush(void *context)
{
    struct world *world = context;

    called(world);
    CHECK(world->config.flush, "flush is not offered");
    return verdict(world) < 192 ? 0 : -EIO;
}

static int disk_discard(void *context, uint64_t offset, uint64_t length)
{
    struct world *world = context;
    uint64_t size = world->config.sectors * BLKIF_SECTOR;
    uint8_t how = verdict(world);

    called(world);
    CHECK(length && offset <= size && length <= size - offset, "discard of %llu at %llu",
          (unsigned long long)length, (unsigned long long)offset);
    CHECK(world->config.discard && !world->config.read_only, "discard is not offered");
    if (how >= 128)
        return how < 192 ? -EOPNOTSUPP : -EIO;
    memset(world->disk + offset, 0, length);
    return 0;
}

void disk_fill(struct world *world)
{
    world->disk_ops = (struct blk_disk){world, disk_read, disk_write, disk_flush, disk_discard};
    world->config.disk = &world->disk_ops;
}
