/* SPDX-License-Identifier: MIT */
/*
 * Neighbouring requests as one call to the disk. A guest cuts a large I/O into requests of 44 KiB
 * that follow each other in the ring; put together again they cost one system call.
 *
 * Only for what the ring thread does itself. A merged call decides nothing about errors: requests
 * that it moved completely are done, the others run by themselves, each with an outcome of its own.
 */
#include <errno.h>

#include "blk_internal.h"

/* The first answer waits for the whole call, so it must be short: some 40 us of copying. */
#define MERGE_BYTES (256u * 1024u)
#define MERGE_VECTORS 128

static bool follows(const struct request *before, const struct request *request)
{
    return request->status == BLKIF_RSP_OKAY && request->operation == before->operation &&
           request->offset == before->offset + before->length;
}

/* How many requests from the first on are one piece of the disk; at least 1. */
uint32_t merge_length(const struct blk_dev *dev, struct request *const *batch, uint32_t count)
{
    bool reads = batch[0]->operation == BLKIF_OP_READ;
    uint64_t bytes = batch[0]->length;
    int vectors = batch[0]->vectors;
    uint32_t length = 1;

    if (!moves_data(batch[0]) || dev->config.engine != BLK_ENGINE_AUTO ||
        dev->config.direct_io || (reads && !dev->nowait_reads))
        return 1;
    while (length < count && follows(batch[length - 1], batch[length])) {
        bytes += batch[length]->length;
        vectors += batch[length]->vectors;
        if (bytes > MERGE_BYTES || vectors > MERGE_VECTORS)
            break;
        length++;
    }
    return length;
}

static int gather(struct request *const *batch, uint32_t count, struct iovec *vector)
{
    int used = 0;

    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t v = 0; v < batch[i]->vectors; v++) {
            const struct iovec *next = &batch[i]->vector[v];
            struct iovec *last = used ? &vector[used - 1] : NULL;

            if (last && (uint8_t *)last->iov_base + last->iov_len == (uint8_t *)next->iov_base)
                last->iov_len += next->iov_len;
            else
                vector[used++] = *next;
        }
    }
    return used;
}

/* Run requests that are one piece of the disk. How many of them, from the first on, are done. */
uint32_t merge_run(struct blk_dev *dev, struct request *const *batch, uint32_t count)
{
    const struct blk_disk *disk = &dev->disk;
    struct iovec vector[MERGE_VECTORS];
    int vectors = gather(batch, count, vector);
    bool reads = batch[0]->operation == BLKIF_OP_READ;
    bool *nowait = reads ? &dev->nowait_reads : &dev->nowait_writes;
    ptrdiff_t moved = -EOPNOTSUPP;
    uint32_t done = 0;

    if (*nowait)
        moved = (reads ? disk->read : disk->write)(disk->context, vector, vectors,
                                                   batch[0]->offset, 1);
    if (moved == -EOPNOTSUPP) {
        *nowait = false;
        if (reads)
            return 0;
        moved = disk->write(disk->context, vector, vectors, batch[0]->offset, 0);
    }
    while (done < count && moved >= (ptrdiff_t)batch[done]->length)
        moved -= (ptrdiff_t)batch[done++]->length;
    dev->count.merged += done;
    return done;
}
