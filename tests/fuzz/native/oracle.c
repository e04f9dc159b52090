/* SPDX-License-Identifier: MIT */
/* The second reading of a request, see oracle.h. */
#include "oracle.h"

#include <string.h>

static uint64_t number(const uint8_t *from, size_t bytes)
{
    uint64_t value = 0;

    for (size_t i = bytes; i-- > 0;)
        value = value << 8 | from[i];
    return value;
}

static bool inside(const struct blk_config *config, const struct oracle_request *request)
{
    unsigned __int128 end = (unsigned __int128)request->sector + request->count;

    return end <= config->sectors && request->sector * 512 % config->sector_size == 0 &&
           request->count * 512 % config->sector_size == 0;
}

static int16_t read_data(const struct blk_config *config, struct oracle_request *request,
                         const uint8_t *segments, uint8_t count)
{
    if (count == 0 || count > BLKIF_MAX_SEGMENTS)
        return BLKIF_RSP_ERROR;
    if (request->operation == BLKIF_OP_WRITE && config->read_only)
        return BLKIF_RSP_ERROR;
    for (uint8_t i = 0; i < count; i++) {
        struct oracle_segment *segment = &request->segment[i];

        segment->ref = (uint32_t)number(segments + 8 * i, 4);
        segment->first = segments[8 * i + 4];
        segment->last = segments[8 * i + 5];
        if (segment->last > 7 || segment->first > segment->last)
            return BLKIF_RSP_ERROR;
        request->count += 1u + segment->last - segment->first;
    }
    request->segments = count;
    return inside(config, request) ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR;
}

static int16_t read_discard(const struct blk_config *config, struct oracle_request *request,
                            uint64_t count, uint8_t flag)
{
    if (!config->discard)
        return BLKIF_RSP_EOPNOTSUPP;
    request->count = count;
    if (config->read_only || flag || !count || !inside(config, request))
        return BLKIF_RSP_ERROR;
    return BLKIF_RSP_OKAY;
}

struct oracle_request oracle_read(const struct blk_config *config, bool layout32,
                                  const uint8_t *slot)
{
    size_t id = layout32 ? 4 : 8, sector = layout32 ? 12 : 16, rest = layout32 ? 20 : 24;
    struct oracle_request request = {
        .id = number(slot + id, 8),
        .sector = number(slot + sector, 8),
        .operation = slot[0],
    };

    switch (request.operation) {
    case BLKIF_OP_READ:
    case BLKIF_OP_WRITE:
        request.status = read_data(config, &request, slot + rest, slot[1]);
        break;
    case BLKIF_OP_FLUSH_DISKCACHE:
        request.status = !config->flush ? BLKIF_RSP_EOPNOTSUPP
                         : slot[1]      ? BLKIF_RSP_ERROR
                                        : BLKIF_RSP_OKAY;
        break;
    case BLKIF_OP_DISCARD:
        request.status = read_discard(config, &request, number(slot + rest, 8), slot[1]);
        break;
    default:
        request.status = BLKIF_RSP_EOPNOTSUPP;
    }
    return request;
}
