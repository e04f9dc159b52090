/* SPDX-License-Identifier: MIT */
/*
 * The disk behind a device: a regular file or a block device, by its descriptor. And how a request
 * runs to its end, which is the same in the ring thread and in an I/O thread.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "blk_internal.h"

static ptrdiff_t fd_read(void *context, const struct iovec *vector, int count, uint64_t offset,
                         int nowait)
{
    const struct fd_disk *disk = context;
    int flags = nowait && !disk->reads_never_block ? RWF_NOWAIT : 0;
    ssize_t got = preadv2(disk->fd, vector, count, (off_t)offset, flags);

    return got < 0 ? -errno : got;
}

static ptrdiff_t fd_write(void *context, const struct iovec *vector, int count, uint64_t offset,
                          int nowait)
{
    const struct fd_disk *disk = context;
    ssize_t put = pwritev2(disk->fd, vector, count, (off_t)offset, nowait ? RWF_NOWAIT : 0);

    return put < 0 ? -errno : put;
}

static int fd_flush(void *context)
{
    const struct fd_disk *disk = context;

    return fdatasync(disk->fd) < 0 ? -errno : 0;
}

static int fd_discard(void *context, uint64_t offset, uint64_t length)
{
    const struct fd_disk *disk = context;
    uint64_t range[2] = {offset, length};
    int result;

    if (disk->is_block)
        result = ioctl(disk->fd, BLKDISCARD, range);
    else
        result = fallocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                           (off_t)length);
    return result < 0 ? -errno : 0;
}

int fd_disk_open(struct fd_disk *disk, int fd, struct blk_disk *out)
{
    struct stat status;
    struct statfs system;

    if (fstat(fd, &status) < 0 || fstatfs(fd, &system) < 0)
        return -errno;
    disk->fd = fd;
    disk->is_block = S_ISBLK(status.st_mode);
    /* Memory file systems do not know RWF_NOWAIT, and have nothing to wait for. */
    disk->reads_never_block =
        !disk->is_block && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
    *out = (struct blk_disk){disk, fd_read, fd_write, fd_flush, fd_discard};
    return 0;
}

/* Move the whole vector, however many calls that takes. 0, an errno, or -1: the disk ended. */
static int move(const struct blk_disk *disk, struct request *request)
{
    struct iovec *vector = request->vector;
    int count = request->vectors;
    uint64_t offset = request->offset, left = request->length;

    while (left) {
        ptrdiff_t moved = request->operation == BLKIF_OP_READ
                              ? disk->read(disk->context, vector, count, offset, 0)
                              : disk->write(disk->context, vector, count, offset, 0);
        if (moved == -EINTR)
            continue;
        if (moved < 0)
            return (int)-moved;
        if (moved == 0 || (uint64_t)moved > left)
            return -1;
        left -= (uint64_t)moved;
        offset += (uint64_t)moved;
        while (count && (size_t)moved >= vector->iov_len) {
            moved -= (ptrdiff_t)vector->iov_len;
            vector++;
            count--;
        }
        if (count) {
            vector->iov_base = (uint8_t *)vector->iov_base + moved;
            vector->iov_len -= (size_t)moved;
        }
    }
    return 0;
}

/* Run the request, blocking as long as it takes. 0, an errno, or -1: the disk ended early. */
int disk_run(const struct blk_disk *disk, struct request *request)
{
    switch (request->operation) {
    case BLKIF_OP_FLUSH_DISKCACHE:
        return -disk->flush(disk->context);
    case BLKIF_OP_DISCARD:
        return -disk->discard(disk->context, request->offset, request->length);
    default:
        return move(disk, request);
    }
}
