/* SPDX-License-Identifier: MIT */
/*
 * From the private copy of a request to a checked one. The guest wrote everything in `untrusted`. A
 * request that breaks a rule is answered with an error and counted. That is no fault of the ring:
 * frontends probe for features that way.
 */
#include <string.h>

#include "blk_internal.h"

static uint64_t get64(const uint8_t *untrusted)
{
    uint64_t value;
    memcpy(&value, untrusted, sizeof(value));
    return value;
}

static uint32_t get32(const uint8_t *untrusted)
{
    uint32_t value;
    memcpy(&value, untrusted, sizeof(value));
    return value;
}

static int16_t refuse(uint64_t *counter, int16_t status)
{
    ++*counter;
    return status;
}

/* Range in 512-byte units within the disk; subtraction only, so nothing can wrap. */
static bool in_range(const struct blk_dev *dev, uint64_t sector, uint64_t count)
{
    return sector <= dev->config.sectors && count <= dev->config.sectors - sector;
}

static int16_t set_range(struct blk_dev *dev, struct request *request, uint64_t sector,
                         uint64_t count)
{
    uint64_t unit = dev->config.sector_size / BLKIF_SECTOR;

    if (!in_range(dev, sector, count))
        return refuse(&dev->count.bad_range, BLKIF_RSP_ERROR);
    if (sector % unit || count % unit)
        return refuse(&dev->count.bad_alignment, BLKIF_RSP_ERROR);
    request->offset = sector * BLKIF_SECTOR;
    request->length = count * BLKIF_SECTOR;
    return BLKIF_RSP_OKAY;
}

static int16_t parse_data(struct blk_dev *dev, const uint8_t *untrusted, struct request *request)
{
    const struct blkif_layout *layout = dev->layout;
    uint8_t segments = untrusted[1];
    uint64_t sectors = 0;

    if (request->operation == BLKIF_OP_WRITE && dev->config.read_only)
        return refuse(&dev->count.read_only, BLKIF_RSP_ERROR);
    if (segments < 1 || segments > BLKIF_MAX_SEGMENTS)
        return refuse(&dev->count.bad_segments, BLKIF_RSP_ERROR);
    for (uint32_t i = 0; i < segments; i++) {
        const uint8_t *raw = untrusted + layout->segments + 8 * i;
        struct segment *segment = &request->segment[i];
        uint8_t first = raw[4], last = raw[5];

        if (first > last || last >= BLKIF_SECTORS_PER_PAGE)
            return refuse(&dev->count.bad_segments, BLKIF_RSP_ERROR);
        segment->ref = get32(raw);
        segment->offset = (uint16_t)(first * BLKIF_SECTOR);
        segment->length = (uint16_t)((last - first + 1u) * BLKIF_SECTOR);
        segment->data = NULL;
        segment->bounced = false;
        sectors += last - first + 1u;
    }
    request->segments = segments;
    return set_range(dev, request, get64(untrusted + layout->sector), sectors);
}

static int16_t parse_flush(struct blk_dev *dev, const uint8_t *untrusted)
{
    if (!dev->config.flush)
        return refuse(&dev->count.bad_operation, BLKIF_RSP_EOPNOTSUPP);
    /* Without segments its sector means nothing. With segments blkif.h does not define it. */
    if (untrusted[1] != 0)
        return refuse(&dev->count.bad_segments, BLKIF_RSP_ERROR);
    return BLKIF_RSP_OKAY;
}

static int16_t parse_discard(struct blk_dev *dev, const uint8_t *untrusted,
                             struct request *request)
{
    const struct blkif_layout *layout = dev->layout;
    uint64_t count = get64(untrusted + layout->segments);

    if (!dev->config.discard)
        return refuse(&dev->count.bad_operation, BLKIF_RSP_EOPNOTSUPP);
    if (dev->config.read_only)
        return refuse(&dev->count.read_only, BLKIF_RSP_ERROR);
    /* Byte 1 is the flag here; secure discard is not offered. */
    if (untrusted[1] != 0 || count == 0)
        return refuse(&dev->count.bad_discard, BLKIF_RSP_ERROR);
    return set_range(dev, request, get64(untrusted + layout->sector), count);
}

/* Fill `request` in; BLKIF_RSP_OKAY if it may run, otherwise the answer it gets. */
int16_t request_parse(struct blk_dev *dev, const uint8_t *untrusted, struct request *request)
{
    request->id = get64(untrusted + dev->layout->id);
    request->operation = untrusted[0];
    request->offset = request->length = 0;
    request->segments = request->vectors = 0;
    request->error = 0;
    request->bounce = -1;
    request->next = NULL;
    switch (request->operation) {
    case BLKIF_OP_READ:
    case BLKIF_OP_WRITE:
        return parse_data(dev, untrusted, request);
    case BLKIF_OP_FLUSH_DISKCACHE:
        return parse_flush(dev, untrusted);
    case BLKIF_OP_DISCARD:
        return parse_discard(dev, untrusted, request);
    default:
        return refuse(&dev->count.bad_operation, BLKIF_RSP_EOPNOTSUPP);
    }
}
